"""Matrix multiplication and convolution: weights are packed at compile time where they are known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import te, tirx

from lepton_compiler.backends.tvm.compute import conv as conv_compute
from lepton_compiler.backends.tvm.compute import matmul as matmul_compute
from lepton_compiler.backends.tvm.compute import narrow
from lepton_compiler.backends.tvm.compute.window import Window
from lepton_compiler.backends.tvm.lower.context import Arg, Context, Expr, compute, lowers, wide
from lepton_compiler.backends.tvm.lower.conversion import convert
from lepton_compiler.backends.tvm.packing import NIBBLES, PACKINGS
from lepton_compiler.backends.tvm.schedules import n_block, oc_block
from lepton_compiler.ir.types import DType, TensorType


def accumulator(dtype: str) -> str:
    """The type in which products of `dtype` are summed."""
    return "int32" if dtype in ("int8", "uint8") else wide(dtype)


@lowers("MatMul")
def lower_matmul(ctx: Context, op: Any, a: Arg, b: Arg) -> list[Any]:
    """Numpy's matmul, batched with broadcasting; a constant 2-D right operand is packed."""
    kind = ctx.outputs[0]
    acc = accumulator(kind.dtype.name)
    if len(b.shape) == 2 and b.is_weight and len(a.shape) >= 2:
        packed = _packed(ctx, b, "matmul", n_block(b.shape[1], ctx.target, ctx.choice, math.prod(a.shape[:-1])), 0)
        result, spaces = matmul_compute.matmul_packed(ctx.tensor(a), packed, b.shape[1], acc_dtype=acc)
        ctx.workspace(*spaces)
        return [_cast(ctx, result, kind.dtype.name)]
    left, right = ctx.tensor(a), ctx.tensor(b)
    vector_left, vector_right = len(a.shape) == 1, len(b.shape) == 1
    if vector_left or vector_right:
        return [_vector_product(ctx, a, b, kind, acc)]
    result, spaces = matmul_compute.matmul(left, right, n_block=n_block(b.shape[-1], ctx.target, ctx.choice), acc_dtype=acc)
    ctx.workspace(*spaces)
    return [_cast(ctx, result, kind.dtype.name)]


@dataclass(frozen=True)
class Converted:
    """A packed weight as numbers of another type; each element is converted where it is read.

    Attributes:
        tensor: the codes; of less than a byte two rows of them to a byte.
        source: the type of the codes.
        target: the type of the numbers.
        rows: how many rows of codes there are: the size of the last axis but one.
        scales: of groups of rows, in the same arrangement.
        group: how many rows are a group.
    """

    tensor: Any
    source: DType
    target: DType
    rows: int
    scales: Any = None
    group: int = 0

    @property
    def shape(self) -> Any:
        """Of the packed weight, one number per code."""
        *outer, _, lanes = self.tensor.shape
        return [*outer, self.rows, lanes]

    def __getitem__(self, index: tuple[Expr, ...]) -> Expr:
        *outer, row, lane = index
        if self.source.bits == 4:
            byte = self.tensor(*outer, tirx.floordiv(row, 2), lane)
            code = tirx.shift_right(byte, tirx.Cast("uint8", tirx.floormod(row, 2) * 4))
        else:
            code = self.tensor(*index)
        number = convert(code, self.source, self.target)
        return number if self.scales is None else number * self.scales(*outer, tirx.floordiv(row, self.group), lane)


def _packed(ctx: Context, weight: Arg, function: str, *arguments: int) -> Any:
    """A weight in the arrangement that a kernel reads, in the type that it multiplies in."""
    if weight.stored is None:
        return ctx.pack(weight, function, *arguments)
    source = weight.stored.type.dtype
    rows = PACKINGS[function](np.broadcast_to(np.zeros((), np.int8), weight.shape), *arguments).shape[-2]
    tensor = ctx.pack(weight, NIBBLES + function if source.bits == 4 else function, *arguments)
    scales, group = (None, 0) if weight.scales is None else weight.scales
    return Converted(tensor, source, weight.type.dtype, rows, None if scales is None else ctx.pack(scales, function, *arguments), group)


