"""Trains the nets of `bench/nets`: `python -m bench.train NET [--epochs N]`. Needs torch; each run gives the same weights."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bench.datasets import Split, fashion_mnist, fashion_rows, japanese_vowels

NETS = Path(__file__).parent / "nets"


class Residual(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        plain = inputs == outputs and stride == 1
        self.shortcut = (
            nn.Identity() if plain else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`relu(norm(conv(relu(norm(conv(x))))) + shortcut(x))`."""
        y = torch.relu(self.norm1(self.first(x)))
        return torch.relu(self.norm2(self.second(y)) + self.shortcut(x))


def resnet() -> nn.Module:
    """A residual net of 95,000 weights: 16, 32 and 64 channels at 14, 7 and 4 pixels."""
    stem = [nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    body = [Residual(16, 16, 1), Residual(16, 32, 2), Residual(32, 32, 1), Residual(32, 64, 2)]
    return nn.Sequential(*stem, *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def ds_cnn() -> nn.Module:
    """Depthwise separable convolutions, 115,000 weights: 128 and 256 channels at 7 pixels, 256 at 4, as in keyword spotting."""
    layers: list[nn.Module] = [nn.Conv2d(1, 64, 3, 2, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
    for inputs, outputs, stride in ((64, 128, 2), (128, 256, 1), (256, 256, 2)):
        layers += [nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False), nn.BatchNorm2d(inputs), nn.ReLU(inplace=True)]
        layers += [nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10))


class Recurrent(nn.Module):
    """Two GRUs of 128 over time steps, then a linear layer on their mean output."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.first, self.second = nn.GRU(inputs, 128), nn.GRU(128, 128)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(128, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores [N, classes] of series [N, T, inputs]."""
        y, _ = self.first(x.transpose(0, 1))
        y, _ = self.second(self.drop(y))
        scores: torch.Tensor = self.head(self.drop(y.mean(0)))
        return scores


FASHION = (lambda: fashion_mnist("train"), lambda: fashion_mnist("t10k"))
ROWS = (lambda: fashion_rows("train"), lambda: fashion_rows("t10k"))
VOWELS = (lambda: japanese_vowels("train"), lambda: japanese_vowels("test"))


@dataclass(frozen=True)
class Recipe:
    """How a net is trained.

    Attributes:
        make: gives the net.
        data: for training, and for testing.
        epochs: passes over the data.
        batch: samples of a step.
        augment: mirror and move the images of each step at random; short training does without.
    """

    make: Callable[[], nn.Module]
    data: tuple[Callable[[], Split], Callable[[], Split]]
    epochs: int
    batch: int
    augment: bool = False


RECIPES = {
    "resnet": Recipe(resnet, FASHION, 5, 128, augment=True),
    "ds_cnn": Recipe(ds_cnn, FASHION, 2, 64),
    "gru": Recipe(lambda: Recurrent(24, 9), VOWELS, 60, 16),
    "gru_rows": Recipe(lambda: Recurrent(28, 10), ROWS, 2, 64),
}
"""By name."""


def augmented(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Images mirrored at random and moved by up to two pixels."""
    flip = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
    images = torch.where(flip, images.flip(3), images)
    dy, dx = (int(v) for v in torch.randint(0, 5, (2,), generator=generator))
    edge = float(images.min())
    return nn.functional.pad(images, (2, 2, 2, 2), value=edge)[:, :, dy : dy + images.shape[2], dx : dx + images.shape[3]]


def train(net: nn.Module, data: Split, epochs: int, batch: int, augment: bool) -> None:
    """One-cycle training with cross entropy."""
    generator = torch.Generator().manual_seed(1)
    samples, labels = torch.from_numpy(data.samples), torch.from_numpy(data.labels)
    optimiser = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=1e-2)
    steps = epochs * (len(samples) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2 if samples.ndim == 4 else 4e-3, steps)
    net.train()
    for epoch in range(epochs):
        total = 0.0
        for rows in torch.randperm(len(samples), generator=generator)[: steps // epochs * batch].reshape(-1, batch):
            chosen = augmented(samples[rows], generator) if augment else samples[rows]
            loss = nn.functional.cross_entropy(net(chosen), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
        print(f"epoch {epoch + 1}: loss {total / (steps // epochs):.4f}", flush=True)


def accuracy(net: nn.Module, data: Split) -> float:
    """The share of right answers."""
    net.eval()
    with torch.no_grad():
        found = [net(torch.from_numpy(part)).argmax(1).numpy() for part in np.array_split(data.samples, max(1, len(data.samples) // 500))]
    return float((np.concatenate(found) == data.labels).mean())


def main() -> None:
    """Train one net and write its ONNX file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("net", choices=RECIPES)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--out", type=Path, default=NETS)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    recipe = RECIPES[args.net]
    load_train, load_test = recipe.data
    net, data = recipe.make(), load_train()
    if data.samples.ndim == 4:
        net = net.to(memory_format=torch.channels_last)  # in which a processor is quicker
    train(net, data, args.epochs or recipe.epochs, recipe.batch, recipe.augment)
    print(f"{args.net}: accuracy {accuracy(net, load_test()):.4f}")
    args.out.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        net.eval(), (torch.from_numpy(data.samples[:1]),), str(args.out / f"{args.net}.onnx"), input_names=["x"], output_names=["scores"],
        dynamic_axes={"x": {0: "batch"}, "scores": {0: "batch"}}, opset_version=17, dynamo=False,
    )  # fmt: skip


if __name__ == "__main__":
    main()
