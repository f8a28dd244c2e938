"""The natural logarithm and the inverses of hyperbolic functions."""

from __future__ import annotations

import math

from tvm import tirx

from lepton_compiler.backends.tvm.naming import named
from lepton_compiler.backends.tvm.vecmath.arithmetic import LN2_HI, LN2_LO, Expr, absolute, f32, i32, name_of, poly, with_sign

LOG1P = (
    0.3333331048488617, -0.24999986588954926, 0.20002226531505585, -0.16669251024723053, 0.14218659698963165,
    -0.12384343147277832, 0.11872964352369308, -0.1178983524441719, 0.0691542774438858,
)  # fmt: skip
"""(log1p(f) - f + f^2/2) / f^3 on [sqrt(1/2) - 1, sqrt(2) - 1]; relative error 2^-30.4."""
SQRT_HALF_BITS = 0x3F3504F3
"""The bits of the square root of 1/2."""
HUGE = 2.0**30
"""From here on, x + sqrt(x^2 + 1) is 2 x."""


def log(x: Expr) -> Expr:
    """Natural logarithm: NaN below zero, -infinity at zero."""

    def guarded(v: Expr) -> Expr:
        mantissa, exponent = split(v)
        positive = log_sum(name_of(mantissa - f32(1.0)), name_of(exponent))
        infinite = tirx.Select(v < f32(0.0), f32(math.nan), v)
        finite = tirx.Select(v > f32(0.0), positive, tirx.Select(v.equal(f32(0.0)), f32(-math.inf), infinite))
        return tirx.Select(v < f32(math.inf), finite, v)

    return named(x, guarded)


def split(x: Expr) -> tuple[Expr, Expr]:
    """A positive finite number as mantissa, between the square roots of 1/2 and 2, and exponent, both float32."""
    tiny = x < f32(2.0**-126)
    bits = tirx.reinterpret("int32", tirx.Select(tiny, x * f32(2.0**23), x))
    shifted = name_of(bits - i32(SQRT_HALF_BITS))
    mantissa = tirx.reinterpret("float32", tirx.bitwise_and(shifted, i32(0x007FFFFF)) + i32(SQRT_HALF_BITS))
    return mantissa, tirx.shift_right(shifted, i32(23)).astype("float32") - tirx.Select(tiny, f32(23.0), f32(0.0))


def log1p_of_share(x: Expr) -> Expr:
    """log(1 + x) for x from 0 to 1, with full relative precision near 0."""

    def reduced(v: Expr) -> Expr:
        large = v > f32(math.sqrt(2) - 1)
        f = tirx.Select(large, (v - f32(1.0)) * f32(0.5), v)
        return named(f, lambda r: log_sum(r, tirx.Select(large, f32(1.0), f32(0.0))))

    return named(x, reduced)


def asinh(x: Expr) -> Expr:
    """Inverse hyperbolic sine, as log(1 + (a + a^2 / (1 + sqrt(a^2 + 1)))) of the magnitude a."""

    def parts(v: Expr) -> Expr:
        a = name_of(absolute(v))
        square = name_of(a * a)
        share = square / (tirx.sqrt(square + f32(1.0)) + f32(1.0)) + a
        return with_sign(_log_of_sum(a, share), v)

    return named(x, parts)


def acosh(x: Expr) -> Expr:
    """Inverse hyperbolic cosine, as log(1 + (t + sqrt(t (t + 2)))) with t = x - 1; NaN below 1."""

    def parts(v: Expr) -> Expr:
        t = name_of(v - f32(1.0))
        inside = tirx.Select(v < f32(1.0), f32(math.nan), t)
        return _log_of_sum(v, inside + tirx.sqrt(inside * (t + f32(2.0))))

    return named(x, parts)


def atanh(x: Expr) -> Expr:
    """Inverse hyperbolic tangent, as log(1 + 2 a / (1 - a)) / 2 of the magnitude a; NaN beyond 1."""

    def parts(v: Expr) -> Expr:
        a = name_of(absolute(v))
        return with_sign(log1p((a + a) / (f32(1.0) - a)) * f32(0.5), v)

    return named(x, parts)


def log1p(x: Expr) -> Expr:
    """log(1 + x): the logarithm of the rounded sum and, to first order, that of what rounding took away."""

    def corrected(v: Expr) -> Expr:
        whole = name_of(v + f32(1.0))
        lost = (v - (whole - f32(1.0))) / whole
        return tirx.Select(whole < f32(math.inf), log(whole) + lost, whole)

    return named(x, corrected)


def _log_of_sum(x: Expr, share: Expr) -> Expr:
    """log(1 + share), or log(2 x) where x is huge."""
    huge = x > f32(HUGE)
    return tirx.Select(huge, log(x) + f32(math.log(2)), log1p(tirx.Select(huge, f32(1.0), share)))


def log_sum(f: Expr, e: Expr) -> Expr:
    """log(1 + f) + e ln 2, small terms first."""
    square = f * f
    tail = poly(f, LOG1P) * f * square + e * f32(LN2_LO)
    return (tail - square * f32(0.5)) + f + e * f32(LN2_HI)
