"""Normalisations written out; the rules in the order in which they are tried."""

from __future__ import annotations

from typing import Any

import numpy as np

from lepton_compiler.ir.graph import Node, Value
from lepton_compiler.ops.builder import Builder
from lepton_compiler.passes.compose.activations import is_number
from lepton_compiler.rewrite import Rule
from lepton_compiler.rewrite.rule import Replacement


def squares(p: Any, y: Any) -> tuple[Any, ...]:
    """The ways to write y ** 2."""
    return p.Mul(y, y), p.Pow(y, 2.0)


def divisions(p: Any, y: Any, root: Any) -> tuple[Any, ...]:
    """The ways to write y / sqrt(root)."""
    return p.Div(y, p.Sqrt(root)), p.Mul(y, p.Reciprocal(p.Sqrt(root))), p.Mul(y, p.Div(1.0, p.Sqrt(root))), p.Mul(y, p.Pow(root, -0.5))


def trailing_axis(reduction: Node) -> int | str:
    """The first of the axes that a reduction sums over, if they are the last ones and are kept; else why not."""
    op: Any = reduction.op
    rank = reduction.present_inputs[0].type.rank
    axes: list[int] = sorted(a % rank for a in op.axes)
    if not op.keepdims or not axes or axes != list(range(axes[0], rank)):
        return f"it reduces over axes {op.axes} with keepdims={op.keepdims}"
    return axes[0]


def ones(b: Builder, x: Value) -> Value:
    """A scale of one."""
    return b.constant(np.ones((1,), x.type.dtype.numpy), name="scale")


class LayerNormFromMoments(Rule):
    """(x - mean(x)) / sqrt(mean((x - mean(x)) ** 2) + epsilon)  -->  LayerNormalization(x)"""

    def pattern(self, p: Any, x: Any) -> Any:
        """See the class."""
        d = p.Sub(x, p.ReduceMean(x, named="mean"))
        variances = [p.ReduceMean(s, named="variance") for s in squares(p, d)]
        return tuple(f for v in variances for f in divisions(p, d, p.Add(v, p.constant("epsilon", is_number))))

    def check(self, mean: Node, variance: Node) -> str | None:
        """See the class."""
        axis = trailing_axis(mean)
        return axis if isinstance(axis, str) else None if trailing_axis(variance) == axis else "mean and variance are over different axes"

    def replace(self, b: Builder, x: Value, mean: Node, epsilon: Value) -> Replacement:
        """See the class."""
        return b.LayerNormalization(x, ones(b, x), axis=trailing_axis(mean), epsilon=float(epsilon.numpy().reshape(-1)[0]))


class RMSNormFromMoments(Rule):
    """x / sqrt(mean(x ** 2) + epsilon)  -->  RMSNormalization(x)"""

    def pattern(self, p: Any, x: Any) -> Any:
        """See the class."""
        moments = [p.ReduceMean(s, named="mean") for s in squares(p, x)]
        return tuple(f for m in moments for f in divisions(p, x, p.Add(m, p.constant("epsilon", is_number))))

    def check(self, mean: Node) -> str | None:
        """See the class."""
        axis = trailing_axis(mean)
        return axis if isinstance(axis, str) else None

    def replace(self, b: Builder, x: Value, mean: Node, epsilon: Value) -> Replacement:
        """See the class."""
        return b.RMSNormalization(x, ones(b, x), axis=trailing_axis(mean), epsilon=float(epsilon.numpy().reshape(-1)[0]))


class NormScale(Rule):
    """LayerNormalization(x, ones) * scale  -->  LayerNormalization(x, scale); the same for RMSNormalization"""

    def pattern(self, p: Any, x: Any, scale: Any) -> Any:
        """See the class."""
        return p.Mul(p.LayerNormalization(x, 1.0, named="norm"), scale), p.Mul(p.RMSNormalization(x, 1.0, named="norm"), scale)

    def check(self, x: Value, scale: Value, norm: Node) -> str | None:
        """See the class."""
        return parameter_problem(x, scale, norm)

    def replace(self, b: Builder, x: Value, scale: Value, norm: Node) -> Replacement:
        """See the class."""
        return b(norm.op, x, scale)


class NormShift(Rule):
    """LayerNormalization(x, scale) + shift  -->  LayerNormalization(x, scale, shift)"""

    def pattern(self, p: Any, x: Any, scale: Any, shift: Any) -> Any:
        """See the class."""
        return p.Add(p.LayerNormalization(x, scale, named="norm"), shift)

    def check(self, x: Value, shift: Value, norm: Node) -> str | None:
        """See the class."""
        return parameter_problem(x, shift, norm)

    def replace(self, b: Builder, x: Value, scale: Value, shift: Value, norm: Node) -> Replacement:
        """See the class."""
        return b(norm.op, x, scale, shift)


def parameter_problem(x: Value, parameter: Value, norm: Node) -> str | None:
    """Why a value is not a scale or shift over the normalised axes."""
    op: Any = norm.op
    if len(norm.outputs) > 1:
        return "its statistics are used"
    over = x.type.shape[op.axis % x.type.rank :]
    return None if parameter.is_constant and parameter.type.shape == over else f"'{parameter.name}' is not a constant of shape {list(over)}"


class SoftmaxFromExp(Rule):
    """exp(x - max(x)) / sum(exp(x - max(x)))  -->  Softmax(x)"""

    def pattern(self, p: Any, x: Any) -> Any:
        """See the class."""
        e = p.Exp(p.Sub(x, p.ReduceMax(x, named="most")))
        return p.Div(e, p.ReduceSum(e, named="total"))

    def check(self, most: Node, total: Node) -> str | None:
        """See the class."""
        axes = [getattr(n.op, "axes") for n in (most, total)]  # noqa: B009
        kept = all(getattr(n.op, "keepdims") for n in (most, total))  # noqa: B009
        return None if kept and len(axes[0]) == 1 and axes[0] == axes[1] else f"it reduces over axes {axes[0]} and {axes[1]}"

    def replace(self, b: Builder, x: Value, total: Node) -> Replacement:
        """See the class."""
        return b.Softmax(x, axis=getattr(total.op, "axes")[0])  # noqa: B009


class LogSoftmaxFromLog(Rule):
    """log(Softmax(x))  -->  LogSoftmax(x), which does not underflow"""

    def pattern(self, p: Any, x: Any) -> Any:
        """See the class."""
        return p.Log(p.Softmax(x, named="softmax"))

    def replace(self, b: Builder, x: Value, softmax: Node) -> Replacement:
        """See the class."""
        return b.LogSoftmax(x, axis=getattr(softmax.op, "axis"))  # noqa: B009


class ReduceL2FromSquares(Rule):
    """sqrt(sum(x ** 2))  -->  ReduceL2(x)"""

    def pattern(self, p: Any, x: Any) -> Any:
        """See the class."""
        return (*(p.Sqrt(p.ReduceSum(s, named="total")) for s in squares(p, x)), p.Sqrt(p.ReduceSumSquare(x, named="total")))

    def replace(self, b: Builder, x: Value, total: Node) -> Replacement:
        """See the class."""
        op: Any = total.op
        return b.ReduceL2(x, axes=op.axes, keepdims=op.keepdims)


NORMALIZATIONS = [
    LayerNormFromMoments(), RMSNormFromMoments(), NormScale(), NormShift(), SoftmaxFromExp(), LogSoftmaxFromLog(), ReduceL2FromSquares(),
]  # fmt: skip
