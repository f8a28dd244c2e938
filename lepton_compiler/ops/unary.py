"""Element-wise functions of one tensor. Narrow floats are computed in float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lepton_compiler.ir.op import Op, require
from lepton_compiler.ir.types import BOOL, Kind, TensorType
from lepton_compiler.ops.precision import compute_wide
from lepton_compiler.ops.special import erf

NUMERIC: tuple[Kind, ...] = ("int", "uint", "float")


@dataclass(frozen=True)
class Unary(Op):
    """Base: one operand, one output of the same type.

    Class attributes:
        kinds: kinds of element types that the operator takes.
    """

    kinds: ClassVar[tuple[Kind, ...]] = ("float",)

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        require(x.dtype.kind in self.kinds, f"{self.name} takes {' or '.join(self.kinds)} elements, not {x.dtype}")
        return (x,)

    def evaluate(self, x: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        return (compute_wide(self.apply, x),)

    def apply(self, x: Any) -> Any:
        """The function itself, on an array of any shape."""
        raise NotImplementedError(f"{self.name}.apply")


@dataclass(frozen=True)
class Predicate(Unary):
    """Base: one operand, a truth value per element."""

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        super().infer(x)
        return (TensorType(BOOL, x.shape),)


@dataclass(frozen=True)
class Abs(Unary):
    """Absolute value; the smallest signed integer stays what it is."""

    kinds: ClassVar[tuple[Kind, ...]] = NUMERIC

    def apply(self, x: Any) -> Any:  # noqa: D102
        return np.abs(x)


@dataclass(frozen=True)
class Neg(Unary):
    """-x."""

    symbolic: ClassVar[bool] = True
    kinds: ClassVar[tuple[Kind, ...]] = ("int", "float")

    def apply(self, x: Any) -> Any:  # noqa: D102
        return np.negative(x)


@dataclass(frozen=True)
class Sign(Unary):
    """-1, 0 or 1; NaN stays NaN."""

    kinds: ClassVar[tuple[Kind, ...]] = NUMERIC

    def apply(self, x: Any) -> Any:  # noqa: D102
        return np.sign(x)


@dataclass(frozen=True)
class BitwiseNot(Unary):
    """Every bit of an integer inverted."""

    kinds: ClassVar[tuple[Kind, ...]] = ("int", "uint")

    def apply(self, x: Any) -> Any:  # noqa: D102
        return np.invert(x)


@dataclass(frozen=True)
class Not(Unary):
    """Logical negation of truth values."""

    symbolic: ClassVar[bool] = True
    kinds: ClassVar[tuple[Kind, ...]] = ("bool",)

    def apply(self, x: Any) -> Any:  # noqa: D102
        return np.logical_not(x)


@dataclass(frozen=True)
class IsNaN(Predicate):
    """Whether x is not a number."""

    def apply(self, x: Any) -> Any:  # noqa: D102
        return np.isnan(x)


@dataclass(frozen=True)
class IsInf(Predicate):
    """Whether x is infinite, with the signs that are asked for."""

    detect_negative: bool = True
    detect_positive: bool = True

    def apply(self, x: Any) -> Any:  # noqa: D102
        wanted = np.where(np.signbit(x), self.detect_negative, self.detect_positive)
        return np.isinf(x) & wanted


@dataclass(frozen=True)
class Acos(Unary):
    """Arc cosine in radians; NaN outside [-1, 1]."""

    def apply(self, x: Any) -> Any:  # noqa: D102
        return np.arccos(x)


@dataclass(frozen=True)
class Acosh(Unary):
    """Inverse hyperbolic cosine; NaN below 1."""

    def apply(self, x: Any) -> Any:  # noqa: D102
        return np.arccosh(x)


@dataclass(frozen=True)
class Asin(Unary):
    """Arc sine in radians; NaN outside [-1, 1]."""

    def apply(self, x: Any) -> Any:  # noqa: D102
        return np.arcsin(x)


@dataclass(frozen=True)
class Asinh(Unary):
    """Inverse hyperbolic sine."""

    def apply(self, x: Any) -> Any:  # noqa: D102
        return np.arcsinh(x)


@dataclass(frozen=True)
class Atan(Unary):
    """Arc tangent in radians."""

    def apply(self, x: Any) -> Any:  # noqa: D102
        return np.arctan(x)


@dataclass(frozen=True)
class Atanh(Unary):
    """Inverse hyperbolic tangent; NaN outside [-1, 1]."""

    def apply(self, x: Any) -> Any:  # noqa: D102
        return np.arctanh(x)


@dataclass(frozen=True)
class Ceil(Unary):
    """The smallest whole number not below x."""

    def apply(self, x: Any) -> Any:  # noqa: D102
        return np.ceil(x)


@dataclass(frozen=True)
class Cos(Unary):
    """Cosine of radians."""

    def apply(self, x: Any) -> Any:  # noqa: D102
        return np.cos(x)


@dataclass(frozen=True)
class Cosh(Unary):
    """Hyperbolic cosine."""

    def apply(self, x: Any) -> Any:  # noqa: D102
        return np.cosh(x)


@dataclass(frozen=True)
class Erf(Unary):
    """The error function."""

    kinds: ClassVar[tuple[Kind, ...]] = NUMERIC

    def apply(self, x: Any) -> Any:  # noqa: D102
        return erf(x)


@dataclass(frozen=True)
class Exp(Unary):
    """e to the power of x."""

    def apply(self, x: Any) -> Any:  # noqa: D102
        return np.exp(x)


@dataclass(frozen=True)
class Floor(Unary):
    """The largest whole number not above x."""

    def apply(self, x: Any) -> Any:  # noqa: D102
        return np.floor(x)


@dataclass(frozen=True)
class Log(Unary):
    """Natural logarithm; -inf at 0, NaN below."""

    def apply(self, x: Any) -> Any:  # noqa: D102
        return np.log(x)


@dataclass(frozen=True)
class Reciprocal(Unary):
    """1 / x."""

    def apply(self, x: Any) -> Any:  # noqa: D102
        return np.reciprocal(x)


@dataclass(frozen=True)
class Round(Unary):
    """The nearest whole number; halves go to the even one."""

    def apply(self, x: Any) -> Any:  # noqa: D102
        return np.rint(x)


@dataclass(frozen=True)
class Sigmoid(Unary):
    """1 / (1 + exp(-x)), without overflow."""

    def apply(self, x: Any) -> Any:  # noqa: D102
        small = np.exp(-np.abs(x))
        return np.where(x >= 0, 1, small) / (1 + small)


@dataclass(frozen=True)
class Sin(Unary):
    """Sine of radians."""

    def apply(self, x: Any) -> Any:  # noqa: D102
        return np.sin(x)


@dataclass(frozen=True)
class Sinh(Unary):
    """Hyperbolic sine."""

    def apply(self, x: Any) -> Any:  # noqa: D102
        return np.sinh(x)


@dataclass(frozen=True)
class Sqrt(Unary):
    """Square root; NaN below 0."""

    def apply(self, x: Any) -> Any:  # noqa: D102
        return np.sqrt(x)


@dataclass(frozen=True)
class Tan(Unary):
    """Tangent of radians."""

    def apply(self, x: Any) -> Any:  # noqa: D102
        return np.tan(x)


@dataclass(frozen=True)
class Tanh(Unary):
    """Hyperbolic tangent."""

    def apply(self, x: Any) -> Any:  # noqa: D102
        return np.tanh(x)
