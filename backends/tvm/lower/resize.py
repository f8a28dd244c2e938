"""Resize: nearest, linear and cubic interpolation with coordinates and weights computed per axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import tirx

from lepton_compiler.backends.tvm.lower.context import Arg, Context, Expr, compute, lowers, unsupported, wide


@lowers("Resize")
def lower_resize(ctx: Context, op: Any, x: Arg) -> list[Any]:
    """One axis after another is interpolated; positions and weights of an axis come from tables worked out here."""
    if op.antialias or op.coordinate_transformation_mode == "tf_crop_and_resize":
        raise unsupported(op, "with antialiasing or a crop region")
    out = ctx.outputs[0].static_shape
    tables = [_table(op, axis, x.shape[axis], out[axis]) for axis in range(len(out))]
    kind = wide(x.dtype)

    def gather(axis: int, index: list[Expr], i: tuple[Expr, ...]) -> Expr:
        if axis == len(out):
            return x[index]
        positions, weights = tables[axis]
        if positions is None:
            return gather(axis + 1, [*index, i[axis]], i)
        taps = positions.shape[1]
        if taps == 1:
            return gather(axis + 1, [*index, _lookup(positions[:, 0], i[axis], "int32")], i)
        terms = [
            gather(axis + 1, [*index, _lookup(positions[:, t], i[axis], "int32")], i).astype(kind) * _lookup(weights[:, t], i[axis], kind)
            for t in range(taps)
        ]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total

    def body(*i: Expr) -> Expr:
        value = gather(0, [], i)
        if str(value.ty) == x.dtype:
            return value
        return (value if x.dtype == "float16" else tirx.nearbyint(value)).astype(x.dtype)

    return [compute(out, body, "resize")]


def _lookup(values: np.ndarray, at: Expr, dtype: str) -> Expr:
    """`values[at]` as arithmetic where the values are `(at * a + b) // c`, else as a chain of selections by runs."""
    n = len(values)
    if dtype == "int32":
        for c in (1, 2, 3, 4, 8, 16):
            for a in (1, 2, 3, 4, 8, 16):
                for b in (0, -1, 1, c // 2, -(c // 2), c // 2 - 1):
                    low, high = int(values[0]), int(values[-1])
                    if np.array_equal(np.clip((np.arange(n) * a + b) // c, low, high), values):
                        position = tirx.floordiv(at * a + b, c) if c > 1 else at * a + b
                        return tirx.max(tirx.const(low, "int32"), tirx.min(position, tirx.const(high, "int32")))
    period = next((p for p in range(1, min(17, n)) if np.array_equal(values[p:], values[:-p])), None)
    if period is not None:
        return _select([values[k] for k in range(period)], tirx.floormod(at, period) if period > 1 else at, dtype)
    return _runs(values, at, dtype)


def _select(values: list[Any], at: Expr, dtype: str) -> Expr:
    result = tirx.const(values[-1].item(), dtype)
    for k in range(len(values) - 2, -1, -1):
        result = tirx.Select(at == k, tirx.const(values[k].item(), dtype), result)
    return result


def _runs(values: np.ndarray, at: Expr, dtype: str) -> Expr:
    """Binary search over runs of equal values."""
    starts = [0, *(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist()]

    def search(low: int, high: int) -> Expr:
        if high - low == 1:
            return tirx.const(values[starts[low]].item(), dtype)
        middle = (low + high) // 2
        return tirx.Select(at < starts[middle], search(low, middle), search(middle, high))

    return search(0, len(starts))


def source_coordinates(mode: str, size_in: int, size_out: int, scale: float) -> np.ndarray:
    """Where each output element lies on the input axis, as the ONNX specification of Resize defines it."""
    k = np.arange(size_out, dtype=np.float64)
    match mode:
        case "half_pixel":
            return (k + 0.5) / scale - 0.5
        case "half_pixel_symmetric":
            adjustment = size_out / (scale * size_in)
            return size_in / 2 * (1 - adjustment) + (k + 0.5) / scale - 0.5
        case "pytorch_half_pixel":
            return (k + 0.5) / scale - 0.5 if size_out > 1 else np.zeros_like(k)
        case "align_corners":
            return k * (size_in - 1) / (size_out - 1) if size_out > 1 else np.zeros_like(k)
    return k / scale


def _table(op: Any, axis: int, size_in: int, size_out: int) -> tuple[np.ndarray | None, np.ndarray]:
    """Positions `[size_out, taps]` and weights of one axis; None where the axis does not change."""
    scale = float(op.scales[axis]) if op.scales else size_out / size_in
    if size_in == size_out and scale == 1.0:
        return None, np.ones((size_out, 1))
    at = source_coordinates(op.coordinate_transformation_mode, size_in, size_out, scale)
    if op.mode == "nearest":
        roundings: dict[str, Callable[[Any], Any]] = {"floor": np.floor, "ceil": np.ceil, "round_prefer_ceil": lambda v: np.floor(v + 0.5)}
        rounding = roundings.get(op.nearest_mode, lambda v: np.ceil(v - 0.5))
        return np.clip(rounding(at), 0, size_in - 1).astype(np.int64)[:, None], np.ones((size_out, 1))
    base = np.floor(at)
    share = at - base
    if op.mode == "linear":
        taps, weights = [0, 1], [1 - share, share]
    else:
        taps, weights = [-1, 0, 1, 2], [_cubic(share - t, op.cubic_coeff_a) for t in (-1, 0, 1, 2)]
    positions = np.stack([base + t for t in taps], 1)
    factors = np.stack(weights, 1)
    if op.exclude_outside:
        factors = np.where((positions < 0) | (positions >= size_in), 0, factors)
        factors = factors / factors.sum(1, keepdims=True)
    return np.clip(positions, 0, size_in - 1).astype(np.int64), factors.astype(np.float32)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel (1981)."""
    d = np.abs(distance)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))
