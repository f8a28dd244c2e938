"""Element-wise operators of several tensors, broadcast as numpy does.

The arithmetic ones also work on object arrays of symbolic dimensions, which is how shape computations are followed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any, ClassVar

import numpy as np

from lepton_compiler.ir.dim import maximum, minimum
from lepton_compiler.ir.op import Op, require
from lepton_compiler.ir.types import BOOL, Kind, TensorType
from lepton_compiler.ops.broadcasting import broadcast_shapes
from lepton_compiler.ops.precision import compute_wide
from lepton_compiler.ops.sizes import dims_equal, dims_less, truncated_division, truth
from lepton_compiler.ops.unary import NUMERIC

DimFunction = Callable[[Any, Any], Any]


def broadcast_type(op: Op, kinds: tuple[Kind, ...], *operands: TensorType) -> TensorType:
    """The type of operands of one element type, broadcast together.

    Raises:
        InferenceError: element types differ or are not of `kinds`, or the shapes do not broadcast.
    """
    require(bool(operands), f"{op.name} needs an operand")
    first = operands[0].dtype
    require(all(t.dtype == first for t in operands), f"{op.name} mixes element types {', '.join(str(t.dtype) for t in operands)}")
    require(first.kind in kinds, f"{op.name} takes {' or '.join(kinds)} elements, not {first}")
    return TensorType(first, broadcast_shapes(*(t.shape for t in operands)))


def by_element(function: DimFunction, a: Any, b: Any) -> np.ndarray:
    """`function` on every pair of elements of two object arrays."""
    return np.asarray(np.frompyfunc(function, 2, 1)(a, b), dtype=object)


@dataclass(frozen=True)
class Binary(Op):
    """Base: two operands of one element type, an output of the same type.

    Class attributes:
        kinds: kinds of element types that the operator takes.
        dim_function: what it does on two symbolic dimensions, for the operators that are `symbolic`.
    """

    kinds: ClassVar[tuple[Kind, ...]] = NUMERIC
    dim_function: ClassVar[DimFunction | None] = None

    def infer(self, a: TensorType, b: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        return (broadcast_type(self, self.kinds, a, b),)

    def evaluate(self, a: Any, b: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        return (compute_wide(self.apply, a, b),)

    def evaluate_symbolic(self, a: Any, b: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        function = type(self).dim_function
        return (by_element(function, a, b) if function else self.apply(a, b),)

    def apply(self, a: Any, b: Any) -> Any:
        """The function itself, on arrays that broadcast."""
        raise NotImplementedError(f"{self.name}.apply")


@dataclass(frozen=True)
class Comparison(Binary):
    """Base: two operands of one element type, a truth value per pair."""

    symbolic: ClassVar[bool] = True

    def infer(self, a: TensorType, b: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        return (TensorType(BOOL, broadcast_type(self, self.kinds, a, b).shape),)


@dataclass(frozen=True)
class Logical(Binary):
    """Base: two truth values to one."""

    symbolic: ClassVar[bool] = True
    kinds: ClassVar[tuple[Kind, ...]] = ("bool",)


@dataclass(frozen=True)
class Bitwise(Binary):
    """Base: two integers, bit by bit."""

    kinds: ClassVar[tuple[Kind, ...]] = ("int", "uint")


@dataclass(frozen=True)
class Add(Binary):
    """a + b; integers wrap around."""

    symbolic: ClassVar[bool] = True

    def apply(self, a: Any, b: Any) -> Any:  # noqa: D102
        return np.add(a, b)


@dataclass(frozen=True)
class Sub(Binary):
    """a - b; integers wrap around."""

    symbolic: ClassVar[bool] = True

    def apply(self, a: Any, b: Any) -> Any:  # noqa: D102
        return np.subtract(a, b)


@dataclass(frozen=True)
class Mul(Binary):
    """a * b; integers wrap around."""

    symbolic: ClassVar[bool] = True

    def apply(self, a: Any, b: Any) -> Any:  # noqa: D102
        return np.multiply(a, b)


@dataclass(frozen=True)
class Div(Binary):
    """a / b; the quotient of integers is truncated towards zero."""

    symbolic: ClassVar[bool] = True
    dim_function: ClassVar[DimFunction | None] = staticmethod(truncated_division)

    def apply(self, a: Any, b: Any) -> Any:  # noqa: D102
        if np.issubdtype(a.dtype, np.inexact):
            return np.divide(a, b)
        down = np.floor_divide(a, b)
        adjust = (np.remainder(a, b) != 0) & ((a < 0) != (b < 0))
        return (down + adjust.astype(down.dtype)).astype(a.dtype)


@dataclass(frozen=True)
class Mod(Binary):
    """Remainder of a / b: of the divisor's sign, or of the dividend's (as in C) with `fmod`."""

    fmod: bool = False
    symbolic: ClassVar[bool] = True

    def apply(self, a: Any, b: Any) -> Any:  # noqa: D102
        return np.fmod(a, b) if self.fmod else np.remainder(a, b)

    def evaluate_symbolic(self, a: Any, b: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        return (by_element(lambda x, y: x - (truncated_division(x, y) if self.fmod else x // y) * y, a, b),)


@dataclass(frozen=True)
class Pow(Binary):
    """a to the power of b, in the type of a.

    An integer to the power of an integer is exact, modulo the range of the type; a negative power of one other than 1 and -1 is 0.
    """

    def infer(self, a: TensorType, b: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        for t in (a, b):
            require(t.dtype.kind in NUMERIC, f"Pow takes numbers, not {t.dtype}")
        return (TensorType(a.dtype, broadcast_shapes(a.shape, b.shape)),)

    def apply(self, a: Any, b: Any) -> Any:  # noqa: D102
        if np.issubdtype(a.dtype, np.inexact):
            return np.power(a, b).astype(a.dtype)
        if np.issubdtype(b.dtype, np.inexact):
            return np.power(a.astype(np.float64), b.astype(np.float64)).astype(a.dtype)
        whole = np.power(a.astype(np.uint64), np.where(b < 0, 0, b).astype(np.uint64)).astype(a.dtype)
        inverse = np.where(a == 1, 1, np.where(a == -1, np.where(b % 2 == 1, -1, 1), 0)).astype(a.dtype)
        return np.where(b < 0, inverse, whole)


@dataclass(frozen=True)
class Equal(Comparison):
    """a == b."""

    kinds: ClassVar[tuple[Kind, ...]] = (*NUMERIC, "bool", "complex")
    dim_function: ClassVar[DimFunction | None] = staticmethod(dims_equal)

    def apply(self, a: Any, b: Any) -> Any:  # noqa: D102
        return np.equal(a, b)


@dataclass(frozen=True)
class Greater(Comparison):
    """a > b."""

    dim_function: ClassVar[DimFunction | None] = staticmethod(lambda a, b: dims_less(b, a))

    def apply(self, a: Any, b: Any) -> Any:  # noqa: D102
        return np.greater(a, b)


@dataclass(frozen=True)
class GreaterOrEqual(Comparison):
    """a >= b."""

    dim_function: ClassVar[DimFunction | None] = staticmethod(lambda a, b: not dims_less(a, b))

    def apply(self, a: Any, b: Any) -> Any:  # noqa: D102
        return np.greater_equal(a, b)


@dataclass(frozen=True)
class Less(Comparison):
    """a < b."""

    dim_function: ClassVar[DimFunction | None] = staticmethod(dims_less)

    def apply(self, a: Any, b: Any) -> Any:  # noqa: D102
        return np.less(a, b)


@dataclass(frozen=True)
class LessOrEqual(Comparison):
    """a <= b."""

    dim_function: ClassVar[DimFunction | None] = staticmethod(lambda a, b: not dims_less(b, a))

    def apply(self, a: Any, b: Any) -> Any:  # noqa: D102
        return np.less_equal(a, b)


@dataclass(frozen=True)
class And(Logical):
    """Both."""

    dim_function: ClassVar[DimFunction | None] = staticmethod(lambda a, b: truth(a) and truth(b))

    def apply(self, a: Any, b: Any) -> Any:  # noqa: D102
        return np.logical_and(a, b)


@dataclass(frozen=True)
class Or(Logical):
    """Either or both."""

    dim_function: ClassVar[DimFunction | None] = staticmethod(lambda a, b: truth(a) or truth(b))

    def apply(self, a: Any, b: Any) -> Any:  # noqa: D102
        return np.logical_or(a, b)


@dataclass(frozen=True)
class Xor(Logical):
    """Exactly one."""

    dim_function: ClassVar[DimFunction | None] = staticmethod(lambda a, b: truth(a) != truth(b))

    def apply(self, a: Any, b: Any) -> Any:  # noqa: D102
        return np.logical_xor(a, b)


@dataclass(frozen=True)
class BitwiseAnd(Bitwise):
    """Bits set in both."""

    def apply(self, a: Any, b: Any) -> Any:  # noqa: D102
        return np.bitwise_and(a, b)


@dataclass(frozen=True)
class BitwiseOr(Bitwise):
    """Bits set in either."""

    def apply(self, a: Any, b: Any) -> Any:  # noqa: D102
        return np.bitwise_or(a, b)


@dataclass(frozen=True)
class BitwiseXor(Bitwise):
    """Bits set in exactly one."""

    def apply(self, a: Any, b: Any) -> Any:  # noqa: D102
        return np.bitwise_xor(a, b)


@dataclass(frozen=True)
class BitShift(Bitwise):
    """a shifted by b bits, to the LEFT or the RIGHT.

    A shift by a negative number or by the width or more empties the value; to the right, the sign of a signed value stays.
    """

    direction: str = "LEFT"

    def infer(self, a: TensorType, b: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        require(self.direction in ("LEFT", "RIGHT"), f"BitShift has no direction '{self.direction}'")
        return super().infer(a, b)

    def apply(self, a: Any, b: Any) -> Any:  # noqa: D102
        width = a.dtype.itemsize * 8
        valid = (b >= 0) & (b < width)
        by = np.where(valid, b, 0).astype(a.dtype)
        empty = np.zeros((), a.dtype)
        if self.direction == "LEFT":
            return np.where(valid, np.left_shift(a, by), empty)
        return np.where(valid, np.right_shift(a, by), np.where(a < 0, np.invert(empty), empty))


@dataclass(frozen=True)
class Variadic(Op):
    """Base: any number of operands of one element type, at least one."""

    kinds: ClassVar[tuple[Kind, ...]] = NUMERIC

    def infer(self, *xs: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        return (broadcast_type(self, self.kinds, *xs),)

    def evaluate(self, *xs: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        return (compute_wide(self.apply, *xs),)

    def apply(self, *xs: Any) -> Any:
        """The function itself, on arrays that broadcast."""
        raise NotImplementedError(f"{self.name}.apply")


@dataclass(frozen=True)
class Max(Variadic):
    """The largest of the operands; NaN if one is NaN."""

    symbolic: ClassVar[bool] = True

    def apply(self, *xs: Any) -> Any:  # noqa: D102
        return reduce(np.maximum, xs)

    def evaluate_symbolic(self, *xs: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        return (reduce(lambda a, b: by_element(maximum, a, b), xs),)


@dataclass(frozen=True)
class Min(Variadic):
    """The smallest of the operands; NaN if one is NaN."""

    symbolic: ClassVar[bool] = True

    def apply(self, *xs: Any) -> Any:  # noqa: D102
        return reduce(np.minimum, xs)

    def evaluate_symbolic(self, *xs: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        return (reduce(lambda a, b: by_element(minimum, a, b), xs),)


@dataclass(frozen=True)
class Sum(Variadic):
    """The sum of the operands."""

    kinds: ClassVar[tuple[Kind, ...]] = ("float",)

    def apply(self, *xs: Any) -> Any:  # noqa: D102
        return reduce(np.add, xs)


@dataclass(frozen=True)
class Mean(Sum):
    """The mean of the operands."""

    def apply(self, *xs: Any) -> Any:  # noqa: D102
        return super().apply(*xs) / len(xs)


@dataclass(frozen=True)
class Where(Op):
    """x where the condition holds, else y."""

    symbolic: ClassVar[bool] = True

    def infer(self, condition: TensorType, x: TensorType, y: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        require(condition.dtype == BOOL, f"Where's condition is {condition.dtype}, not bool")
        require(x.dtype == y.dtype, f"Where mixes element types {x.dtype} and {y.dtype}")
        return (TensorType(x.dtype, broadcast_shapes(condition.shape, x.shape, y.shape)),)

    def evaluate(self, condition: Any, x: Any, y: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        return (np.where(condition, x, y),)

    def evaluate_symbolic(self, condition: Any, x: Any, y: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        known = np.asarray(np.frompyfunc(truth, 1, 1)(condition), dtype=bool)
        return (np.where(known, x, y),)
