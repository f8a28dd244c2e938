"""Networks whose weights are in the package index as PyTorch files: written out here, exported to ONNX on first use. Needs torch.

Parameters are taken in the order of the file, so the modules below have them in that order. EfficientNet-Lite0 after M. Tan and Q. Le,
"EfficientNet", ICML 2019, and the notes of its Lite variant: no squeeze-and-excitation, ReLU6, stem and head of fixed width. The three nets of
MTCNN after K. Zhang et al., "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks", IEEE SPL 2016.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from lepton_compiler import zoo


class SamePad(nn.Module):
    """Zeros around an image so that a convolution gives `size / stride` pixels, the odd one behind, as TensorFlow pads."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        total = kernel - stride
        self.pads = (total // 2, total - total // 2) * 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The padded image; sides are multiples of the stride."""
        return nn.functional.pad(x, self.pads)


def _convolution(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    pad = [SamePad(kernel, stride)] if kernel > 1 else []
    return [*pad, nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False), nn.BatchNorm2d(outputs, eps=1e-3)]


class Inverted(nn.Module):
    """An inverted bottleneck: wider, depthwise, narrow again, beside a shortcut where sizes agree."""

    def __init__(self, inputs: int, outputs: int, expand: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = inputs * expand
        layers = [*_convolution(inputs, wide), nn.ReLU6()] if expand > 1 else []
        layers += [*_convolution(wide, wide, kernel, stride, wide), nn.ReLU6(), *_convolution(wide, outputs)]
        self.body, self.short = nn.Sequential(*layers), inputs == outputs and stride == 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, inputs, H, W] to [N, outputs, H / stride, W / stride]."""
        y: torch.Tensor = self.body(x)
        return y + x if self.short else y


LITE0 = ((1, 16, 1, 3, 1), (2, 24, 6, 3, 2), (2, 40, 6, 5, 2), (3, 80, 6, 3, 2), (3, 112, 6, 5, 1), (4, 192, 6, 5, 2), (1, 320, 6, 3, 1))
"""Stages of EfficientNet-Lite0: blocks, channels, expansion, kernel, stride of the first block."""


def efficientnet_lite0() -> nn.Module:
    """Images [N, 3, 224, 224] to scores [N, 1000] of ImageNet's classes."""
    layers: list[nn.Module] = [*_convolution(3, 32, 3, 2), nn.ReLU6()]
    width = 32
    for blocks, outputs, expand, kernel, stride in LITE0:
        for k in range(blocks):
            layers.append(Inverted(width, outputs, expand, kernel, 1 if k else stride))
            width = outputs
    layers += [*_convolution(width, 1280), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000)]
    return nn.Sequential(*layers)


class FaceNet(nn.Module):
    """A trunk, then the probability of a face beside the corrections of its box (and, in the last net, the places of its features)."""

    def __init__(self, trunk: list[nn.Module], heads: list[nn.Module]) -> None:
        super().__init__()
        self.trunk, self.heads = nn.Sequential(*trunk), nn.ModuleList(heads)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Probabilities [N, 2, ...] of no face and of a face, corrections [N, 4, ...], features [N, 10]."""
        y = self.trunk(x)
        first, *others = (head(y) for head in self.heads)
        return torch.softmax(first, 1), *others


class Columns(nn.Module):
    """[N, C, H, W] to vectors [N, W * H * C], the order in which the first implementation of MTCNN reads images."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The vectors."""
        return x.permute(0, 3, 2, 1).flatten(1)


def _steps(*widths: int, kernels: tuple[int, ...], pools: tuple[int, ...]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for k, kernel in enumerate(kernels):
        layers += [nn.Conv2d(widths[k], widths[k + 1], kernel), nn.PReLU(widths[k + 1])]
        if pools[k]:
            layers.append(nn.MaxPool2d(pools[k], 2, ceil_mode=True))
    return layers


def pnet() -> nn.Module:
    """Proposes faces in images [N, 3, H, W]: of every window of 12 pixels, two apart."""
    return FaceNet(_steps(3, 10, 16, 32, kernels=(3, 3, 3), pools=(2, 0, 0)), [nn.Conv2d(32, 2, 1), nn.Conv2d(32, 4, 1)])


def rnet() -> nn.Module:
    """Judges windows [N, 3, 24, 24]."""
    trunk = [*_steps(3, 28, 48, 64, kernels=(3, 3, 2), pools=(3, 3, 0)), Columns(), nn.Linear(576, 128), nn.PReLU(128)]
    return FaceNet(trunk, [nn.Linear(128, 2), nn.Linear(128, 4)])


def onet() -> nn.Module:
    """Judges windows [N, 3, 48, 48]."""
    trunk = [*_steps(3, 32, 64, 64, 128, kernels=(3, 3, 3, 2), pools=(3, 3, 2, 0)), Columns(), nn.Linear(1152, 256), nn.PReLU(256)]
    return FaceNet(trunk, [nn.Linear(256, 2), nn.Linear(256, 4), nn.Linear(256, 10)])


@dataclass(frozen=True)
class Pretrained:
    """A network: what makes it, the weights' id in the zoo, the shape of an input, and which of its axes are free."""

    make: Callable[[], nn.Module]
    weights: str
    shape: tuple[int, ...]
    free: tuple[int, ...]
    outputs: tuple[str, ...]


FACE = ("probability", "box")
NETWORKS = {
    "efficientnet_lite0": Pretrained(efficientnet_lite0, "efficientnet/efficientnet_lite0", (1, 3, 224, 224), (), ("scores",)),
    "pnet": Pretrained(pnet, "facenet-pytorch/pnet", (1, 3, 120, 160), (2, 3), FACE),
    "rnet": Pretrained(rnet, "facenet-pytorch/rnet", (1, 3, 24, 24), (0,), FACE),
    "onet": Pretrained(onet, "facenet-pytorch/onet", (1, 3, 48, 48), (0,), (*FACE, "features")),
}
"""By name."""


def onnx_file(name: str) -> Path:
    """The ONNX file of a network, of input `x`; exported where it is not in the cache yet.

    Raises:
        FetchError: its weights cannot be had.
        RuntimeError: the weights are of another network.
    """
    chosen = NETWORKS[name]
    entry = zoo.find(chosen.weights)
    target = zoo.cache_folder() / "exported" / f"{name}-{entry.sha256[:12]}.onnx"
    if not target.exists():
        net = chosen.make().eval()
        found = torch.load(zoo.fetch(entry), map_location="cpu", weights_only=True)
        net.load_state_dict(dict(zip(net.state_dict(), found.values(), strict=True)))
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_suffix(f".{os.getpid()}")
        axes = {"x": {a: f"d{a}" for a in chosen.free}} if chosen.free else None
        example = torch.zeros(chosen.shape)
        torch.onnx.export(
            net,
            (example,),
            str(part),
            input_names=["x"],
            output_names=list(chosen.outputs),
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )
        os.replace(part, target)
    return target
