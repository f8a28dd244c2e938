"""Products of 8-bit integers in the vectors of Cortex-M: how the weights lie in flash. Numpy alone.

`VMLADAVA` multiplies two vectors of 16 bytes and adds all products to a core register. So what an output channel weighs lies in vectors of
16 neighbours, and the vectors of the channels that are computed together lie one after another, in the order in which they are read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

WIDTH = 16
"""Products of an instruction."""
LANES = 4
"""Sums in a vector, which the epilogue works on."""


def pack_helium_conv(w: Array, channels: int) -> Array:
    """`[OC, IC, KH, KW]` or `[OC, IC, KW]` to `[ceil(OC / 4), 4 / channels, ceil(KH * KW * IC / 16), channels * 16]`, filled up with zeros."""
    return _pack(np.moveaxis(w, 1, -1).reshape(w.shape[0], -1), channels)


def pack_helium_matmul(w: Array, channels: int) -> Array:
    """`[K, N]` to `[ceil(N / 4), 4 / channels, ceil(K / 16), channels * 16]`, filled up with zeros."""
    return _pack(w.T, channels)


def pack_helium_depthwise(w: Array) -> Array:
    """`[C, 1, KH, KW]` or `[C, 1, KW]` to `[KH * KW, C]`: a tap of neighbouring channels side by side."""
    return np.ascontiguousarray(w.reshape(w.shape[0], -1).T)


def _pack(runs: Array, channels: int) -> Array:
    outputs, depth = runs.shape
    filled = np.pad(runs, ((0, -outputs % LANES), (0, -depth % WIDTH)))
    split = filled.reshape(-1, LANES // channels, channels, filled.shape[1] // WIDTH, WIDTH)
    return np.ascontiguousarray(split.transpose(0, 1, 3, 2, 4)).reshape(*split.shape[:2], split.shape[3], channels * WIDTH)
