"""Activation functions: element-wise, with small parameters. Narrow floats are computed in float32."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lepton_compiler.ir.op import Op, require
from lepton_compiler.ir.types import Kind, TensorType
from lepton_compiler.ops.broadcasting import require_broadcastable
from lepton_compiler.ops.precision import compute_wide
from lepton_compiler.ops.special import erf
from lepton_compiler.ops.unary import NUMERIC, Sigmoid, Unary


@dataclass(frozen=True)
class Celu(Unary):
    """x above 0, alpha * (exp(x / alpha) - 1) below."""

    alpha: float = 1.0

    def apply(self, x: Any) -> Any:  # noqa: D102
        return np.maximum(x, 0) + self.alpha * np.expm1(np.minimum(x, 0) / self.alpha)


@dataclass(frozen=True)
class Clip(Op):
    """x limited to [min, max]; either bound may be absent. Where min is above max, everything is max."""

    def infer(self, x: TensorType, min: TensorType | None = None, max: TensorType | None = None) -> tuple[TensorType, ...]:  # noqa: D102
        require(x.dtype.kind in NUMERIC, f"Clip takes numbers, not {x.dtype}")
        for what, bound in (("min", min), ("max", max)):
            if bound is not None:
                require(bound.dtype == x.dtype, f"Clip's {what} is {bound.dtype}, its input {x.dtype}")
                require(all(d == 1 for d in bound.shape if isinstance(d, int)), f"Clip's {what} is {bound}, not one value")
        return (x,)

    def evaluate(self, x: Any, min: Any = None, max: Any = None) -> tuple[np.ndarray, ...]:  # noqa: D102
        if min is not None:
            x = np.maximum(x, min.reshape(()))
        if max is not None:
            x = np.minimum(x, max.reshape(()))
        return (x,)


@dataclass(frozen=True)
class Elu(Unary):
    """x above 0, alpha * (exp(x) - 1) below."""

    alpha: float = 1.0

    def apply(self, x: Any) -> Any:  # noqa: D102
        return np.where(x > 0, x, self.alpha * np.expm1(np.minimum(x, 0)))


@dataclass(frozen=True)
class Gelu(Unary):
    """Gaussian error linear unit, exact or (approximate="tanh") with the usual tanh formula."""

    approximate: str = "none"

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        require(self.approximate in ("none", "tanh"), f"Gelu has no approximation '{self.approximate}'")
        return super().infer(x)

    def apply(self, x: Any) -> Any:  # noqa: D102
        if self.approximate == "tanh":
            return 0.5 * x * (1 + np.tanh(float(np.sqrt(2 / np.pi)) * (x + 0.044715 * x * x * x)))
        return 0.5 * x * (1 + erf(x * float(np.sqrt(0.5))))


@dataclass(frozen=True)
class HardSigmoid(Unary):
    """alpha * x + beta limited to [0, 1]; computed as alpha * (x + beta / alpha), which keeps its precision where it leaves 0."""

    alpha: float = 0.2
    beta: float = 0.5

    @property
    def shift(self) -> float:
        """What is added to x; NaN where alpha is 0."""
        return self.beta / self.alpha if self.alpha else math.nan

    def apply(self, x: Any) -> Any:  # noqa: D102
        return np.clip((x + self.shift) * self.alpha if math.isfinite(self.shift) else self.alpha * x + self.beta, 0, 1)


@dataclass(frozen=True)
class HardSwish(Unary):
    """x times HardSigmoid(alpha=1/6, beta=0.5)(x)."""

    def apply(self, x: Any) -> Any:  # noqa: D102
        return x * (np.clip(x + 3, 0, 6) / 6)


@dataclass(frozen=True)
class LeakyRelu(Unary):
    """x above 0, alpha * x below."""

    alpha: float = 0.01

    def apply(self, x: Any) -> Any:  # noqa: D102
        return np.where(x < 0, self.alpha * x, x)


@dataclass(frozen=True)
class Mish(Unary):
    """x * tanh(softplus(x))."""

    def apply(self, x: Any) -> Any:  # noqa: D102
        return x * np.tanh(np.logaddexp(x, 0))


@dataclass(frozen=True)
class PRelu(Op):
    """x above 0, slope * x below; the slope broadcasts to x."""

    def infer(self, x: TensorType, slope: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        require(x.dtype.kind in NUMERIC, f"PRelu takes numbers, not {x.dtype}")
        require(slope.dtype == x.dtype, f"PRelu's slope is {slope.dtype}, its input {x.dtype}")
        require_broadcastable(slope.shape, x.shape, "PRelu's slope")
        return (x,)

    def evaluate(self, x: Any, slope: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        return (compute_wide(lambda x, slope: np.where(x < 0, slope * x, x), x, slope),)


@dataclass(frozen=True)
class Relu(Unary):
    """max(x, 0)."""

    kinds: ClassVar[tuple[Kind, ...]] = ("int", "float")

    def apply(self, x: Any) -> Any:  # noqa: D102
        return np.maximum(x, np.zeros((), x.dtype))


@dataclass(frozen=True)
class Selu(Unary):
    """gamma * x above 0, gamma * alpha * (exp(x) - 1) below."""

    alpha: float = 1.6732632423543772
    gamma: float = 1.0507009873554805

    def apply(self, x: Any) -> Any:  # noqa: D102
        return self.gamma * np.where(x > 0, x, self.alpha * np.expm1(np.minimum(x, 0)))


@dataclass(frozen=True)
class Shrink(Unary):
    """x moved towards 0 by bias outside [-lambd, lambd], 0 inside."""

    bias: float = 0.0
    lambd: float = 0.5
    kinds: ClassVar[tuple[Kind, ...]] = NUMERIC

    def apply(self, x: Any) -> Any:  # noqa: D102
        moved = np.where(x < -self.lambd, x + self.bias, np.where(x > self.lambd, x - self.bias, 0))
        return moved.astype(x.dtype)


@dataclass(frozen=True)
class Softplus(Unary):
    """log(1 + exp(x)), without overflow."""

    def apply(self, x: Any) -> Any:  # noqa: D102
        return np.logaddexp(x, 0)


@dataclass(frozen=True)
class Softsign(Unary):
    """x / (1 + |x|)."""

    def apply(self, x: Any) -> Any:  # noqa: D102
        return x / (1 + np.abs(x))


@dataclass(frozen=True)
class Swish(Unary):
    """x * sigmoid(alpha * x)."""

    alpha: float = 1.0

    def apply(self, x: Any) -> Any:  # noqa: D102
        return x * Sigmoid().apply(self.alpha * x)


@dataclass(frozen=True)
class ThresholdedRelu(Unary):
    """x above alpha, else 0."""

    alpha: float = 1.0

    def apply(self, x: Any) -> Any:  # noqa: D102
        return np.where(x > self.alpha, x, 0)
