"""Elementary functions of float32 as branch-free vector arithmetic: no libm call inside a loop.

Each function takes and returns a TIR expression, usable in any `te.compute`. They are within 4 units in the last
place of the exact value, keep NaN, and have the right limits at the infinities, with or without fused multiply-add.

Polynomial coefficients are minimax fits of our own (Lawson's iteratively reweighted least squares on 4,000
Chebyshev nodes in double precision), each weighted by the relative error of the function that it serves.
Reductions follow W. J. Cody and W. Waite, "Software Manual for the Elementary Functions" (1980).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx

from lepton_compiler.backends.tvm.naming import named

Expr = Any
"""`tvm.ir.Expr`; TVM carries no types."""

ROUND = 12582912.0
"""1.5 * 2**23: adding it leaves the nearest integer of a small float32 in the low bits of the sum."""
ROUND_F64 = 6755399441055744.0
"""1.5 * 2**52, likewise for float64."""

LN2_HI, LN2_LO = 0.693145751953125, 1.428606765330187e-06
"""ln 2 as 16 bits and the rest: products of the first with integers below 256 are exact in float32."""

EXPM1 = (0.5, 0.1666666716337204, 0.04166634380817413, 0.008333270438015461, 0.0013942045625299215, 0.00019915623124688864)
"""(expm1(r) - r) / r^2 on |r| <= ln(2)/2; relative error 2^-31.9."""
LOG1P = (
    0.3333331048488617, -0.24999986588954926, 0.20002226531505585, -0.16669251024723053, 0.14218659698963165,
    -0.12384343147277832, 0.11872964352369308, -0.1178983524441719, 0.0691542774438858,
)  # fmt: skip
"""(log1p(f) - f + f^2/2) / f^3 on [sqrt(1/2) - 1, sqrt(2) - 1]; relative error 2^-30.4."""
ERF_SPLIT = 1.0
ERF_SMALL = (
    0.12837916612625122, -0.3761262595653534, 0.1128358542919159, -0.026853812858462334, 0.005188328679651022,
    -0.0008010200690478086, 7.853883289499208e-05,
)  # fmt: skip
"""erf(x)/x - 1 in x^2 on [0, 1]; relative error 2^-29.6."""
ERFC_LOG = (
    0.0001880366908153519, -1.1295783519744873, -0.6332198977470398, -0.1084185466170311, 0.025208238512277603,
    -0.004204555880278349, 0.00044133519986644387, -2.1686753825633787e-05,
)  # fmt: skip
"""log(erfc(x)) on [1, 4]; error 2^-35.5 relative to erf."""
SIN = (-0.1666666716337204, 0.008333329111337662, -0.00019839327433146536, 2.71823728326126e-06)
"""(sin(r) - r) / r^3 in r^2 on |r| <= pi/4."""
COS = (0.0416666679084301, -0.0013888883404433727, 2.479951217537746e-05, -2.7209549102735764e-07)
"""(cos(r) - 1 + r^2/2) / r^4 in r^2 on |r| <= pi/4."""


def exp(x: Expr) -> Expr:
    """e^x: 0 below -104, infinity above 88.73, denormal results rounded like any other."""
    clamped = _clamp(x, -104.0, 89.0)

    def scaled(n: Expr, r: Expr) -> Expr:
        half = tirx.shift_right(n, _i32(1))
        return (_poly(r, EXPM1) * (r * r) + r + _f32(1.0)) * _power_of_two(half) * _power_of_two(n - half)

    return _exp_reduced(clamped, scaled)


def tanh(x: Expr) -> Expr:
    """Hyperbolic tangent, as expm1(2|x|) / (expm1(2|x|) + 2) with the sign of x."""

    def magnitude(n: Expr, r: Expr) -> Expr:
        power = named(_power_of_two(n), lambda s: (_poly(r, EXPM1) * (r * r) + r) * s + (s - _f32(1.0)))
        return named(power, lambda e: e / (e + _f32(2.0)))

    def signed(v: Expr) -> Expr:
        twice = _clamp(_abs(v) * _f32(2.0), 0.0, 20.0)
        return _with_sign(_exp_reduced(twice, magnitude), v)

    return named(x, signed)


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + e^-x), without overflow: e^-|x| is never more than 1."""
    return named(
        x, lambda v: named(exp(-_abs(v)), lambda e: tirx.Select(v >= _f32(0.0), _f32(1.0), e) / (e + _f32(1.0)))
    )  # fmt: skip


def erf(x: Expr) -> Expr:
    """Error function: an odd polynomial up to 1, 1 - e^p(|x|) beyond."""

    def parts(v: Expr) -> Expr:
        a = _clamp(_abs(v), 0.0, 4.0)
        large = named(a, lambda t: _f32(1.0) - exp(_poly(t, ERFC_LOG)))
        small = named(v * v, lambda s: _poly(s, ERF_SMALL) * v + v)
        return tirx.Select(_abs(v) > _f32(ERF_SPLIT), _with_sign(large, v), small)

    return named(x, parts)


