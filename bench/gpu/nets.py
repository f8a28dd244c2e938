"""The nets that `bench.cuda` measures, in PyTorch: their shapes are those of the papers, their weights a pattern."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from bench.patterns import patterned


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 around a shortcut (He et al., 2015)."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = 4 * width
        self.body = nn.Sequential(
            _conv(channels, width, 1), nn.ReLU(), _conv(width, width, 3, stride), nn.ReLU(), _conv(width, out, 1, rectified=False)
        )  # fmt: skip
        self.shortcut = nn.Identity() if stride == 1 and channels == out else _conv(channels, out, 1, stride, rectified=False)

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
        self.body = nn.Sequential(*grow, _conv(wide, wide, 3, stride, wide), nn.ReLU6(), _conv(wide, out, 1, rectified=False))
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
        if torch.onnx.is_in_onnx_export():
            found = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(d // self.heads), dim=-1) @ v
        else:
            found = F.scaled_dot_product_attention(q, k, v)
        return found.transpose(1, 2).reshape(n, s, d)


def _encoder_layer(width: int) -> dict[str, nn.Module]:
    squares = {name: nn.Linear(width, width) for name in ("q", "k", "v", "out")}
    return {
        **squares,
        "up": nn.Linear(width, 4 * width),
        "down": nn.Linear(4 * width, width),
        **{f"norm{k}": nn.LayerNorm(width) for k in (1, 2)},
    }


class RectifiedConv(nn.Conv2d):
    """A convolution of whose results half are cut off: its weights have twice the variance (He et al., 2015)."""

    gain = 2


def _conv(channels: int, out: int, size: int, stride: int = 1, groups: int = 1, rectified: bool = True) -> nn.Sequential:
    """A convolution with batch normalisation."""
    kind = RectifiedConv if rectified else nn.Conv2d
    return nn.Sequential(kind(channels, out, size, stride, size // 2, groups=groups, bias=False), nn.BatchNorm2d(out))


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

    def __init__(self, layer: type[nn.LSTM] | type[nn.GRU], hidden: int, bidirectional: bool) -> None:
        super().__init__()
        self.layer = layer(hidden, hidden, batch_first=True, bidirectional=bidirectional)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[N, time, features]`."""
        y: torch.Tensor = self.layer(x)[0]
        return y


def module(subject: str) -> nn.Module:
    """A net or a layer of `cases`, ready to infer, with the same weights on every machine."""
    name, _, rest = subject.partition(" ")
    made: nn.Module
    match name:
        case "resnet50":
            made = ResNet50()
        case "mobilenetv2":
            made = MobileNetV2()
        case "minilm":
            made = Encoder(6, 384, 12)
        case "bert-base":
            made = Encoder(12, 768, 12)
        case "gemm":
            _, depth, columns = map(int, rest.split("x"))
            made = Product(depth, columns)
        case "lstm" | "gru":
            sizes, _, both = rest.partition(",")
            made = Recurrence(nn.LSTM if name == "lstm" else nn.GRU, int(sizes.split("x")[-1]), bool(both))
        case _:
            _, channels, _, out, size, _, stride = map(int, re.findall(r"\d+", rest))
            made = Convolution(channels, out, size, stride)
    return fill(made).eval()


def fill(net: nn.Module) -> nn.Module:
    """Weights by `patterned` that keep the size of what goes through: of variance gain / terms of a sum; biases become zero."""
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if weight.dim() > 1:
                owner = net.get_submodule(name.rpartition(".")[0])
                terms = weight.shape[0] if isinstance(owner, Product) else weight[0].numel()
                scale = math.sqrt(getattr(owner, "gain", 1) / terms)
                weight.copy_(torch.from_numpy(patterned(tuple(weight.shape), name)) * scale)
            elif name.endswith("bias"):
                weight.zero_()
    return net
