"""Resize: samples and weights of each axis as the operator defines them, worked out here."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import te, tirx

from lepton_compiler.backends.tvm.lower.context import Arg, Context, Expr, compute, lowers, unsupported, wide
from lepton_compiler.backends.tvm.lower.conversion import number_as
from lepton_compiler.backends.tvm.lower.scalar import rounded
from lepton_compiler.ops.resize import Taps

UNROLLED = 4
"""Samples per element up to which their sum is written out."""
PERIOD = 4
"""Length of a pattern of weights up to which it is chosen from, rather than read from a table."""


@lowers("Resize")
def lower_resize(ctx: Context, op: Any, x: Arg) -> list[Any]:
    """Nearest: one gather for all axes. Interpolation: a sum of gathered samples along each axis in turn, nothing in between stored.

    In float32 for integers and narrow floats, rounded as the evaluator rounds, for the integers' sake.
    """
    old, new = x.shape, ctx.outputs[0].static_shape
    moved = op.moved_axes(old, new)
    taps = {axis: op.taps(axis, old[axis], new[axis], len(old)) for axis in moved}
    if op.mode == "nearest" and not any(t.outside.any() for t in taps.values()):
        places = {axis: _position(ctx, t.indices[:, 0]) for axis, t in taps.items()}
        return [compute(new, lambda *i: x[[places[a](k) if a in places else k for a, k in enumerate(i)]], "resize")]
    kind = wide(x.dtype) if x.type.dtype.is_float else "float32"
    masks = {axis: _weight(ctx, t.outside.astype(np.float32)) for axis, t in taps.items() if t.outside.any()}

    def finished(i: Sequence[Expr], value: Expr) -> Expr:
        outside = [mask(i[axis]) > tirx.const(0.5, "float32") for axis, mask in masks.items()]
        if outside:
            value = tirx.Select(tirx.any(*outside), tirx.const(op.extrapolation_value, kind), value)
        return number_as(value, x.dtype)

    if len(moved) == 1 and taps[moved[0]].indices.shape[1] > UNROLLED:
        total = _long_sum(ctx, x, moved[0], taps[moved[0]], kind)
        return [compute(new, lambda *i: finished(i, total(*i)), "resize")]
    if math.prod(t.indices.shape[1] for t in taps.values()) > UNROLLED:
        raise unsupported(op, "interpolation along several axes at once")
    pairs = {axis: _samples(ctx, t) for axis, t in taps.items()}

    def sum_along(axes: Sequence[int], i: Sequence[Expr]) -> Expr:
        if not axes:
            return x[i].astype(kind)
        axis = axes[-1]
        terms = []
        for position, weight in pairs[axis]:
            sample = sum_along(axes[:-1], [position(k) if a == axis else k for a, k in enumerate(i)])
            terms.append(rounded(sample * weight(i[axis]).astype(kind)))
        return functools.reduce(lambda a, b: a + b, terms)

    return [compute(new, lambda *i: finished(i, sum_along(moved, i)), "resize")]


def _samples(ctx: Context, taps: Taps) -> list[tuple[Any, Any]]:
    """Position and weight of each sample that counts anywhere on an axis, as functions of the index."""
    used = np.flatnonzero(taps.weights.any(axis=0))
    return [(_position(ctx, taps.indices[:, t]), _weight(ctx, taps.weights[:, t])) for t in used]


def _long_sum(ctx: Context, x: Arg, axis: int, taps: Taps, kind: str) -> Any:
    """The sum over many samples along one axis, as a reduction."""
    positions = ctx.table(np.ascontiguousarray(taps.indices.T.astype(np.int32)))
    weights = ctx.table(np.ascontiguousarray(taps.weights.T))
    t = te.reduce_axis((0, taps.indices.shape[1]), "t")

    def body(*i: Expr) -> Expr:
        sample = x[[positions(t, k) if a == axis else k for a, k in enumerate(i)]].astype(kind)
        return te.sum(rounded(sample * weights(t, i[axis]).astype(kind)), axis=[t])

    total = compute(ctx.outputs[0].static_shape, body, "samples")
    ctx.workspace(total)
    return total


def _position(ctx: Context, values: np.ndarray) -> Any:
    """`values[at]` as a function of `at`: clamped `(at * a + b) // c` where that is what they are, else read from a table."""
    n, low, high = len(values), int(values.min()), int(values.max())
    for c in (1, 2, 3, 4, 8, 16):
        for a in (1, 2, 3, 4, 8, 16):
            for b in (0, -1, 1, c // 2, -(c // 2), c // 2 - 1):
                if np.array_equal(np.clip((np.arange(n) * a + b) // c, low, high), values):
                    return lambda at: tirx.max(tirx.const(low, "int32"), tirx.min(tirx.floordiv(at * a + b, c), tirx.const(high, "int32")))
    table = ctx.table(values.astype(np.int32))
    return lambda at: table(at)


def _weight(ctx: Context, values: np.ndarray) -> Any:
    """`values[at]` as a function of `at`: a choice where a short pattern repeats, else read from a table."""
    n = len(values)
    period = next((p for p in range(1, min(PERIOD + 1, n)) if np.array_equal(values[p:], values[:-p])), None)
    if period is None:
        table = ctx.table(values)
        return lambda at: table(at)
    return lambda at: _choice([tirx.const(v.item(), "float32") for v in values[:period]], tirx.floormod(at, period))


def _choice(values: Sequence[Expr], at: Expr) -> Expr:
    result = values[-1]
    for k in range(len(values) - 2, -1, -1):
        result = tirx.Select(at.equal(k), values[k], result)
    return result
