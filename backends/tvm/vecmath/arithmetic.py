"""What the functions are made of: constants, polynomials, and the parts of a float."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx

from lepton_compiler.backends.tvm.naming import named

Expr = Any
"""`tvm.ir.Expr`; TVM carries no types."""


LN2_HI, LN2_LO = 0.693145751953125, 1.428606765330187e-06
"""ln 2 as 16 bits and the rest: products of the first with integers below 256 are exact in float32."""


def poly(x: Expr, coefficients: Sequence[float], constant: Callable[[float], Expr] | None = None) -> Expr:
    """Horner's scheme in float32, or in the type of `constant`; the constant term comes first."""
    make = constant or f32
    value: Expr = make(coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + make(coefficient)
    return value


def name_of(x: Expr) -> Expr:
    """A name for `x`, which is then computed once."""
    return named(x, lambda name: name)


def clamp(x: Expr, low: float, high: float) -> Expr:
    """`x` within bounds; NaN stays, which min and max do not promise."""
    return named(x, lambda v: tirx.Select(v > f32(high), f32(high), tirx.Select(v < f32(low), f32(low), v)))


def absolute(x: Expr) -> Expr:
    """The magnitude of a float32."""
    return tirx.reinterpret("float32", tirx.bitwise_and(tirx.reinterpret("int32", x), i32(0x7FFFFFFF)))


def with_sign(magnitude: Expr, sign: Expr) -> Expr:
    """The non-negative `magnitude` with the sign bit of `sign`."""
    bit = tirx.bitwise_and(tirx.reinterpret("int32", sign), i32(-0x80000000))
    return tirx.reinterpret("float32", tirx.bitwise_or(tirx.reinterpret("int32", magnitude), bit))


def power_of_two(n: Expr) -> Expr:
    """2^n for n in [-126, 127]."""
    return tirx.reinterpret("float32", tirx.shift_left(n + i32(127), i32(23)))


def f32(value: float) -> Expr:
    """A constant."""
    return tirx.const(value, "float32")


def f64(value: float) -> Expr:
    """A constant."""
    return tirx.const(value, "float64")


def i32(value: int) -> Expr:
    """A constant."""
    return tirx.const(value, "int32")
