"""Rarer window operators in terms of convolutions, scatters and element-wise operators."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lepton_compiler.ir.dim import Dim
from lepton_compiler.ir.graph import Node, Value
from lepton_compiler.ir.types import INT32
from lepton_compiler.ops.binary import Mul, Pow, Sub
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.cast import Cast
from lepton_compiler.ops.conv import Col2Im, Conv, ConvInteger, ConvTranspose
from lepton_compiler.ops.decompose import decomposition
from lepton_compiler.ops.indexing import Pad, ScatterElements
from lepton_compiler.ops.pool import LpPool, MaxUnpool
from lepton_compiler.ops.shape import ConstantOfShape, Reshape, count
from lepton_compiler.ops.unary import Abs, Sqrt
from lepton_compiler.ops.window import window_shape


@decomposition(ConvInteger)
def conv_integer(build: Builder, node: Node) -> Sequence[Value]:
    """`Conv` in int32 of the operands less their zero points."""
    op = node.op
    assert isinstance(op, ConvInteger)
    x, w, x_zero, w_zero = [*node.inputs, None, None][:4]
    assert x is not None and w is not None
    x, w = build(Cast(to=INT32), x), build(Cast(to=INT32), w)
    if x_zero is not None:
        x = build(Sub(), x, build(Reshape(shape=()), build(Cast(to=INT32), x_zero)))
    if w_zero is not None:
        column = (count(w_zero.type.shape), *(1,) * (w.type.rank - 1))
        w = build(Sub(), w, build(Reshape(shape=column), build(Cast(to=INT32), w_zero)))
    return [build(Conv(strides=op.strides, pads=op.pads, dilations=op.dilations, groups=op.groups), x, w)]


@decomposition(Col2Im)
def col2im(build: Builder, node: Node) -> Sequence[Value]:
    """`ConvTranspose` of the columns, each kernel position being a channel, with a one-hot kernel."""
    op, x = node.op, node.inputs[0]
    assert isinstance(op, Col2Im) and x is not None
    block, rank = tuple(int(b) for b in op.block_shape), len(op.image_shape)  # type: ignore[arg-type]
    out = window_shape(op.image_shape, block, op.strides, op.dilations, op.pads)
    area = math.prod(block)
    n, channels = node.output.type.shape[:2]
    columns = build(Reshape(shape=(n * channels, area, *out)), x)
    kernel = build.constant(np.eye(area, dtype=np.float64).reshape(area, 1, *block).astype(x.type.dtype.numpy))
    rest = []
    for i, (image, windows) in enumerate(zip(op.image_shape, out, strict=True)):
        reach = (windows - 1) * op.strides[i] + (block[i] - 1) * op.dilations[i] + 1
        rest.append(image + op.pads[i] + op.pads[rank + i] - reach)
    spread = ConvTranspose(strides=op.strides, pads=op.pads, dilations=op.dilations, output_padding=tuple(rest))  # type: ignore[arg-type]
    return [build(Reshape(shape=node.output.type.shape), build(spread, columns, kernel))]


@decomposition(LpPool)
def lp_pool(build: Builder, node: Node) -> Sequence[Value]:
    """The p-th root of a depth-wise convolution of |x| to the power p with ones."""
    op, x = node.op, node.inputs[0]
    assert isinstance(op, LpPool) and x is not None
    channels, out = x.type.shape[1], node.output.type.shape[2:]
    if not isinstance(channels, int):
        return ()
    size = build(Abs(), x)
    powers = build(Mul(), x, x) if op.p == 2 else size if op.p == 1 else build(Pow(), size, build.constant(float(op.p), x))
    rank = len(out)
    ends: list[Dim] = []
    for i, windows in enumerate(out):
        last = (windows - 1) * op.strides[i] + (op.kernel_shape[i] - 1) * op.dilations[i] + 1
        ends.append(last - x.type.shape[2 + i] - op.pads[i])
    ones = build.constant(np.ones((channels, 1, *op.kernel_shape), np.float32).astype(x.type.dtype.numpy))
    conv = Conv(strides=op.strides, pads=(*op.pads[:rank], *ends), dilations=op.dilations, groups=channels)
    total = build(conv, powers, ones)
    if op.p == 1:
        return [total]
    return [build(Sqrt(), total) if op.p == 2 else build(Pow(), total, build.constant(1.0 / op.p, x))]


@decomposition(MaxUnpool)
def max_unpool(build: Builder, node: Node) -> Sequence[Value]:
    """Scatter the flattened elements into zeros, then Pad where a larger output was asked for."""
    op = node.op
    assert isinstance(op, MaxUnpool)
    x, indices = node.inputs
    assert x is not None and indices is not None
    flat = Reshape(shape=(count(x.type.shape),))
    shape = op.pooled_from(x.type.shape)
    zeros = build(ConstantOfShape(shape=(count(shape),), value=0, dtype=x.type.dtype))
    y = build(Reshape(shape=shape), build(ScatterElements(axis=0), zeros, build(flat, indices), build(flat, x)))
    wanted = node.output.type.shape
    if wanted != shape:
        y = build(Pad(pads=(*(0,) * len(shape), *(a - b for a, b in zip(wanted, shape, strict=True)))), y)
    return [y]
