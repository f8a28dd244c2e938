"""Data that the nets of `bench/nets` are trained and measured on: Fashion-MNIST of Debian, and a time series set of aeon."""

from __future__ import annotations

import gzip
import importlib
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


def italy_power_demand(part: str) -> Split:
    """Days of electricity demand [N, 24, 1] of `train` (67) or `test` (1,029); the label tells summer from winter.

    Raises:
        MissingDependency: aeon is not installed.
    """
    try:
        aeon = importlib.import_module("aeon.datasets")
    except ImportError as error:
        raise MissingDependency("aeon is not installed", hint="pip install aeon") from error
    samples, labels = aeon.load_italy_power_demand(split=part)
    return Split(np.ascontiguousarray(samples.transpose(0, 2, 1), np.float32), np.asarray(labels).astype(np.int64) - 1)


def japanese_vowels(part: str) -> Split:
    """Utterances [N, 29, 12] of `train` (270) or `test` (370), padded with zeros; the label says which of 9 people speaks.

    Raises:
        MissingDependency: aeon is not installed.
    """
    try:
        aeon = importlib.import_module("aeon.datasets")
    except ImportError as error:
        raise MissingDependency("aeon is not installed", hint="pip install aeon") from error
    found, labels = aeon.load_japanese_vowels(split=part)
    samples = np.zeros((len(found), 29, 12), np.float32)
    for row, series in zip(samples, found, strict=True):
        row[: series.shape[1]] = series.T
    return Split(samples, np.asarray(labels).astype(np.int64) - 1)
