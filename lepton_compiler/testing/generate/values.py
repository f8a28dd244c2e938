"""What the inputs and weights of random graphs hold."""

from __future__ import annotations

import random

import numpy as np

from lepton_compiler.ir.types import TensorType

SPECIAL = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, -3e-45, 3e38, -1e30, 1e-30, 65504.0, 1e-7, 16777217.0, 0.5, -2.5)
"""Floats at which functions have their corners; those that a type does not have become its infinities and zeros."""


def draw_array(rng: random.Random, type: TensorType, wild: float = 0.0) -> np.ndarray:
    """An array of a static type.

    Floats are normally distributed, or multiples of an eighth, so that sums are exact and steps are met; integers are small; booleans
    are mixed. Each element is a special or an extreme one with the chance `wild`.
    """
    draw = np.random.default_rng(rng.getrandbits(32))
    shape, element, kind = type.static_shape, type.dtype.numpy, type.dtype.kind
    if kind == "bool":
        return np.asarray(draw.random(shape) < draw.choice([0.2, 0.5, 0.8]))
    if kind == "float":
        exact = rng.random() < 0.4
        array = np.asarray(draw.integers(-24, 25, shape) / 8 if exact else draw.normal(0, draw.choice([0.5, 1, 3]), shape))
        special = np.asarray(draw.choice(SPECIAL, shape))
    else:
        info = np.iinfo(element)
        array = np.asarray(draw.integers(max(info.min, -9), 10, shape))
        special = np.asarray(draw.choice(np.array([info.min, info.max, 0, 1, info.max // 2], element), shape))
    with np.errstate(over="ignore"):
        return np.asarray(np.where(draw.random(shape) < wild, special.astype(element), array.astype(element)))
