"""Reductions, arg-reductions, softmax and layer normalisation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx

from lepton_compiler.backends.tvm.lower import scalar as sc
from lepton_compiler.backends.tvm.lower.context import Arg, Context, Expr, compute, identity, lowers, wide
from lepton_compiler.backends.tvm.lower.elementwise import once
from lepton_compiler.backends.tvm.lower.ordering import from_order_key, order_key, order_type

PRODUCT = te.comm_reducer(lambda a, b: a * b, lambda t: tirx.const(1, t), "prod")
REDUCERS: dict[str, Any] = {"ReduceSum": te.sum, "ReduceMean": te.sum, "ReduceMax": te.max, "ReduceMin": te.min, "ReduceProd": PRODUCT}


def reduce(x: Callable[[Sequence[Expr]], Expr], shape: Sequence[int], axes: Sequence[int], keepdims: bool, reducer: Any, name: str) -> Any:
    """`reducer` over `axes` of the elements `x(index)` of a virtual tensor of `shape`."""
    loops = {a: te.reduce_axis((0, shape[a]), f"r{a}") for a in axes}
    kept = [1 if a in loops else d for a, d in enumerate(shape) if keepdims or a not in loops]

    def body(*i: Expr) -> Expr:
        outer = iter(i)
        index = []
        for a in range(len(shape)):
            if a in loops:
                index.append(loops[a])
                if keepdims:
                    next(outer)
            else:
                index.append(next(outer))
        return reducer(x(index), axis=list(loops.values()))

    return compute(kept, body, name)


@lowers(*REDUCERS)
def lower_reduce(ctx: Context, op: Any, x: Arg) -> list[Any]:
    """Sum, mean, max, min, product over axes; float16 is summed in float32."""
    axes = sorted({a % len(x.shape) for a in op.axes})
    if not axes:
        return [compute(x.shape, lambda *i: x[i], "copy")]
    count = 1
    for a in axes:
        count *= x.shape[a]
    kind = "int8" if x.dtype == "bool" else wide(x.dtype)
    if op.name in ("ReduceMax", "ReduceMin") and order_type(x.dtype) != x.dtype:
        return [_float_extreme(ctx, op, x, axes)]
    if op.name == "ReduceMean":
        return [_mean(ctx, op, x, axes, count)]
    result = reduce(lambda i: x[i].astype(kind), x.shape, axes, op.keepdims, REDUCERS[op.name], op.name.lower())
    return [_narrow(ctx, result, x.dtype)]


def _mean(ctx: Context, op: Any, x: Arg, axes: Sequence[int], count: int) -> Any:
    """Mean of floats; that of integers truncated, exact where sums fit 64 bits, else by way of float64."""
    kind = wide(x.dtype) if x.type.dtype.is_float else "int64" if x.type.dtype.bits < 64 else "float64"
    total = reduce(lambda i: x[i].astype(kind), x.shape, axes, op.keepdims, te.sum, "reducemean")
    ctx.workspace(total)

    def share(*i: Expr) -> Expr:
        if x.type.dtype.is_float:
            return (total(*i) * tirx.const(1.0 / count if count else math.nan, kind)).astype(x.dtype)
        whole = (
            tirx.truncdiv(total(*i), tirx.const(max(count, 1), kind)) if kind == "int64" else total(*i) / tirx.const(max(count, 1), kind)
        )
        return whole.astype(x.dtype)

    return compute(total.shape, share, "mean")


def _float_extreme(ctx: Context, op: Any, x: Arg, axes: Sequence[int]) -> Any:
    """Maximum or minimum of the elements' order keys: exact for infinities, and NaN wins, as in numpy."""
    most = op.name == "ReduceMax"
    reducer = te.max if most else te.min
    extreme = reduce(lambda i: order_key(x[i], most), x.shape, axes, op.keepdims, reducer, op.name.lower())
    ctx.workspace(extreme)
    return compute(extreme.shape, lambda *i: from_order_key(extreme(*i), x.dtype, most), "extreme")


def _narrow(ctx: Context, tensor: Any, dtype: str) -> Any:
    if str(tensor.dtype) == dtype:
        return tensor
    if identity(tensor) not in map(identity, ctx.workspaces) and isinstance(tensor.op, te.ComputeOp) and len(tensor.op.reduce_axis):
        ctx.workspace(tensor)
    return compute(tensor.shape, lambda *i: tensor(*i).astype(dtype), "narrow")


