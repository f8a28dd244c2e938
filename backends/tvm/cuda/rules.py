"""Lowering rules of products for a GPU: plain sums over operands as they are stored, which generators spread over threads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tvm import te, tirx

from lepton_compiler.backends.tvm.carriers import CARRIERS
from lepton_compiler.backends.tvm.cuda.products.zero_points import number_at
from lepton_compiler.backends.tvm.lower.context import RULES as LOWERED
from lepton_compiler.backends.tvm.lower.context import Arg, Context, Expr, Rule, compute
from lepton_compiler.backends.tvm.lower.conversion import convert
from lepton_compiler.backends.tvm.lower.dense import accumulator, direct_conv
from lepton_compiler.backends.tvm.lower.dynamic_quantize import code_of, larger, scale_of, smaller, zero_of
from lepton_compiler.backends.tvm.lower.reductions import reduce
from lepton_compiler.backends.tvm.outline import outlined
from lepton_compiler.ir.types import FLOAT32, DType, TensorType

THIN = 4
"""Rows of a product up to which each sum is a row of its own: see `generate.rows`."""


def number_of(value: Expr, element: DType, acc: str) -> Expr:
    """An element as a number of another type, whether it is one or a code."""
    return (convert(value, element, FLOAT32) if element.name in CARRIERS else value).astype(acc)


def element_of(value: Expr, element: DType) -> Expr:
    """A number as an element, or its code."""
    return convert(value, FLOAT32, element) if element.name in CARRIERS else value.astype(element.name)


def sum_type(element: DType) -> str:
    """The type in which products are summed."""
    return "float32" if element.name in CARRIERS else accumulator(element.name)


def _widened(x: Arg) -> Arg:
    """The operand as numbers, where its elements are codes."""
    if x.type.dtype.name not in CARRIERS:
        return x
    tensor = compute(x.shape, lambda *i: convert(x[i], x.type.dtype, FLOAT32), "widened")
    return Arg(TensorType(FLOAT32, x.shape), tensor)


def _narrow(tensor: Any, element: DType) -> Any:
    plain = str(tensor.dtype) == element.name
    return tensor if plain else compute(tensor.shape, lambda *i: element_of(tensor(*i), element), "narrow")


def _batch(x: Arg, outer: Sequence[Expr], own: int) -> list[Expr]:
    """The leading indices of an operand of which the last `own` axes are its own, at the index `outer` of the broadcast batch."""
    sizes = x.shape[: len(x.shape) - own]
    return [tirx.const(0, "int32") if d == 1 else outer[len(outer) - len(sizes) + a] for a, d in enumerate(sizes)]


def matmul(ctx: Context, op: Any, a: Arg, b: Arg) -> list[Any]:
    """Numpy's matmul, batched with broadcasting."""
    kind = ctx.outputs[0]
    acc, a, b = sum_type(kind.dtype), _widened(a), _widened(b)
    if len(b.shape) == 2 and len(a.shape) > 1 and b.constant and b.operand is not None and math.prod(a.shape[:-1]) <= THIN:
        return [_narrow(_thin(ctx, a, b, kind, acc), kind.dtype)]
    return [_narrow(_product(a, b, kind, acc), kind.dtype)]


def _thin(ctx: Context, a: Arg, b: Arg, kind: TensorType, acc: str) -> Any:
    """A product of few rows: the constant is transposed at compile time, so that sums run along neighbours in memory."""
    packed, k = ctx.pack(b, "transpose", 1, 0), te.reduce_axis((0, a.shape[-1]), "k")
    return compute(kind.static_shape, lambda *i: te.sum(a[[*i[:-1], k]].astype(acc) * packed(i[-1], k).astype(acc), axis=[k]), "matmul")


def _product(a: Arg, b: Arg, kind: TensorType, acc: str, zeros: Sequence[Arg | None] = (None, None)) -> Any:
    rows, columns = len(a.shape) > 1, len(b.shape) > 1
    k = te.reduce_axis((0, a.shape[-1]), "k")

    def body(*i: Expr) -> Expr:
        outer = list(i)
        column = [outer.pop()] if columns else []
        row = [outer.pop()] if rows else []
        left = a[[*_batch(a, outer, 1 + rows), *row, k]].astype(acc)
        right = b[[*_batch(b, outer, 1 + columns), k, *column]].astype(acc)
        return te.sum(_less(left, zeros[0]) * _less(right, zeros[1], column[0] if columns else None), axis=[k])

    return compute(kind.static_shape, body, "matmul")


def _less(value: Expr, zero: Arg | None, channel: Expr | None = None) -> Expr:
    """A code less its zero point, in int32."""
    return value if zero is None else value - number_at(zero, channel)