def _vector_product(ctx: Context, a: Arg, b: Arg, kind: TensorType, acc: str) -> Any:
    """Products with a 1-D operand, whose axis is the one summed over."""
    k = te.reduce_axis((0, a.shape[-1]), "k")
    rows = 0 if len(a.shape) == 1 else 1

    def body(*i: Expr) -> Expr:
        outer = list(i)
        column = [] if len(b.shape) == 1 else [outer.pop()]
        row = [outer.pop()] if rows else []
        return te.sum(_outer(a, outer, [*row, k]).astype(acc) * _outer(b, outer, [k, *column]).astype(acc), axis=[k])

    return _cast(ctx, compute(kind.static_shape, body, "vector_product"), kind.dtype.name)


def _outer(x: Arg, outer: Sequence[Expr], inner: list[Expr]) -> Expr:
    """The element at broadcast batch index `outer` and own index `inner`."""
    batch = x.shape[: len(x.shape) - len(inner)]
    index = [tirx.const(0, "int32") if d == 1 else outer[len(outer) - len(batch) + a] for a, d in enumerate(batch)]
    return x[[*index, *inner]]


def _cast(ctx: Context, tensor: Any, dtype: str) -> Any:
    if str(tensor.dtype) == dtype:
        return tensor
    return compute(tensor.shape, lambda *i: tensor(*i).astype(dtype), "narrow")


@lowers("Gemm")
def lower_gemm(ctx: Context, op: Any, a: Arg, b: Arg, c: Arg | None = None) -> list[Any]:
    """`alpha * op(a) @ op(b) + beta * c`."""
    kind = ctx.outputs[0]
    acc = accumulator(kind.dtype.name)
    n = b.shape[0] if op.trans_b else b.shape[1]
    left = ctx.tensor(a)
    if 0 in a.shape:
        product, spaces = compute(kind.static_shape, lambda *i: tirx.const(0, acc), "nothing"), list[Any]()
    elif b.is_weight and not op.trans_a:
        packed = _packed(ctx, b, "matmul", n_block(n, ctx.target, ctx.choice, a.shape[0]), int(op.trans_b))
        product, spaces = matmul_compute.matmul_packed(left, packed, n, acc_dtype=acc)
    else:
        product, spaces = matmul_compute.matmul(
            left, ctx.tensor(b), n_block=n_block(n, ctx.target, ctx.choice), trans_a=op.trans_a, trans_b=op.trans_b, acc_dtype=acc
        )
    ctx.workspace(*spaces)
    if c is None and op.alpha == 1.0:
        return [_cast(ctx, product, kind.dtype.name)]

    def body(*i: Expr) -> Expr:
        value = product(*i)
        if op.alpha != 1.0:
            value = value * tirx.const(op.alpha, acc)
        if c is not None:
            value = value + (c.at(i).astype(acc) if op.beta == 1.0 else c.at(i).astype(acc) * tirx.const(op.beta, acc))
        return value.astype(kind.dtype.name)

    return [compute(kind.static_shape, body, "gemm")]


def _spatial(values: Sequence[int], fill: int) -> tuple[int, int]:
    """Two spatial values from one or two."""
    return (fill, int(values[0])) if len(values) == 1 else (int(values[0]), int(values[1]))


def _pads(pads: Sequence[int]) -> tuple[int, int, int, int]:
    """`top, left, bottom, right` from ONNX's begins then ends."""
    return (0, int(pads[0]), 0, int(pads[1])) if len(pads) == 2 else (int(pads[0]), int(pads[1]), int(pads[2]), int(pads[3]))


def _to_nhwc(ctx: Context, x: Arg, layout: str) -> Any:
    """The operand as `[N, H, W, C]`; a change of layout is its own loop nest, into a workspace."""
    tensor, shape = ctx.tensor(x), x.shape
    if layout == "NHWC":
        if len(shape) == 4:
            return tensor
        n, w, c = shape
        return compute((n, 1, w, c), lambda b, h, w, c: tensor(b, w, c), "rows")
    if len(shape) == 4:
        n, c, h, w = shape
        moved = compute((n, h, w, c), lambda b, y, x, k: tensor(b, k, y, x), "to_nhwc")
    else:
        n, c, w = shape
        moved = compute((n, 1, w, c), lambda b, y, x, k: tensor(b, k, x), "to_nhwc")
    ctx.workspace(moved)
    return moved


