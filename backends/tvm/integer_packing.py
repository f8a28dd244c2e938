"""Rearrangements of 8-bit weights, and their sums, for `compute.integer_product`: numpy alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def signed(w: Array) -> Array:
    """8-bit weights as signed numbers: unsigned ones less 128."""
    return w if w.dtype == np.int8 else (w ^ np.uint8(128)).view(np.int8)


def pack_integer_conv(w: Array, block: int, group: int, filling: int, taps: int) -> Array:
    """`[OC, IC, KH, KW]`, or `[OC, IC, KW]`, to `[ceil(OC / block), KH, taps, groups, block * group]` signed, filled up with `filling`."""
    return _pack(runs_of(w, taps), block, group, filling)


def pack_integer_matmul(w: Array, block: int, group: int, filling: int) -> Array:
    """`[K, N]` to `[ceil(N / block), 1, 1, groups, block * group]` signed, filled up with `filling`."""
    return _pack(signed(w).T[:, None, None, :], block, group, filling)


def sum_integer_conv(w: Array, block: int) -> Array:
    """Sums of the signed weights of each output channel, int32, filled up with zeros to whole blocks."""
    return _sums(runs_of(w, 1), block)


def sum_integer_matmul(w: Array, block: int) -> Array:
    """Likewise for each column of `[K, N]`."""
    return _sums(signed(w).T[:, None, None, :], block)


def runs_of(w: Array, taps: int) -> Array:
    """Weights as `[OC, KH, taps, run]`."""
    signs = signed(w)
    image = signs[:, :, None, :] if signs.ndim == 3 else signs
    moved = image.transpose(0, 2, 3, 1)
    return moved.reshape(moved.shape[0], moved.shape[1], taps, -1)


def _pack(runs: Array, block: int, group: int, filling: int) -> Array:
    outputs, kh, taps, run = runs.shape
    blocks, groups = -(-outputs // block), -(-run // group)
    filled = np.full((blocks * block, kh, taps, groups * group), filling, np.int8)
    filled[:outputs, :, :, :run] = runs
    split = filled.reshape(blocks, block, kh, taps, groups, group)
    return np.ascontiguousarray(split.transpose(0, 2, 3, 4, 1, 5)).reshape(blocks, kh, taps, groups, block * group)


def _sums(runs: Array, block: int) -> Array:
    total = runs.sum(axis=(1, 2, 3), dtype=np.int32)
    return np.pad(total, (0, -len(total) % block))


def pack_integer_depthwise(w: Array, block: int) -> Array:
    """`[C, 1, KH, KW]`, or `[C, 1, KW]`, to `[ceil(C / block), KH, KW, block]` in float32, filled up with zeros."""
    image = w[:, :, None, :] if w.ndim == 3 else w
    channels, _, kh, kw = image.shape
    filled = np.pad(image[:, 0].astype(np.float32), ((0, -channels % block), (0, 0), (0, 0)))
    return np.ascontiguousarray(filled.reshape(-1, block, kh, kw).transpose(0, 2, 3, 1))


def pack_integer_depthwise_pairs(w: Array, block: int) -> Array:
    """`[C, 1, KH, KW]`, or `[C, 1, KW]`, to `[ceil(C / block), ceil(KH / 2), KW, block * 2]` in int16: the taps of two rows side by side."""
    image = w[:, :, None, :] if w.ndim == 3 else w
    channels, _, kh, kw = image.shape
    filled = np.pad(image[:, 0].astype(np.int16), ((0, -channels % block), (0, kh % 2), (0, 0)))
    split = filled.reshape(-1, block, (kh + 1) // 2, 2, kw)
    return np.ascontiguousarray(split.transpose(0, 2, 4, 1, 3)).reshape(len(split), (kh + 1) // 2, kw, block * 2)


def pack_integer_depthwise_rows(w: Array, block: int, begins: int) -> Array:
    """`[C, 1, KH, KW]`, KH odd, to `[begins, ceil(C / block), (KH + 1) / 2, KW, block * 2]` in int16: as `pack_integer_depthwise_pairs`, for filters
    that begin with the first row of a pair, and, if `begins` is 2, with the second.
    """
    moved = [np.pad(w, ((0, 0), (0, 0), (k, 1 - k), (0, 0))) for k in range(begins)]
    return np.stack([pack_integer_depthwise_pairs(image, block) for image in moved])
