"""Activation functions written out; the rules in the order in which they are tried."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np

from lepton_compiler.ir.graph import Node, Value
from lepton_compiler.ops.builder import Builder
from lepton_compiler.rewrite import Rule, is_constant_of, simplifies
from lepton_compiler.rewrite.rule import Replacement


def is_number(array: np.ndarray) -> bool:
    """Whether a constant is a single ordinary number."""
    return array.size == 1 and bool(np.isfinite(array.astype(np.float64)).all())


class SigmoidFromExp(Rule):
    """1 / (1 + exp(-x))  -->  Sigmoid(x)"""

    def pattern(self, p: Any, x: Any) -> Any:
        """See the class."""
        below = p.Add(p.Exp(p.Neg(x)), 1.0)
        return p.Reciprocal(below), p.Div(1.0, below)

    def replace(self, b: Builder, x: Value) -> Replacement:
        """See the class."""
        return b.Sigmoid(x)


class Silu(Rule):
    """x * sigmoid(x)  -->  Swish(x)"""

    def pattern(self, p: Any, x: Any) -> Any:
        """See the class."""
        return p.Mul(x, p.Sigmoid(x))

    def replace(self, b: Builder, x: Value) -> Replacement:
        """See the class."""
        return b.Swish(x)


class ScaledSwish(Rule):
    """x * sigmoid(c * x)  -->  Swish(alpha=c)(x)"""

    def pattern(self, p: Any, x: Any) -> Any:
        """See the class."""
        return p.Mul(x, p.Sigmoid(p.Mul(x, p.constant("c", is_number))))

    def replace(self, b: Builder, x: Value, c: Value) -> Replacement:
        """See the class."""
        return b.Swish(x, alpha=float(c.numpy().reshape(-1)[0]))


class GeluErf(Rule):
    """x / 2 * (1 + erf(x / sqrt(2)))  -->  Gelu(x)"""

    def pattern(self, p: Any, x: Any) -> Any:
        """See the class."""
        inside = (p.Mul(x, math.sqrt(0.5)), p.Div(x, math.sqrt(2)))
        return tuple(form for i in inside for form in halves(p, x, p.Add(p.Erf(i), 1.0)))

    def replace(self, b: Builder, x: Value) -> Replacement:
        """See the class."""
        return b.Gelu(x)


class GeluTanh(Rule):
    """x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x ** 3)))  -->  Gelu(approximate="tanh")(x)"""

    def pattern(self, p: Any, x: Any) -> Any:
        """See the class."""
        cubes = (p.Pow(x, 3.0), p.Mul(p.Mul(x, x), x))
        sums = [p.Add(x, p.Mul(cube, 0.044715)) for cube in cubes]
        sums += [p.Mul(x, p.Add(p.Mul(p.Mul(x, x), 0.044715), 1.0))]
        scaled = [p.Mul(s, math.sqrt(2 / math.pi)) for s in sums]
        return tuple(form for s in scaled for form in halves(p, x, p.Add(p.Tanh(s), 1.0)))

    def replace(self, b: Builder, x: Value) -> Replacement:
        """See the class."""
        return b.Gelu(x, approximate="tanh")


def halves(p: Any, x: Any, factor: Any) -> tuple[Any, ...]:
    """The ways to write x / 2 * factor."""
    half: tuple[Callable[[Any], Any], ...] = (lambda y: p.Mul(y, 0.5), lambda y: p.Div(y, 2.0))
    return tuple(f for h in half for f in (p.Mul(h(x), factor), p.Mul(x, h(factor)), h(p.Mul(x, factor))))


def relu6(p: Any, y: Any) -> tuple[Any, ...]:
    """The ways to write min(max(y, 0), 6)."""
    return p.Clip(y, 0.0, 6.0), p.Min(p.Max(y, 0.0), 6.0), p.Min(p.Relu(y), 6.0)


def sixths(p: Any, y: Any) -> tuple[Any, ...]:
    """The ways to write y / 6."""
    return p.Div(y, 6.0), p.Mul(y, 1 / 6)


class HardSigmoidFromClip(Rule):
    """clip(x + 3, 0, 6) / 6  -->  HardSigmoid(1/6, 1/2)(x)"""

    def pattern(self, p: Any, x: Any) -> Any:
        """See the class."""
        return tuple(form for clipped in relu6(p, p.Add(x, 3.0)) for form in sixths(p, clipped))

    def replace(self, b: Builder, x: Value) -> Replacement:
        """See the class."""
        return b.HardSigmoid(x, alpha=1 / 6, beta=0.5)


class HardSigmoidFromLine(Rule):
    """clip(a x + c, 0, 1)  -->  HardSigmoid(a, c)(x)"""

    def pattern(self, p: Any, x: Any) -> Any:
        """See the class."""
        return p.Clip(p.Add(p.Mul(x, p.constant("a", is_number)), p.constant("c", is_number)), 0.0, 1.0)

    def replace(self, b: Builder, x: Value, a: Value, c: Value) -> Replacement:
        """See the class."""
        return b.HardSigmoid(x, alpha=float(a.numpy().reshape(-1)[0]), beta=float(c.numpy().reshape(-1)[0]))


class HardSwishFromHardSigmoid(Rule):
    """x * HardSigmoid(1/6, 1/2)(x)  -->  HardSwish(x)"""

    def pattern(self, p: Any, x: Any) -> Any:
        """See the class."""
        return p.Mul(x, p.HardSigmoid(x, named="gate"))

    def check(self, gate: Node) -> str | None:
        """See the class."""
        op: Any = gate.op
        fits = math.isclose(op.alpha, 1 / 6, rel_tol=1e-4) and math.isclose(op.beta, 0.5, rel_tol=1e-6)
        return None if fits else f"it is {op!r}"

    def replace(self, b: Builder, x: Value) -> Replacement:
        """See the class."""
        return b.HardSwish(x)


class HardSwishFromClip(Rule):
    """x * clip(x + 3, 0, 6) / 6  -->  HardSwish(x)"""

    def pattern(self, p: Any, x: Any) -> Any:
        """See the class."""
        clipped = relu6(p, p.Add(x, 3.0))
        products = [p.Mul(x, c) for c in clipped] + [p.Mul(s, c) for c, s in product(clipped, sixths(p, x))]
        return tuple(form for m in products[: len(clipped)] for form in sixths(p, m)) + tuple(products[len(clipped) :])

    def replace(self, b: Builder, x: Value) -> Replacement:
        """See the class."""
        return b.HardSwish(x)


class SoftplusFromLog(Rule):
    """log(1 + exp(x))  -->  Softplus(x), which does not overflow"""

    def pattern(self, p: Any, x: Any) -> Any:
        """See the class."""
        return p.Log(p.Add(p.Exp(x), 1.0))

    def replace(self, b: Builder, x: Value) -> Replacement:
        """See the class."""
        return b.Softplus(x)


class MishFromSoftplus(Rule):
    """x * tanh(softplus(x))  -->  Mish(x)"""

    def pattern(self, p: Any, x: Any) -> Any:
        """See the class."""
        return p.Mul(x, p.Tanh(p.Softplus(x)))

    def replace(self, b: Builder, x: Value) -> Replacement:
        """See the class."""
        return b.Mish(x)


@simplifies("Max")
def relu_from_max(b: Builder, node: Node) -> Replacement:
    """max(x, 0)  -->  Relu(x)"""
    if len(node.inputs) != 2 or not is_constant_of(node.present_inputs[1], 0.0):
        return None
    x = node.present_inputs[0]
    return b.Relu(x) if x.type == node.output.type and x.type.dtype.is_float else None


@simplifies("Clip")
def relu_from_clip(b: Builder, node: Node) -> Replacement:
    """Clip(x, 0)  -->  Relu(x)"""
    x, *bounds = node.inputs
    if x is None or not bounds or bounds[0] is None or (len(bounds) > 1 and bounds[1] is not None) or not x.type.dtype.is_float:
        return None
    return b.Relu(x) if is_constant_of(bounds[0], 0.0) else None


ACTIVATIONS = [
    SigmoidFromExp(), GeluErf(), GeluTanh(), HardSwishFromClip(), HardSigmoidFromClip(), HardSigmoidFromLine(), HardSwishFromHardSigmoid(),
    SoftplusFromLog(), MishFromSoftplus(), Silu(), ScaledSwish(), relu_from_max, relu_from_clip,
]  # fmt: skip
