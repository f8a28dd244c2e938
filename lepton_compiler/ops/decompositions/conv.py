"""Integer convolution on int32, and columns back to images by transposed convolution."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lepton_compiler.ir.graph import Node, Value
from lepton_compiler.ir.types import INT32
from lepton_compiler.ops import conv as ops
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.decompose import as_type, decomposition
from lepton_compiler.ops.shape import Reshape
from lepton_compiler.ops.window import window_shape


@decomposition(ops.ConvInteger)
def _(build: Builder, node: Node) -> Sequence[Value]:
    op = node.op
    assert isinstance(op, ops.ConvInteger)
    x, w, x_zero, w_zero = (*node.inputs, None, None)[:4]
    assert x is not None and w is not None
    data, weights = as_type(build, x, INT32), as_type(build, w, INT32)
    if x_zero is not None:
        data = build.Sub(data, _scalar(build, as_type(build, x_zero, INT32)))
    if w_zero is not None:
        zero = as_type(build, w_zero, INT32)
        many = zero.type.rank == 1 and zero.type.shape[0] != 1
        weights = build.Sub(
            weights, build.Reshape(zero, shape=(zero.type.shape[0], *(1,) * (w.type.rank - 1))) if many else _scalar(build, zero)
        )
    return [build(ops.Conv(strides=op.strides, pads=op.pads, dilations=op.dilations, groups=op.groups), data, weights)]


@decomposition(ops.Col2Im)
def col2im(build: Builder, node: Node) -> Sequence[Value]:
    """`ConvTranspose` of the columns, each kernel position being a channel, with a one-hot kernel."""
    op, x = node.op, node.inputs[0]
    assert isinstance(op, ops.Col2Im) and x is not None
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
    spread = ops.ConvTranspose(strides=op.strides, pads=op.pads, dilations=op.dilations, output_padding=tuple(rest))  # type: ignore[arg-type]
    return [build(Reshape(shape=node.output.type.shape), build(spread, columns, kernel))]


def _scalar(build: Builder, value: Value) -> Value:
    return build.Reshape(value, shape=()) if value.type.rank else value
