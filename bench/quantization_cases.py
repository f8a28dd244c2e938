"""The nets of `bench/nets` with their data, for `bench.quantization`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.datasets import Split, fashion_mnist, fashion_rows, japanese_vowels

NETS = Path(__file__).parent / "nets"
CALIBRATION = 512
"""Training samples that ranges, biases and roundings are worked out with, ours and ONNX Runtime's."""


@dataclass(frozen=True)
class Case:
    """A classifier.

    Attributes:
        name: of the net.
        train: where calibration samples come from.
        test: where accuracy is measured.
    """

    name: str
    train: Callable[[], Split]
    test: Callable[[], Split]

    @property
    def model(self) -> Path:
        """The float ONNX file."""
        return NETS / f"{self.name}.onnx"

    def samples(self) -> list[dict[str, np.ndarray]]:
        """The calibration data, one sample at a time, spread over the training set."""
        data = self.train().samples
        chosen = np.random.default_rng(0).permutation(len(data))[:CALIBRATION]
        return [{"x": data[k : k + 1]} for k in np.sort(chosen)]


CASES = (
    Case("resnet", lambda: fashion_mnist("train"), lambda: fashion_mnist("t10k")),
    Case("ds_cnn", lambda: fashion_mnist("train"), lambda: fashion_mnist("t10k")),
    Case("gru", lambda: japanese_vowels("train"), lambda: japanese_vowels("test")),
    Case("gru_rows", lambda: fashion_rows("train"), lambda: fashion_rows("t10k")),
)


def evaluate_scores(run: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]], data: Split, batch: int = 500) -> np.ndarray:
    """The scores [N, classes] that a net gives."""
    parts = [data.samples[k : k + batch] for k in range(0, len(data.samples), batch)]
    return np.concatenate([run({"x": part})["scores"] for part in parts])


def sqnr(scores: np.ndarray, wanted: np.ndarray) -> float:
    """Signal to noise of scores, in decibels, those of the float net being wanted."""
    noise = float(np.square(scores - wanted, dtype=np.float64).sum()) or 1e-30
    return float(10 * np.log10(float(np.square(wanted, dtype=np.float64).sum()) / noise))