@lowers("ArgMax", "ArgMin")
def lower_arg(ctx: Context, op: Any, x: Arg) -> list[Any]:
    """Index of the extreme element, the first (or last) one of equals; NaN is extreme.

    First the extreme key, then the least (or largest) index where it stands: two reductions of vectors.
    """
    axis, most, last = op.axis % len(x.shape), op.name == "ArgMax", op.select_last_index
    top = reduce(lambda i: order_key(x[i], most), x.shape, [axis], True, te.max if most else te.min, "extreme")

    def candidate(i: Sequence[Expr]) -> Expr:
        here = top(*(tirx.const(0, "int32") if a == axis else k for a, k in enumerate(i)))
        found = order_key(x[i], most).equal(here)
        return tirx.Select(found, i[axis], tirx.const(-1 if last else x.shape[axis], "int32"))

    place = reduce(candidate, x.shape, [axis], op.keepdims, te.max if last else te.min, "place")
    ctx.workspace(top, place)
    return [compute(place.shape, lambda *i: place(*i).astype("int64"), "index")]


@lowers("Softmax", "LogSoftmax")
def lower_softmax(ctx: Context, op: Any, x: Arg) -> list[Any]:
    """Three sweeps over the axis: maximum, exponentials with their sum, scaling."""
    axis, kind = op.axis % len(x.shape), wide(x.dtype)
    top = reduce(lambda i: x[i].astype(kind), x.shape, [axis], True, te.max, "softmax_max")

    def at(index: Sequence[Expr]) -> list[Expr]:
        return [tirx.const(0, "int32") if a == axis else k for a, k in enumerate(index)]

    shifted = compute(x.shape, lambda *i: once(sc.exp, x[i].astype(kind) - top(*at(i))), "softmax_exp")
    total = reduce(lambda i: shifted(*i), x.shape, [axis], True, te.sum, "softmax_sum")
    ctx.workspace(top, total)
    if op.name == "LogSoftmax":
        return [compute(x.shape, lambda *i: (x[i].astype(kind) - top(*at(i)) - once(sc.log, total(*at(i)))).astype(x.dtype), "log_softmax")]
    ctx.workspace(shifted)
    return [compute(x.shape, lambda *i: (shifted(*i) / total(*at(i))).astype(x.dtype), "softmax")]


@lowers("LayerNormalization")
def lower_layer_norm(ctx: Context, op: Any, x: Arg, scale: Arg, bias: Arg | None = None) -> list[Any]:
    """Mean, then variance about it, over the trailing axes."""
    axes, kind, share, at = _trailing(op, x)
    total = reduce(lambda i: x[i].astype(kind), x.shape, axes, True, te.sum, "norm_sum")

    def centred(i: Sequence[Expr]) -> Expr:
        return x[i].astype(kind) - total(*at(i)) * share

    squares = reduce(lambda i: centred(i) * centred(i), x.shape, axes, True, te.sum, "norm_squares")
    inverse = compute(
        squares.shape, lambda *i: tirx.const(1, kind) / tirx.sqrt(squares(*i) * share + tirx.const(op.epsilon, kind)), "norm_inverse"
    )
    ctx.workspace(total, squares, inverse)

    def body(*i: Expr) -> Expr:
        value = centred(i) * inverse(*at(i)) * scale.at(i).astype(kind)
        return (value if bias is None else value + bias.at(i).astype(kind)).astype(x.dtype)

    results = [compute(x.shape, body, "layer_norm")]
    if op.statistics:
        results.append(compute(total.shape, lambda *i: total(*i) * share, "mean"))
        results.append(compute(total.shape, lambda *i: inverse(*i), "inv_std"))
    return results


@lowers("RMSNormalization")
def lower_rms_norm(ctx: Context, op: Any, x: Arg, scale: Arg) -> list[Any]:
    """The mean of squares over the trailing axes, then division by its root."""
    axes, kind, share, at = _trailing(op, x)
    squares = reduce(lambda i: x[i].astype(kind) * x[i].astype(kind), x.shape, axes, True, te.sum, "norm_squares")
    inverse = compute(
        squares.shape, lambda *i: tirx.const(1, kind) / tirx.sqrt(squares(*i) * share + tirx.const(op.epsilon, kind)), "norm_inverse"
    )
    ctx.workspace(squares, inverse)
    return [compute(x.shape, lambda *i: (x[i].astype(kind) * inverse(*at(i)) * scale.at(i).astype(kind)).astype(x.dtype), "rms_norm")]


def _trailing(op: Any, x: Arg) -> tuple[list[int], str, Expr, Callable[[Sequence[Expr]], list[Expr]]]:
    """The axes of a normalisation, the type that it is computed in, one over the number of elements, and the index of what is known of each row."""
    axes, kind = list(range(op.axis % len(x.shape), len(x.shape))), wide(x.dtype)
    share = tirx.const(1.0 / math.prod(x.shape[a] for a in axes), kind)
    return axes, kind, share, lambda index: [tirx.const(0, "int32") if a in axes else k for a, k in enumerate(index)]
