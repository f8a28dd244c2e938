"""Quantization as arithmetic, rounding and casts."""

from __future__ import annotations

from collections.abc import Sequence

import ml_dtypes

from lepton_compiler.ir.graph import Node, Value
from lepton_compiler.ir.types import FLOAT32, FLOAT64, INT32, INT64, UINT8
from lepton_compiler.ops import quantize as ops
from lepton_compiler.ops.axes import normal_axis
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.cast import Cast
from lepton_compiler.ops.decompose import as_type, decomposition, wide
from lepton_compiler.ops.precision import wide_dtype


def _spread(build: Builder, op: ops.Quantization, parameter: Value, x: Value) -> Value:
    """A scale or a zero point in the shape that broadcasts to `x`."""
    axis, block = op.granularity
    shape = parameter.type.shape
    if not block:
        if all(d == 1 for d in shape):
            return build.Reshape(parameter, shape=()) if shape else parameter
        after = x.type.rank - 1 - normal_axis(axis, x.type.rank)
        return build.Reshape(parameter, shape=(shape[0], *(1,) * after)) if after else parameter
    axis = normal_axis(axis, x.type.rank)
    repeated = build.Expand(build.Unsqueeze(parameter, axes=(axis + 1,)), shape=(*shape[: axis + 1], block, *shape[axis + 1 :]))
    flat = build.Reshape(repeated, shape=(*shape[:axis], shape[axis] * block, *shape[axis + 1 :]))
    size = x.type.shape[axis]
    return flat if flat.type.shape[axis] == size else build.Slice(flat, starts=(0,), ends=(size,), axes=(axis,), steps=(1,))


@decomposition(ops.QuantizeLinear)
def _(build: Builder, node: Node) -> Sequence[Value]:
    op, (x, scale, *zeros) = node.op, node.present_inputs
    assert isinstance(op, ops.QuantizeLinear)
    common = wide_dtype(op.precision or (x.type.dtype if x.type.dtype.is_float else FLOAT32))
    if op.precision is not None:
        x, scale = as_type(build, x, op.precision), as_type(build, scale, op.precision)
    ratio = build.Div(as_type(build, x, common), as_type(build, _spread(build, op, scale, x), common))
    if op.precision is not None:
        ratio = wide(build, as_type(build, ratio, op.precision))
    if op.dtype.is_integer:
        number = build.Where(build.IsNaN(ratio), build.constant(0.0, ratio), ratio)
        ratio = build.Round(number)
        ratio = as_type(build, ratio, FLOAT64) if op.dtype.bits >= 32 else ratio
    for zero in zeros:
        ratio = build.Add(ratio, as_type(build, _spread(build, op, zero, x), ratio.type.dtype))
    if not op.dtype.is_integer:
        return [build(Cast(to=op.dtype, saturate=op.saturate), ratio)]
    info = ml_dtypes.iinfo(op.dtype.numpy)
    limited = build.Clip(ratio, float(info.min), float(info.max))
    return [as_type(build, limited, op.dtype)]


@decomposition(ops.DequantizeLinear)
def _(build: Builder, node: Node) -> Sequence[Value]:
    op, (x, scale, *zeros) = node.op, node.present_inputs
    assert isinstance(op, ops.DequantizeLinear)
    spread = wide(build, _spread(build, op, scale, x))
    exact = INT64 if x.type.dtype == INT32 and zeros else FLOAT32
    moved = as_type(build, x, exact)
    for zero in zeros:
        moved = build.Sub(moved, as_type(build, _spread(build, op, zero, x), exact))
    return [as_type(build, build.Mul(as_type(build, moved, spread.type.dtype), spread), op.dtype)]


@decomposition(ops.DynamicQuantizeLinear)
def _(build: Builder, node: Node) -> Sequence[Value]:
    (x,) = node.present_inputs
    axes = tuple(range(x.type.rank))
    low = build.Min(build.ReduceMin(x, axes=axes, keepdims=False), 0.0)
    high = build.Max(build.ReduceMax(x, axes=axes, keepdims=False), 0.0)
    width = build.Sub(high, low)
    width = build.Where(build.Equal(width, 0.0), build.constant(1.0, width), width)
    scale = build.Div(width, 255.0)
    zero = build.Round(build.Clip(build.Div(build.Neg(low), scale), 0.0, 255.0))
    y = build.Clip(build.Add(build.Round(build.Div(x, scale)), zero), 0.0, 255.0)
    return [as_type(build, y, UINT8), scale, as_type(build, zero, UINT8)]
