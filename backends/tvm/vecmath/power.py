"""Powers, through logarithms and exponentials in float64, whose result is rounded once."""

from __future__ import annotations

import math

from tvm import tirx

from lepton_compiler.backends.tvm.naming import named
from lepton_compiler.backends.tvm.vecmath.arithmetic import Expr, absolute, f32, f64, i32, name_of, poly, with_sign
from lepton_compiler.backends.tvm.vecmath.circular import ROUND_F64
from lepton_compiler.backends.tvm.vecmath.logarithm import split

ATANH = (0.6666666667580001, 0.39999995622505297, 0.2857210905578023, 0.2217619414084283, 0.1958405824915381)
"""(2 atanh(s) / s - 2) / s^2 in s^2, for s = (m - 1) / (m + 1) with m between the square roots of 1/2 and 2; relative error 2^-44.9."""
EXP2 = (
    0.6931471805416521, 0.24022651075847318, 0.055504109625821085, 0.009618036911541512, 0.0013333430777585176, 0.000154671101578901,
    1.53149491268004e-05,
)  # fmt: skip
"""(2^r - 1) / r on [-1/2, 1/2]; relative error of 2^r 2^-34."""


def power(x: Expr, y: Expr) -> Expr:
    """x^y as in C: NaN for negative x and y that is no integer, 1 for y = 0 and for x = 1 whatever the other one is."""
    return named(x, lambda a: named(y, lambda b: _with_corners(a, b)))


def _with_corners(x: Expr, y: Expr) -> Expr:
    a = name_of(absolute(x))
    size = name_of(_exp2(_log2(a) * y.astype("float64")))
    one, zero = f32(1.0), f32(0.0)
    fraction = name_of(y * f32(0.5) - tirx.floor(y * f32(0.5)))
    whole, odd = tirx.floor(y).equal(y), tirx.And(fraction.equal(f32(0.5)), absolute(y) < f32(math.inf))
    minus = tirx.reinterpret("int32", x) < i32(0)
    signed = tirx.Select(tirx.And(minus, odd), with_sign(size, f32(-1.0)), size)
    undefined = tirx.And(tirx.And(x < zero, tirx.Not(whole)), a < f32(math.inf))
    result = tirx.Select(undefined, f32(math.nan), signed)
    unit = tirx.Or(tirx.Or(y.equal(zero), x.equal(one)), tirx.And(a.equal(one), absolute(y).equal(f32(math.inf))))
    return tirx.Select(unit, one, result)


def _log2(a: Expr) -> Expr:
    """The binary logarithm of a magnitude, in float64."""
    mantissa, exponent = split(a)
    m = name_of(mantissa.astype("float64"))
    s = name_of((m - f64(1.0)) / (m + f64(1.0)))
    square = name_of(s * s)
    finite = exponent.astype("float64") + (poly(square, ATANH, f64) * square * s + (s + s)) * f64(1 / math.log(2))
    positive = tirx.Select(a > f32(0.0), finite, tirx.Select(a.equal(f32(0.0)), f64(-math.inf), f64(math.nan)))
    return tirx.Select(a.equal(f32(math.inf)), f64(math.inf), positive)


def _exp2(x: Expr) -> Expr:
    """2^x as a float32, rounded once; NaN stays."""
    v = name_of(x)
    limited = name_of(tirx.Select(v > f64(200.0), f64(200.0), tirx.Select(v < f64(-200.0), f64(-200.0), v)))
    shifted = name_of(limited + f64(ROUND_F64))
    r = name_of(limited - (shifted - f64(ROUND_F64)))
    n = tirx.reinterpret("int64", shifted) - tirx.const(0x4338000000000000, "int64")
    scale = tirx.reinterpret("float64", tirx.shift_left(n + tirx.const(1023, "int64"), tirx.const(52, "int64")))
    return ((poly(r, EXP2, f64) * r + f64(1.0)) * scale).astype("float32")
