"""Softmax and normalizations in terms of reductions and arithmetic, in float32 for narrow floats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lepton_compiler.ir.dim import Dim
from lepton_compiler.ir.graph import Node, Value
from lepton_compiler.ir.types import INT64
from lepton_compiler.ops import normalize as ops
from lepton_compiler.ops.axes import normal_axis
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.decompose import as_type, decomposition, decomposition_in_float32, wide


def _mean(build: Builder, x: Value, axes: tuple[int, ...]) -> Value:
    return build.ReduceMean(x, axes=axes, keepdims=True)


def _standardized(build: Builder, x: Value, axes: tuple[int, ...], epsilon: float) -> tuple[Value, Value, Value]:
    """`x` with mean 0 and variance 1 over `axes`, the mean, and 1 / sqrt(variance + epsilon)."""
    mean = _mean(build, x, axes)
    centred = build.Sub(x, mean)
    variance = _mean(build, build.Mul(centred, centred), axes)
    inverse = build.Reciprocal(build.Sqrt(build.Add(variance, epsilon)))
    return build.Mul(centred, inverse), mean, inverse


def _per_channel(build: Builder, vector: Value, x: Value, axis: int = 1) -> Value:
    """A vector [C] in the shape that broadcasts along `axis` of `x`."""
    shape: list[Dim] = [1] * (x.type.rank - axis)
    shape[0] = vector.type.shape[0]
    return build.Reshape(vector, shape=tuple(shape)) if len(shape) > 1 else vector


def _shifted_by_peak(build: Builder, x: Value, axis: int) -> Value:
    return build.Sub(x, build.ReduceMax(x, axes=(axis,), keepdims=True))


@decomposition_in_float32(ops.Softmax)
def _(build: Builder, op: ops.Softmax, x: Value) -> Value:
    powers = build.Exp(_shifted_by_peak(build, x, op.axis))
    return build.Div(powers, build.ReduceSum(powers, axes=(op.axis,), keepdims=True))


@decomposition_in_float32(ops.LogSoftmax)
def _(build: Builder, op: ops.LogSoftmax, x: Value) -> Value:
    shifted = _shifted_by_peak(build, x, op.axis)
    total = build.ReduceSum(build.Exp(shifted), axes=(op.axis,), keepdims=True)
    return build.Sub(shifted, build.Log(total))


@decomposition(ops.Hardmax)
def _(build: Builder, node: Node) -> Sequence[Value]:
    (x,), op = node.present_inputs, node.op
    assert isinstance(op, ops.Hardmax)
    axis = normal_axis(op.axis, x.type.rank)
    size = x.type.shape[axis]
    if size == 0:
        return [x]
    shape = (size,) + (1,) * (x.type.rank - axis - 1)
    places = (
        build.constant(np.arange(size).reshape(shape))
        if isinstance(size, int)
        else build.Reshape(build.Range(start=0, limit=size, delta=1, dtype=INT64), shape=shape)
    )
    best = build.ArgMax(x, axis=axis, keepdims=True)
    return [as_type(build, build.Equal(best, places), x.type.dtype)]


@decomposition_in_float32(ops.LpNormalization)
def _(build: Builder, op: ops.LpNormalization, x: Value) -> Value:
    if op.p == 1:
        norm = build.ReduceSum(build.Abs(x), axes=(op.axis,), keepdims=True)
    else:
        norm = build.Sqrt(build.ReduceSum(build.Mul(x, x), axes=(op.axis,), keepdims=True))
    zero = build.Equal(norm, 0.0)
    safe = build.Where(zero, build.constant(1.0, norm), norm)
    return build.Where(zero, build.constant(0.0, x), build.Div(x, safe))


@decomposition(ops.BatchNormalization)
def _(build: Builder, node: Node) -> Sequence[Value]:
    op = node.op
    assert isinstance(op, ops.BatchNormalization)
    x = wide(build, node.present_inputs[0])
    scale, b, mean, var = (as_type(build, p, x.type.dtype) for p in node.present_inputs[1:])
    factor = build.Div(scale, build.Sqrt(build.Add(var, op.epsilon)))
    offset = build.Sub(b, build.Mul(mean, factor))
    axis = normal_axis(op.axis, x.type.rank)
    y = build.Add(build.Mul(x, _per_channel(build, factor, x, axis)), _per_channel(build, offset, x, axis))
    return [as_type(build, y, node.output.type.dtype)]


@decomposition_in_float32(ops.InstanceNormalization)
def _(build: Builder, op: ops.InstanceNormalization, x: Value, scale: Value, b: Value) -> Value:
    y, _, _ = _standardized(build, x, tuple(range(2, x.type.rank)), op.epsilon)
    return build.Add(build.Mul(y, _per_channel(build, scale, x)), _per_channel(build, b, x))


@decomposition(ops.LayerNormalization)
def _(build: Builder, node: Node) -> Sequence[Value]:
    op, element = node.op, node.output.type.dtype
    assert isinstance(op, ops.LayerNormalization)
    x, scale, *rest = (wide(build, v) for v in node.present_inputs)
    axes = tuple(range(normal_axis(op.axis, x.type.rank), x.type.rank))
    y, mean, inverse = _standardized(build, x, axes, op.epsilon)
    y = build.Mul(y, scale)
    for b in rest:
        y = build.Add(y, b)
    y = as_type(build, y, element)
    return [y, mean, inverse] if op.statistics else [y]


@decomposition_in_float32(ops.GroupNormalization)
def _(build: Builder, op: ops.GroupNormalization, x: Value, scale: Value, b: Value) -> Value:
    batch, channels, *spatial = x.type.shape
    grouped = build.Reshape(x, shape=(batch, op.num_groups, _product((channels // op.num_groups, *spatial))))
    y, _, _ = _standardized(build, grouped, (2,), op.epsilon)
    y = build.Reshape(y, shape=x.type.shape)
    return build.Add(build.Mul(y, _per_channel(build, scale, x)), _per_channel(build, b, x))


@decomposition_in_float32(ops.RMSNormalization)
def _(build: Builder, op: ops.RMSNormalization, x: Value, scale: Value) -> Value:
    axes = tuple(range(normal_axis(op.axis, x.type.rank), x.type.rank))
    square = _mean(build, build.Mul(x, x), axes)
    inverse = build.Reciprocal(build.Sqrt(build.Add(square, op.epsilon)))
    return build.Mul(build.Mul(x, inverse), scale)


@decomposition_in_float32(ops.MeanVarianceNormalization)
def _(build: Builder, op: ops.MeanVarianceNormalization, x: Value) -> Value:
    centred = build.Sub(x, _mean(build, x, op.axes))
    deviation = build.Sqrt(_mean(build, build.Mul(centred, centred), op.axes))
    return build.Div(centred, build.Add(deviation, 1e-9))


@decomposition_in_float32(ops.LRN)
def _(build: Builder, op: ops.LRN, x: Value) -> Value:
    batch, channels, *spatial = x.type.shape
    inner = _product(spatial)
    before = (op.size - 1) // 2
    squares = build.Reshape(build.Mul(x, x), shape=(batch, 1, channels, inner))
    mean = build.AveragePool(
        squares,
        kernel_shape=(op.size, 1),
        strides=(1, 1),
        pads=(before, 0, op.size - 1 - before, 0),
        dilations=(1, 1),
        count_include_pad=True,
    )
    mean = build.Reshape(mean, shape=x.type.shape)
    return build.Div(x, build.Pow(build.Add(build.Mul(mean, op.alpha), op.bias), op.beta))


def _product(sizes: Sequence[Dim]) -> Dim:
    total: Dim = 1
    for size in sizes:
        total = total * size
    return total
