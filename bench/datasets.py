"""Data that the nets of `bench/nets` are trained and measured on: Fashion-MNIST of Debian, and a time series set of aeon."""

from __future__ import annotations

import gzip
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lepton_compiler.errors import MissingDependency

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True)
class Split:
    """Samples [N, ...] in float32 and their labels [N] in int64."""

    samples: np.ndarray
    labels: np.ndarray


def fashion_mnist(part: str) -> Split:
    """Images [N, 1, 28, 28] of `train` (60,000) or `t10k` (10,000), of mean 0 and deviation 1 over the training set.

    Raises:
        MissingDependency: the data set is not installed.
    """
    if not FASHION_MNIST.is_dir():
        raise MissingDependency("Fashion-MNIST is not installed", hint="apt-get install dataset-fashion-mnist")
    images = gzip.decompress((FASHION_MNIST / f"{part}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((FASHION_MNIST / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 1, 28, 28)
    samples = (pixels.astype(np.float32) / np.float32(255) - np.float32(0.2860)) / np.float32(0.3530)
    return Split(samples, np.frombuffer(labels, np.uint8, offset=8).astype(np.int64))


def fashion_rows(part: str) -> Split:
    """The images of `fashion_mnist` as series [N, 28, 28]: one row of pixels after the other."""
    found = fashion_mnist(part)
    return Split(np.ascontiguousarray(found.samples[:, 0]), found.labels)


def japanese_vowels(part: str) -> Split:
    """Utterances [N, 29, 24] of `train` (270) or `test` (370), padded with zeros; the label says which of 9 people speaks.

    A step has 12 cepstral coefficients, and by how much each of them has changed since the step before.

    The files of aeon are read without aeon itself, which needs a numba that may not know the numpy that is installed.

    Raises:
        MissingDependency: aeon is not installed.
    """
    found = importlib.util.find_spec("aeon")
    if found is None or found.origin is None:
        raise MissingDependency("aeon is not installed", hint="pip install aeon")
    file = Path(found.origin).parent / "datasets" / "data" / "JapaneseVowels" / f"JapaneseVowels_{part.upper()}.ts"
    lines = file.read_text().partition("@data")[2].split()
    samples, labels = np.zeros((len(lines), 29, 24), np.float32), np.zeros(len(lines), np.int64)
    for k, line in enumerate(lines):
        *series, label = line.split(":")
        for channel, values in enumerate(series):
            numbers = np.array(values.split(","), np.float32)
            samples[k, : len(numbers), channel] = numbers
            samples[k, 1 : len(numbers), 12 + channel] = np.diff(numbers)
        labels[k] = int(label) - 1
    return Split(samples, labels)