def gemm(ctx: Context, op: Any, a: Arg, b: Arg, c: Arg | None = None) -> list[Any]:
    """`alpha * op(a) @ op(b) + beta * c`."""
    kind = ctx.outputs[0]
    acc, depth = sum_type(kind.dtype), a.shape[0] if op.trans_a else a.shape[1]
    a, b, c = _widened(a), _widened(b), None if c is None else _widened(c)
    k = te.reduce_axis((0, depth), "k")
    thin = kind.static_shape[0] <= THIN and b.constant and b.operand is not None and not op.trans_b
    packed = ctx.pack(b, "transpose", 1, 0) if thin else None

    def body(m: Expr, n: Expr) -> Expr:
        left = a[[k, m] if op.trans_a else [m, k]]
        right = packed(n, k) if packed is not None else b[[n, k] if op.trans_b else [k, n]]
        return te.sum(left.astype(acc) * right.astype(acc), axis=[k])

    product = compute(kind.static_shape, body, "matmul")

    def ending(*i: Expr) -> Expr:
        value = product(*i)
        if op.alpha != 1.0:
            value = value * tirx.const(op.alpha, acc)
        if c is not None:
            value = value + (c.at(i).astype(acc) if op.beta == 1.0 else c.at(i).astype(acc) * tirx.const(op.beta, acc))
        return element_of(value, kind.dtype)

    return [product if c is None and op.alpha == 1.0 and acc == kind.dtype.name else compute(kind.static_shape, ending, "gemm")]


def conv(ctx: Context, op: Any, x: Arg, w: Arg, b: Arg | None = None) -> list[Any]:
    """Convolutions of any rank, in either layout."""
    kind = ctx.outputs[0].dtype
    y = direct_conv(ctx, op, _widened(x), _widened(w), sum_type(kind))
    if b is None:
        return [_narrow(y, kind)]
    axis, bias = 1 if op.layout == "NCHW" else len(y.shape) - 1, _widened(b)
    return [compute(y.shape, lambda *i: element_of(y(*i) + bias[[i[axis]]].astype(str(y.dtype)), kind), "bias")]


def matmul_integer(ctx: Context, op: Any, a: Arg, b: Arg, a_zero: Arg | None = None, b_zero: Arg | None = None) -> list[Any]:
    """Products of 8-bit codes less their zero points, summed in 32 bits."""
    return [_product(a, b, ctx.outputs[0], "int32", (a_zero, b_zero))]


def conv_integer(ctx: Context, op: Any, x: Arg, w: Arg, x_zero: Arg | None = None, w_zero: Arg | None = None) -> list[Any]:
    """Convolutions of 8-bit codes less their zero points, summed in 32 bits; what lies outside counts as the zero point."""
    spatial, last = len(x.shape) - 2, getattr(op, "layout", "NCHW") == "NHWC"
    in_group, per_group = w.shape[1], w.shape[0] // op.groups
    rc = te.reduce_axis((0, in_group), "rc")
    taps = [te.reduce_axis((0, k), f"r{a}") for a, k in enumerate(w.shape[2:])]
    size = x.shape[1:-1] if last else x.shape[2:]

    def body(*i: Expr) -> Expr:
        pixel, channel = (i[1:-1], i[-1]) if last else (i[2:], i[1])
        at = [p * s + t * d - b for p, s, t, d, b in zip(pixel, op.strides, taps, op.dilations, op.pads[:spatial], strict=True)]
        source = rc if op.groups == 1 else tirx.floordiv(channel, per_group) * in_group + rc
        value = _less(x[[i[0], *at, source] if last else [i[0], source, *at]].astype("int32"), x_zero)
        if any(op.pads):
            inside = [c for a, n in zip(at, size, strict=True) for c in (a >= 0, a < n)]
            value = tirx.if_then_else(tirx.all(*inside), value, tirx.const(0, "int32"))
        return te.sum(value * _less(w[[channel, rc, *taps]].astype("int32"), w_zero, channel), axis=[rc, *taps])

    return [compute(ctx.outputs[0].static_shape, body, "conv_integer")]


def pool(ctx: Context, op: Any, x: Arg) -> list[Any]:
    """The largest elements, or the means, of windows: of numbers, whether the elements are some or codes."""
    if x.type.dtype.name not in CARRIERS:
        return LOWERED[op.name](ctx, op, x)
    [result] = LOWERED[op.name](ctx, op, _widened(x))
    return [_narrow(result, x.type.dtype)]


def dynamic_quantize(ctx: Context, op: Any, x: Arg) -> list[Any]:
    """The range of the data, then scale and zero point, then codes."""
    zero = tirx.const(0.0, "float32")
    axes = list(range(len(x.shape)))

    def extreme(choose: Any, name: str) -> Any:
        if not axes:
            return compute((), lambda: x[[]], name)
        return reduce(
            lambda i: x[i], x.shape, axes, False, te.comm_reducer(lambda a, b: outlined(choose, a, b), lambda t: tirx.const(0.0, t)), name
        )

    low, high = extreme(smaller, "lowest"), extreme(larger, "highest")
    scale = compute((), lambda: outlined(lambda a, b: scale_of(smaller(zero, a), larger(zero, b)), low(), high()), "scale")
    point = compute((), lambda: outlined(lambda a, s: zero_of(smaller(zero, a), s), low(), scale()).astype("uint8"), "zero_point")

    def code(*i: Expr) -> Expr:
        inverse = tirx.const(1.0, "float32") / scale()
        return outlined(code_of, x[i], inverse, scale(), point().astype("float32")).astype("uint8")

    return [compute(x.shape, code, "codes"), scale, point]


RULES: dict[str, Rule] = {
    "AveragePool": pool,
    "Conv": conv,
    "ConvInteger": conv_integer,
    "DynamicQuantizeLinear": dynamic_quantize,
    "Gemm": gemm,
    "MatMul": matmul,
    "MatMulInteger": matmul_integer,
    "MaxPool": pool,
}
"""By operator; all others are lowered as for processors."""
