"""Scales, zero points and codes."""

from __future__ import annotations

from collections.abc import Sequence

import ml_dtypes
import numpy as np

from lepton_compiler.calibration import Range
from lepton_compiler.ir.types import DType

SHRINKS = np.linspace(1.0, 0.6, 21)
"""What the largest weight is multiplied by, when scales of less than 8 bits are searched."""
LARGEST_BIAS = 2.0**30
"""Bound on the codes of a bias, so that sums stay within 32 bits."""


def activation_parameters(covered: Range, element: DType) -> tuple[np.ndarray, np.ndarray]:
    """Scale (float32 scalar) and zero point (scalar of `element`) for data in a range; int16 is symmetric, 8 bits are not."""
    info = ml_dtypes.iinfo(element.numpy)
    low, high = int(info.min), int(info.max)
    if element.bits > 8:
        return _positive(np.float32(covered.largest / high)), np.zeros((), element.numpy)
    scale = _positive(np.float32((covered.high - covered.low) / (high - low)))
    zero = np.clip(np.rint(low - covered.low / float(scale)), low, high)
    return scale, np.asarray(zero, element.numpy)


def _positive(scale: np.floating | np.ndarray) -> np.ndarray:
    """The scale, and 1 where there is nothing to scale."""
    tiny = np.finfo(np.float32).tiny
    return np.asarray(np.where(np.asarray(scale) > tiny, scale, 1.0), np.float32)


def weight_scales(weights: np.ndarray, axis: int | None, bits: int) -> np.ndarray:
    """Symmetric scales of codes from `-2**(bits-1) + 1` to `2**(bits-1) - 1`: one per index of `axis`, or one.

    For fewer than 8 bits the scale of least squared error is searched, with the outermost weights cut off.
    """
    rows = weights.reshape(1, -1) if axis is None else np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1)
    scales = _searched(rows, bits)
    return scales.reshape(()) if axis is None else scales


def group_scales(weights: np.ndarray, axis: int, group: int, bits: int) -> np.ndarray:
    """Symmetric scales of a matrix with `axis` divided into groups: the shape of the weights, with that axis so much shorter."""
    moved = np.moveaxis(weights, axis, -1)
    size = moved.shape[-1]
    padded = np.pad(moved, [(0, 0)] * (moved.ndim - 1) + [(0, -size % group)])
    rows = padded.reshape(-1, group)
    return np.ascontiguousarray(np.moveaxis(_searched(rows, bits).reshape(*moved.shape[:-1], -1), -1, axis))


def _searched(rows: np.ndarray, bits: int) -> np.ndarray:
    """One scale per row of a matrix."""
    most = 2 ** (bits - 1) - 1
    largest = np.abs(rows).max(1) / most if rows.shape[1] else np.zeros(len(rows))
    plain = _positive(largest)
    if bits >= 8:
        return plain
    best, least = plain, np.full(len(rows), np.inf)
    for shrink in SHRINKS:
        scales = _positive(plain * np.float32(shrink))
        codes = np.clip(np.rint(rows / scales[:, None]), -most, most)
        error = ((codes * scales[:, None] - rows) ** 2).sum(1)
        best, least = np.where(error < least, scales, best), np.minimum(error, least)
    return best.astype(np.float32)


def spread(scales: np.ndarray, shape: Sequence[int], axis: int | None, group: int = 0) -> np.ndarray:
    """Scales in a shape that multiplies weights of `shape`."""
    if axis is None or scales.ndim == 0:
        return scales
    if group:
        return np.take(np.repeat(scales, group, axis), np.arange(shape[axis]), axis)
    return scales.reshape([-1 if a == axis else 1 for a in range(len(shape))])


def weight_codes(weights: np.ndarray, scales: np.ndarray, bits: int) -> np.ndarray:
    """Codes, rounded to nearest, in int8 or int4; the scales broadcast to the weights."""
    most = 2 ** (bits - 1) - 1
    codes = np.clip(np.rint(weights / scales), -most, most)
    return np.asarray(codes.astype(np.int8).astype(ml_dtypes.int4 if bits == 4 else np.int8))


def scales_with_bias(scales: np.ndarray, data_scale: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """The weights' scales, larger where the bias in units of `scales * data_scale` would not fit in 32 bits."""
    if bias is None or scales.ndim == 0:
        return scales
    least = np.abs(bias.astype(np.float64)) / (LARGEST_BIAS * float(data_scale))
    return np.asarray(np.maximum(scales, least.astype(np.float32)))


def bias_codes(bias: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """A bias in units of `scale`, as int32."""
    return np.asarray(np.clip(np.rint(bias.astype(np.float64) / scale), -(2.0**31), 2.0**31 - 1).astype(np.int32))
