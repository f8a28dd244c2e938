"""The nets that `bench.cuda` measures, in PyTorch: their shapes are those of the papers, their weights random."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 around a shortcut (He et al., 2015)."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = 4 * width
        self.body = nn.Sequential(
            _conv(channels, width, 1), nn.ReLU(), _conv(width, width, 3, stride), nn.ReLU(), _conv(width, out, 1)
        )  # fmt: skip
        self.shortcut = nn.Identity() if stride == 1 and channels == out else _conv(channels, out, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[N, C, H, W]`."""
        return F.relu(self.body(x) + self.shortcut(x))


class ResNet50(nn.Module):
    """Images `[N, 3, 224, 224]` to 1000 scores."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        channels = 64
        for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
            for k in range(blocks):
                layers.append(Bottleneck(channels, width, stride if k == 0 else 1))
                channels = 4 * width
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(channels, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores."""
        scores: torch.Tensor = self.head(self.body(x).mean((2, 3)))
        return scores


class Inverted(nn.Module):
    """Expand, depthwise, project (Sandler et al., 2018)."""

    def __init__(self, channels: int, out: int, stride: int, factor: int) -> None:
        super().__init__()
        wide = channels * factor
        grow: list[nn.Module] = [_conv(channels, wide, 1), nn.ReLU6()] if factor > 1 else []
        self.body = nn.Sequential(*grow, _conv(wide, wide, 3, stride, wide), nn.ReLU6(), _conv(wide, out, 1))
        self.adds = stride == 1 and channels == out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[N, C, H, W]`."""
        y: torch.Tensor = self.body(x)
        return x + y if self.adds else y


class MobileNetV2(nn.Module):
    """Images `[N, 3, 224, 224]` to 1000 scores."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(3, 32, 3, 2), nn.ReLU6()]
        channels = 32
        for factor, out, blocks, stride in (
            (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)
        ):  # fmt: skip
            for k in range(blocks):
                layers.append(Inverted(channels, out, stride if k == 0 else 1, factor))
                channels = out
        self.body = nn.Sequential(*layers, _conv(channels, 1280, 1), nn.ReLU6())
        self.head = nn.Linear(1280, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores."""
        scores: torch.Tensor = self.head(self.body(x).mean((2, 3)))
        return scores


class Encoder(nn.Module):
    """Layers of a transformer over embedded tokens `[N, S, D]` (Vaswani et al., 2017; BERT's order of normalisation)."""

    def __init__(self, layers: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.layers = nn.ModuleList(nn.ModuleDict(_encoder_layer(width)) for _ in range(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[N, S, D]`."""
        for layer in self.layers:
            x = layer["norm1"](x + layer["out"](self.attend(layer, x)))
            x = layer["norm2"](x + layer["down"](F.gelu(layer["up"](x))))
        return x

    def attend(self, layer: Any, x: torch.Tensor) -> torch.Tensor:
        """Every head's weighted values, side by side."""
        n, s, d = x.shape
        q, k, v = (layer[name](x).reshape(n, s, self.heads, d // self.heads).transpose(1, 2) for name in ("q", "k", "v"))
        scores = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(d // self.heads), dim=-1)
        return (scores @ v).transpose(1, 2).reshape(n, s, d)


def _encoder_layer(width: int) -> dict[str, nn.Module]:
    squares = {name: nn.Linear(width, width) for name in ("q", "k", "v", "out")}
    return {
        **squares,
        "up": nn.Linear(width, 4 * width),
        "down": nn.Linear(4 * width, width),
        **{f"norm{k}": nn.LayerNorm(width) for k in (1, 2)},
    }


def _conv(channels: int, out: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution with batch normalisation."""
    conv = nn.Conv2d(channels, out, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out))


class Product(nn.Module):
    """One matrix product with a constant right operand."""

    def __init__(self, depth: int, columns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(depth, columns) / math.sqrt(depth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[M, K]` to `[M, N]`."""
        return x @ self.weight


class Convolution(nn.Module):
    """One convolution."""

    def __init__(self, channels: int, out: int, size: int, stride: int, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, size, stride, size // 2, groups=groups, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[N, C, H, W]`."""
        y: torch.Tensor = self.conv(x)
        return y


class Recurrence(nn.Module):
    """One recurrent layer."""

    def __init__(self, layer: type[nn.LSTM] | type[nn.GRU], features: int, hidden: int, bidirectional: bool) -> None:
        super().__init__()
        self.layer = layer(features, hidden, batch_first=True, bidirectional=bidirectional)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[N, time, features]`."""
        y: torch.Tensor = self.layer(x)[0]
        return y


def nets(batches: Sequence[int]) -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Net and shape of its input, by name."""
    torch.manual_seed(0)
    found: dict[str, tuple[nn.Module, tuple[int, ...]]] = {}
    for batch in batches:
        found[f"resnet50 {batch}"] = ResNet50(), (batch, 3, 224, 224)
        found[f"mobilenetv2 {batch}"] = MobileNetV2(), (batch, 3, 224, 224)
        found[f"minilm {batch}x128"] = Encoder(6, 384, 12), (batch, 128, 384)
        found[f"bert-base {batch}x128"] = Encoder(12, 768, 12), (batch, 128, 768)
    return found


def layers() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Single products, convolutions and recurrent layers."""
    torch.manual_seed(0)
    products = [
        (128, 768, 768),
        (128, 768, 3072),
        (128, 3072, 768),
        (1024, 1024, 1024),
        (4096, 4096, 4096),
        (32, 2048, 1000),
        (1, 4096, 4096),
    ]
    found: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
        f"gemm {m}x{k}x{n}": (Product(k, n), (m, k)) for m, k, n in products
    }  # fmt: skip
    for batch in (1, 32):
        for c, o, size, stride, edge in (
            (3, 64, 7, 2, 224),
            (64, 64, 3, 1, 56),
            (256, 64, 1, 1, 56),
            (128, 128, 3, 1, 28),
            (512, 512, 3, 1, 7),
        ):
            found[f"conv {batch}x{c}x{edge} to {o}, {size}x{size}/{stride}"] = Convolution(c, o, size, stride), (batch, c, edge, edge)
        for kind, hidden, both in ((nn.LSTM, 128, False), (nn.LSTM, 256, True), (nn.GRU, 64, True), (nn.GRU, 512, False)):
            name = f"{kind.__name__.lower()} {batch}x100x{hidden}{', both directions' if both else ''}"
            found[name] = Recurrence(kind, hidden, hidden, both), (batch, 100, hidden)
    return found
