"""Activation functions in terms of arithmetic, comparisons and exponentials."""

from __future__ import annotations

import math

from lepton_compiler.ir.graph import Value
from lepton_compiler.ir.types import FLOAT64
from lepton_compiler.ops import activation as ops
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.cast import Cast
from lepton_compiler.ops.decompose import as_type, decomposition_in_float32


def _positive_or(build: Builder, x: Value, otherwise: Value) -> Value:
    return build.Where(build.Greater(x, 0.0), x, otherwise)


def _expm1_below_zero(build: Builder, x: Value) -> Value:
    """exp(min(x, 0)) - 1 without cancellation near 0: 2 t / (1 - t) with t = tanh(x / 2)."""
    half = build.Tanh(build.Mul(build.Min(x, 0.0), 0.5))
    return build.Div(build.Add(half, half), build.Sub(build.constant(1.0, half), half))


@decomposition_in_float32(ops.Celu)
def _(build: Builder, op: ops.Celu, x: Value) -> Value:
    scaled = build.Div(build.Min(x, 0.0), op.alpha)  # not below zero where alpha is: there the plain difference does not cancel
    below = _expm1_below_zero(build, scaled) if op.alpha > 0 else build.Sub(build.Exp(scaled), 1.0)
    return build.Add(build.Max(x, 0.0), build.Mul(below, op.alpha))


@decomposition_in_float32(ops.Clip)
def _(build: Builder, op: ops.Clip, x: Value, low: Value | None = None, high: Value | None = None) -> Value:
    if low is not None:
        x = build.Max(x, build.Reshape(low, shape=()) if low.type.rank else low)
    if high is not None:
        x = build.Min(x, build.Reshape(high, shape=()) if high.type.rank else high)
    return x


@decomposition_in_float32(ops.Elu)
def _(build: Builder, op: ops.Elu, x: Value) -> Value:
    return _positive_or(build, x, build.Mul(_expm1_below_zero(build, x), op.alpha))


@decomposition_in_float32(ops.Gelu)
def _(build: Builder, op: ops.Gelu, x: Value) -> Value:
    if op.approximate == "tanh":
        cube = build.Mul(build.Mul(x, x), x)
        inner = build.Mul(build.Add(x, build.Mul(cube, 0.044715)), math.sqrt(2 / math.pi))
        gate = build.Tanh(inner)
    else:
        gate = build.Erf(build.Mul(x, math.sqrt(0.5)))
    return build.Mul(build.Mul(x, 0.5), build.Add(gate, 1.0))


@decomposition_in_float32(ops.HardSigmoid)
def _(build: Builder, op: ops.HardSigmoid, x: Value) -> Value:
    line = build.Mul(build.Add(x, op.shift), op.alpha) if math.isfinite(op.shift) else build.Add(build.Mul(x, op.alpha), op.beta)
    return build.Min(build.Max(line, 0.0), 1.0)


@decomposition_in_float32(ops.HardSwish)
def _(build: Builder, op: ops.HardSwish, x: Value) -> Value:
    gate = build.Min(build.Max(build.Add(x, 3.0), 0.0), 6.0)
    return build.Mul(x, build.Mul(gate, 1 / 6))


@decomposition_in_float32(ops.LeakyRelu)
def _(build: Builder, op: ops.LeakyRelu, x: Value) -> Value:
    return build.Where(build.Less(x, 0.0), build.Mul(x, op.alpha), x)


@decomposition_in_float32(ops.Mish)
def _(build: Builder, op: ops.Mish, x: Value) -> Value:
    """tanh(log(1 + e)) = p / (p + 2) with p = e (e + 2); beyond 20 it is 1."""
    power = build.Exp(build.Min(x, 20.0))
    p = build.Mul(power, build.Add(power, 2.0))
    return build.Mul(x, build.Div(p, build.Add(p, 2.0)))


@decomposition_in_float32(ops.PRelu)
def _(build: Builder, op: ops.PRelu, x: Value, slope: Value) -> Value:
    return build.Where(build.Less(x, 0), build.Mul(x, slope), x)


@decomposition_in_float32(ops.Relu)
def _(build: Builder, op: ops.Relu, x: Value) -> Value:
    return build.Max(x, 0)


@decomposition_in_float32(ops.Selu)
def _(build: Builder, op: ops.Selu, x: Value) -> Value:
    return build.Mul(_positive_or(build, x, build.Mul(_expm1_below_zero(build, x), op.alpha)), op.gamma)


@decomposition_in_float32(ops.Shrink)
def _(build: Builder, op: ops.Shrink, x: Value) -> Value:
    element = x.type.dtype
    x = x if element.is_float else build(Cast(to=FLOAT64), x)
    inside = build.Where(build.Greater(x, op.lambd), build.Sub(x, op.bias), build.constant(0.0, x))
    return as_type(build, build.Where(build.Less(x, -op.lambd), build.Add(x, op.bias), inside), element)


@decomposition_in_float32(ops.Softplus)
def _(build: Builder, op: ops.Softplus, x: Value) -> Value:
    """max(x, 0) + log(1 + e); the rounding of 1 + e is undone by e / ((1 + e) - 1) (W. Kahan)."""
    small = build.Exp(build.Neg(build.Abs(x)))
    whole = build.Add(small, 1.0)
    corrected = build.Mul(build.Log(whole), build.Div(small, build.Sub(whole, 1.0)))
    return build.Add(build.Max(x, 0.0), build.Where(build.Equal(whole, 1.0), small, corrected))


@decomposition_in_float32(ops.Softsign)
def _(build: Builder, op: ops.Softsign, x: Value) -> Value:
    return build.Div(x, build.Add(build.Abs(x), 1.0))


@decomposition_in_float32(ops.Swish)
def _(build: Builder, op: ops.Swish, x: Value) -> Value:
    return build.Mul(x, build.Sigmoid(x if op.alpha == 1 else build.Mul(x, op.alpha)))


@decomposition_in_float32(ops.ThresholdedRelu)
def _(build: Builder, op: ops.ThresholdedRelu, x: Value) -> Value:
    return build.Where(build.Greater(x, op.alpha), x, build.constant(0.0, x))
