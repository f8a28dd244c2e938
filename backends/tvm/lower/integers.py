"""Integer arithmetic that no processor does as the evaluator does: zero divisors, overflow, shifts by any number, exact powers."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from lepton_compiler.backends.tvm.lower.scalar import const, type_of
from lepton_compiler.backends.tvm.naming import named
from lepton_compiler.backends.tvm.outline import outlined
from lepton_compiler.ops.binary import BitShift

Expr = Any
"""A `tvm.tirx` expression; TVM carries no types."""


def is_signed(x: Expr) -> bool:
    """Whether the type of `x` has negative numbers."""
    return type_of(x).startswith("int")


def bits_of(x: Expr) -> int:
    """Width of an integer expression."""
    return int(type_of(x).removeprefix("u").removeprefix("int"))


def divide(a: Expr, b: Expr) -> Expr:
    """`a / b` truncated; 0 where b is 0, and wrapped where a is the least number and b is -1."""
    if isinstance(b, tirx.IntImm) and int(b.value) not in (0, -1):
        return tirx.truncdiv(a, b)

    def quotient(x: Expr, y: Expr) -> Expr:
        whole = tirx.truncdiv(x, _harmless(y))
        whole = tirx.Select(y.equal(const(-1, y)), outlined(negative, x), whole) if is_signed(y) else whole
        return tirx.Select(y.equal(const(0, y)), const(0, x), whole)

    return named(a, lambda x: named(b, lambda y: quotient(x, y)))


def remainder(a: Expr, b: Expr, *, of_dividend: bool) -> Expr:
    """The remainder of `a / b` with the sign of b, or of a; 0 where b is 0."""
    operation = tirx.truncmod if of_dividend else tirx.floormod
    if isinstance(b, tirx.IntImm) and int(b.value) not in (0, -1):
        return operation(a, b)
    return named(b, lambda y: operation(a, _harmless(y)))


def negative(x: Expr) -> Expr:
    """`-x`."""
    return const(0, x) - x


def absolute(x: Expr) -> Expr:
    """`|x|`."""
    return tirx.Select(x < const(0, x), const(0, x) - x, x)


def _harmless(b: Expr) -> Expr:
    """`b`, or 1 in place of 0 and of -1, whose remainders are 0 as well; TVM would take the choice out again if it could see it."""

    def chosen(y: Expr) -> Expr:
        bad = y.equal(const(0, y))
        return tirx.Select(tirx.Or(bad, y.equal(const(-1, y))) if is_signed(y) else bad, const(1, y), y)

    return outlined(chosen, b)


def shift(op: BitShift, a: Expr, b: Expr) -> Expr:
    """Shifted by any number: one below zero, or of the width and more, leaves zero, or the sign of a value shifted right."""
    left, width = op.direction == "LEFT", bits_of(a)

    def shifted(x: Expr, y: Expr) -> Expr:
        valid = y < const(width, y) if width < 1 << (bits_of(y) - 1) else tirx.const(True, "bool")
        valid = tirx.And(valid, y >= const(0, y)) if is_signed(y) else valid
        by = tirx.Select(valid, y, const(0, y))
        empty = const(0, x)
        if left:
            return tirx.Select(valid, tirx.shift_left(x, by), empty)
        empty = tirx.Select(x < empty, const(-1, x), empty) if is_signed(x) else empty
        return tirx.Select(valid, tirx.shift_right(x, by), empty)

    return named(a, lambda x: named(b, lambda y: shifted(x, y)))


def power(a: Expr, b: Expr) -> Expr:
    """`a` to the power of the integer `b`, modulo the type's range; 0 for a negative power, but for those of 1 and -1."""
    base, kind = a.astype("int64"), type_of(a)
    if isinstance(b, tirx.IntImm) and int(b.value) >= 0:
        return outlined(lambda x: _known_power(x, int(b.value)), base).astype(kind)
    signed = is_signed(b)

    def from_bits(x: Expr, y: Expr) -> Expr:
        one, result, square = const(1, x), const(1, x), x
        for bit in range(bits_of(b) - signed):
            set_ = tirx.bitwise_and(tirx.shift_right(y, const(bit, y)), const(1, y)).equal(const(1, y))
            result = named(tirx.Select(set_, result * square, result), lambda v: v)
            square = named(square * square, lambda v: v)
        if not signed:
            return result
        odd = tirx.bitwise_and(y, const(1, y)).equal(const(1, y))
        inverse = tirx.Select(x.equal(const(-1, x)), tirx.Select(odd, x, one), const(0, x))
        return tirx.Select(y < const(0, y), tirx.Select(x.equal(one), one, inverse), result)

    return outlined(from_bits, base, b.astype("int64")).astype(kind)


def _known_power(x: Expr, exponent: int) -> Expr:
    result, square = const(1, x), x
    while exponent:
        if exponent & 1:
            result = named(result * square, lambda v: v)
        exponent >>= 1
        square = named(square * square, lambda v: v) if exponent else square
    return result
