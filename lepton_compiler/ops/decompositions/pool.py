"""The p-norm pool as a convolution, and max unpooling as a scatter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lepton_compiler.errors import UnsupportedError
from lepton_compiler.ir.dim import Dim
from lepton_compiler.ir.graph import Node, Value
from lepton_compiler.ops.binary import Mul, Pow
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.conv import Conv
from lepton_compiler.ops.decompose import decomposition
from lepton_compiler.ops.indexing import Pad, ScatterElements
from lepton_compiler.ops.pool import LpPool, MaxUnpool
from lepton_compiler.ops.shape import ConstantOfShape, Reshape, count
from lepton_compiler.ops.unary import Abs, Sqrt


@decomposition(LpPool)
def lp_pool(build: Builder, node: Node) -> Sequence[Value]:
    """The p-th root of a depth-wise convolution of |x| to the power p with ones."""
    op, x = node.op, node.inputs[0]
    assert isinstance(op, LpPool) and x is not None
    channels, out = x.type.shape[1], node.output.type.shape[2:]
    if not isinstance(channels, int):
        raise UnsupportedError("LpPool over an unknown number of channels", where=node.describe(), hint="bind the dimension")
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
