"""Integer convolution on int32."""

from __future__ import annotations

from collections.abc import Sequence

from lepton_compiler.ir.graph import Node, Value
from lepton_compiler.ir.types import INT32
from lepton_compiler.ops import conv as ops
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.decompose import as_type, decomposition


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
        weights = build.Sub(weights, build.Reshape(zero, shape=(zero.type.shape[0], *(1,) * (w.type.rank - 1))) if many else _scalar(build, zero))
    return [build(ops.Conv(strides=op.strides, pads=op.pads, dilations=op.dilations, groups=op.groups), data, weights)]


def _scalar(build: Builder, value: Value) -> Value:
    return build.Reshape(value, shape=()) if value.type.rank else value