def log(x: Expr) -> Expr:
    """Natural logarithm: NaN below zero, -infinity at zero."""

    def reduced(v: Expr) -> Expr:
        tiny = v < _f32(2.0**-126)
        bits = tirx.reinterpret("int32", tirx.Select(tiny, v * _f32(2.0**23), v))
        shifted = bits - _i32(_bits_of_sqrt_half())
        mantissa = tirx.reinterpret("float32", tirx.bitwise_and(shifted, _i32(0x007FFFFF)) + _i32(_bits_of_sqrt_half()))
        exponent = tirx.shift_right(shifted, _i32(23)).astype("float32") - tirx.Select(tiny, _f32(23.0), _f32(0.0))
        return named(mantissa - _f32(1.0), lambda f: named(exponent, lambda e: _log_sum(f, e)))

    def guarded(v: Expr) -> Expr:
        infinite = tirx.Select(v < _f32(0.0), _f32(math.nan), v)
        finite = tirx.Select(v > _f32(0.0), reduced(v), tirx.Select(v.equal(_f32(0.0)), _f32(-math.inf), infinite))
        return tirx.Select(v < _f32(math.inf), finite, v)

    return named(x, guarded)


def log1p_of_share(x: Expr) -> Expr:
    """log(1 + x) for x from 0 to 1, with full relative precision near 0."""

    def reduced(v: Expr) -> Expr:
        large = v > _f32(math.sqrt(2) - 1)
        f = tirx.Select(large, (v - _f32(1.0)) * _f32(0.5), v)
        return named(f, lambda r: _log_sum(r, tirx.Select(large, _f32(1.0), _f32(0.0))))

    return named(x, reduced)


def sin(x: Expr) -> Expr:
    """Sine, for |x| up to 1e9; the reduction is in float64."""
    return _circular(x, 0)


def cos(x: Expr) -> Expr:
    """Cosine, for |x| up to 1e9; the reduction is in float64."""
    return _circular(x, 1)


def _exp_reduced(x: Expr, finish: Callable[[Expr, Expr], Expr]) -> Expr:
    """`finish(n, r)` with x = n ln 2 + r, n an int32 and |r| <= ln(2)/2; for |x| < 180."""

    def with_sum(v: Expr) -> Expr:
        return named(v * _f32(1.4426950408889634) + _f32(ROUND), lambda t: with_integer(v, t))

    def with_integer(v: Expr, t: Expr) -> Expr:
        n = tirx.reinterpret("int32", t) - _i32(0x4B400000)
        whole = t - _f32(ROUND)
        return named((v - whole * _f32(LN2_HI)) - whole * _f32(LN2_LO), lambda r: named(n, lambda i: finish(i, r)))

    return named(x, with_sum)


def _log_sum(f: Expr, e: Expr) -> Expr:
    """log(1 + f) + e ln 2, small terms first."""
    square = f * f
    tail = _poly(f, LOG1P) * f * square + e * _f32(LN2_LO)
    return (tail - square * _f32(0.5)) + f + e * _f32(LN2_HI)


def _circular(x: Expr, quarter: int) -> Expr:
    """sin(x + quarter * pi/2)."""

    def with_sum(v: Expr) -> Expr:
        return named(v * _f64(2 / math.pi) + _f64(ROUND_F64), lambda t: with_integer(v, t))

    def with_integer(v: Expr, t: Expr) -> Expr:
        whole = t - _f64(ROUND_F64)
        r = ((v - whole * _f64(math.pi / 2)) - whole * _f64(6.123233995736766e-17)).astype("float32")
        n = tirx.reinterpret("int64", t).astype("int32") + _i32(quarter)
        return named(r, lambda a: named(n, lambda i: with_remainder(a, i)))

    def with_remainder(r: Expr, n: Expr) -> Expr:
        return named(r * r, lambda s: signed(tirx.Select(tirx.bitwise_and(n, _i32(1)).equal(_i32(0)), odd(r, s), even(s)), n))

    def signed(value: Expr, n: Expr) -> Expr:
        flip = tirx.shift_left(tirx.bitwise_and(n, _i32(2)), _i32(30))
        return tirx.reinterpret("float32", tirx.bitwise_xor(tirx.reinterpret("int32", value), flip))

    def odd(r: Expr, s: Expr) -> Expr:
        return _poly(s, SIN) * s * r + r

    def even(s: Expr) -> Expr:
        return _poly(s, COS) * (s * s) + (_f32(1.0) - s * _f32(0.5))

    return named(x.astype("float64"), with_sum)


def _poly(x: Expr, coefficients: Sequence[float]) -> Expr:
    """Horner's scheme; the constant term comes first."""
    value: Expr = _f32(coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + _f32(coefficient)
    return value


def _clamp(x: Expr, low: float, high: float) -> Expr:
    """`x` within bounds; NaN stays, which min and max do not promise."""
    return named(x, lambda v: tirx.Select(v > _f32(high), _f32(high), tirx.Select(v < _f32(low), _f32(low), v)))


def _abs(x: Expr) -> Expr:
    return tirx.reinterpret("float32", tirx.bitwise_and(tirx.reinterpret("int32", x), _i32(0x7FFFFFFF)))


def _with_sign(magnitude: Expr, sign: Expr) -> Expr:
    """The non-negative `magnitude` with the sign bit of `sign`."""
    bit = tirx.bitwise_and(tirx.reinterpret("int32", sign), _i32(-0x80000000))
    return tirx.reinterpret("float32", tirx.bitwise_or(tirx.reinterpret("int32", magnitude), bit))


def _power_of_two(n: Expr) -> Expr:
    """2^n for n in [-126, 127]."""
    return tirx.reinterpret("float32", tirx.shift_left(n + _i32(127), _i32(23)))


def _bits_of_sqrt_half() -> int:
    return 0x3F3504F3


def _f32(value: float) -> Expr:
    return tirx.const(value, "float32")


def _f64(value: float) -> Expr:
    return tirx.const(value, "float64")


def _i32(value: int) -> Expr:
    return tirx.const(value, "int32")