def _from_nhwc(y: Any, rank: int, layout: str) -> Any:
    n, h, w, c = (int(d) for d in y.shape)
    if layout == "NHWC":
        return y if rank == 4 else compute((n, w, c), lambda b, x, k: y(b, 0, x, k), "rows")
    if rank == 4:
        return compute((n, c, h, w), lambda b, k, i, j: y(b, i, j, k), "to_nchw")
    return compute((n, c, w), lambda b, k, j: y(b, 0, j, k), "to_ncw")


@lowers("Conv")
def lower_conv(ctx: Context, op: Any, x: Arg, w: Arg, b: Arg | None = None) -> list[Any]:
    """1-D and 2-D convolutions through the channels-last kernels; others, and run-time weights, directly."""
    rank, kind = len(x.shape), ctx.outputs[0].dtype.name
    acc = accumulator(kind)
    if rank not in (3, 4) or not w.is_weight:
        return [_add_bias(ctx, op, direct_conv(ctx, op, x, w, acc), b, kind)]
    strides, dilations, pads = _spatial(op.strides, 1), _spatial(op.dilations, 1), _pads(op.pads)
    source = _to_nhwc(ctx, x, op.layout)
    channels, suffix = w.shape[0], "" if rank == 4 else "1d"
    tall = rank == 4 and int(source.shape[2]) == 1 and w.shape[3] == 1 and not pads[1] and not pads[3] and strides[1] == 1
    if tall:  # a register tile runs along the row
        column, suffix = source, "tall"
        source = compute((int(column.shape[0]), 1, *column.shape[1::2]), lambda n, i, j, k: column(n, j, 0, k), "row")
        strides, dilations, pads = strides[::-1], dilations[::-1], (0, pads[0], 0, pads[2])
    window = Window.of(source.shape, (1, w.shape[2]) if suffix else w.shape[2:], strides, pads, dilations)
    if op.groups == 1 and acc == "float32" and narrow.pays(window, channels, ctx.target):
        y, spaces = narrow.conv2d_narrow(source, _narrow_weight(ctx, w, suffix), window, channels, ctx.target)
    elif op.groups == int(source.shape[3]) and w.shape[1] == 1 and op.groups > 1:
        y, spaces = conv_compute.depthwise_conv2d_nhwc(
            source, _packed(ctx, w, f"depthwise{suffix}"), strides=strides, pads=pads, dilations=dilations, acc_dtype=acc
        )
    else:
        packed = _packed(ctx, w, f"conv{suffix}", oc_block(channels // op.groups, ctx.target, ctx.choice), op.groups)
        y, spaces = conv_compute.conv2d_nhwc(
            source, packed, out_channels=channels, strides=strides, pads=pads, dilations=dilations, groups=op.groups, acc_dtype=acc
        )
    ctx.workspace(*spaces)
    if tall:
        row = y
        y = compute((int(row.shape[0]), int(row.shape[2]), 1, int(row.shape[3])), lambda n, i, j, k: row(n, 0, i, k), "column")
    if b is not None:
        plain, bias = y, b
        y = compute(plain.shape, lambda n, i, j, k: plain(n, i, j, k) + bias[[k]].astype(acc), "bias")
    return [_cast(ctx, _from_nhwc(y, rank, op.layout), kind)]


def _narrow_weight(ctx: Context, w: Arg, suffix: str) -> Callable[..., Expr]:
    """Reads a weight by input channel, filter row and column, and output channel, along which its elements are neighbours in memory."""
    packed = _packed(ctx, w, "transpose", 1, *range(2, len(w.shape)), 0)
    taps: dict[str, Callable[[Expr, Expr], tuple[Expr, ...]]] = {
        "": lambda rh, rw: (rh, rw), "1d": lambda rh, rw: (rw,), "tall": lambda rh, rw: (rw, rh)
    }  # fmt: skip
    return lambda rc, rh, rw, k: packed[(rc, *taps[suffix](rh, rw), k)]


def _add_bias(ctx: Context, op: Any, y: Any, b: Arg | None, kind: str) -> Any:
    if b is None:
        return _cast(ctx, y, kind)
    axis = 1 if op.layout == "NCHW" else len(y.shape) - 1
    return compute(y.shape, lambda *i: (y(*i) + b[[i[axis]]].astype(str(y.dtype))).astype(kind), "bias")


def direct_conv(ctx: Context, op: Any, x: Arg, w: Arg, acc: str) -> Any:
    """Any rank and any weights: a reduction per output element, without packing."""
    spatial = len(x.shape) - 2
    out, out_channels, in_group = ctx.outputs[0].static_shape, w.shape[0], w.shape[1]
    per_group = out_channels // op.groups
    rc = te.reduce_axis((0, in_group), "rc")
    taps = [te.reduce_axis((0, k), f"r{a}") for a, k in enumerate(w.shape[2:])]
    last = op.layout == "NHWC"
    size = x.shape[1:-1] if last else x.shape[2:]

    def body(*i: Expr) -> Expr:
        pixel, channel = (i[1:-1], i[-1]) if last else (i[2:], i[1])
        at = [p * s + t * d - b for p, s, t, d, b in zip(pixel, op.strides, taps, op.dilations, op.pads[:spatial], strict=True)]
        inside = [
            c
            for a, n, low, high in zip(at, size, op.pads[:spatial], op.pads[spatial:], strict=True)
            for c in ((a >= 0, a < n) if low or high else ())
        ]
        source = rc if op.groups == 1 else tirx.floordiv(channel, per_group) * in_group + rc
        value = x[[i[0], *at, source] if last else [i[0], source, *at]].astype(acc)
        if inside:
            value = tirx.if_then_else(tirx.all(*inside), value, tirx.const(0, acc))
        return te.sum(value * w[[channel, rc, *taps]].astype(acc), axis=[rc, *taps])

    return compute(out, body, "direct_conv")


@lowers("ConvTranspose")
def lower_conv_transpose(ctx: Context, op: Any, x: Arg, w: Arg, b: Arg | None = None) -> list[Any]:
    """Gather form, any rank: each output element sums the taps whose stride it falls on."""
    kind = ctx.outputs[0].dtype.name
    acc, spatial = accumulator(kind), len(x.shape) - 2
    in_group, per_group = w.shape[0] // op.groups, w.shape[1]
    rc = te.reduce_axis((0, in_group), "rc")
    taps = [te.reduce_axis((0, k), f"r{a}") for a, k in enumerate(w.shape[2:])]
    last = op.layout == "NHWC"
    size = x.shape[1:-1] if last else x.shape[2:]

    def body(*i: Expr) -> Expr:
        pixel, channel = (i[1:-1], i[-1]) if last else (i[2:], i[1])
        offset = [p + begin - t * d for p, begin, t, d in zip(pixel, op.pads[:spatial], taps, op.dilations, strict=True)]
        at = [tirx.floordiv(o, s) for o, s in zip(offset, op.strides, strict=True)]
        inside = [c for o, s, a, n in zip(offset, op.strides, at, size, strict=True) for c in (tirx.floormod(o, s) == 0, a >= 0, a < n)]
        group = tirx.floordiv(channel, per_group) if op.groups > 1 else tirx.const(0, "int32")
        source = group * in_group + rc
        element = x[[i[0], *at, source] if last else [i[0], source, *at]].astype(acc)
        product = element * w[[source, channel - group * per_group, *taps]].astype(acc)
        return te.sum(tirx.if_then_else(tirx.all(*inside), product, tirx.const(0, acc)), axis=[rc, *taps])

    y = compute(ctx.outputs[0].static_shape, body, "conv_transpose")
    return [_add_bias(ctx, op, y, b, kind)]


@lowers("BatchNormalization")
def lower_batch_norm(ctx: Context, op: Any, x: Arg, scale: Arg, bias: Arg, mean: Arg, variance: Arg) -> list[Any]:
    """Inference form, one set of statistics per channel."""
    axis, kind = op.axis % len(x.shape), wide(x.dtype)

    def body(*i: Expr) -> Expr:
        centre, spread, factor, shift = (parameter[[i[axis]]].astype(kind) for parameter in (mean, variance, scale, bias))
        factor = factor / tirx.sqrt(spread + tirx.const(op.epsilon, kind))
        return ((x[i].astype(kind) - centre) * factor + shift).astype(x.dtype)

    return [compute(x.shape, body, "batch_norm")]
