"""Composite reductions as an element-wise function, a sum, and another function."""

from __future__ import annotations

from lepton_compiler.ir.graph import Value
from lepton_compiler.ir.types import FLOAT64
from lepton_compiler.ops import reduce as ops
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.decompose import as_type, decomposition_in_float32


def _sum(build: Builder, op: ops.Reduce, x: Value) -> Value:
    return build(ops.ReduceSum(op.axes, op.keepdims), x)


def _inexact(build: Builder, x: Value) -> Value:
    return x if x.type.dtype.is_float else as_type(build, x, FLOAT64)


@decomposition_in_float32(ops.ReduceL1)
def _(build: Builder, op: ops.ReduceL1, x: Value) -> Value:
    return _sum(build, op, build.Abs(x))


@decomposition_in_float32(ops.ReduceL2)
def _(build: Builder, op: ops.ReduceL2, x: Value) -> Value:
    x = _inexact(build, x)
    return build.Sqrt(_sum(build, op, build.Mul(x, x)))


@decomposition_in_float32(ops.ReduceSumSquare)
def _(build: Builder, op: ops.ReduceSumSquare, x: Value) -> Value:
    return _sum(build, op, build.Mul(x, x))


@decomposition_in_float32(ops.ReduceLogSum)
def _(build: Builder, op: ops.ReduceLogSum, x: Value) -> Value:
    return build.Log(_sum(build, op, _inexact(build, x)))


@decomposition_in_float32(ops.ReduceLogSumExp)
def _(build: Builder, op: ops.ReduceLogSumExp, x: Value) -> Value:
    x = _inexact(build, x)
    peak = build(ops.ReduceMax(op.axes, keepdims=True), x)
    peak = build.Where(build.IsInf(peak), build.constant(0.0, peak), peak)
    total = build(ops.ReduceSum(op.axes, keepdims=True), build.Exp(build.Sub(x, peak)))
    result = build.Add(build.Log(total), peak)
    return result if op.keepdims or not op.axes else build.Squeeze(result, axes=op.axes)
