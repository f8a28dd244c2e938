"""The exponential function and what is made of it: e^x - 1, hyperbolic functions, the logistic function, the error function."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from lepton_compiler.backends.tvm.naming import named
from lepton_compiler.backends.tvm.vecmath.arithmetic import (
    LN2_HI,
    LN2_LO,
    Expr,
    absolute,
    clamp,
    f32,
    i32,
    name_of,
    poly,
    power_of_two,
    with_sign,
)

ROUND = 12582912.0
"""1.5 * 2**23: adding it leaves the nearest integer of a small float32 in the low bits of the sum."""
EXPM1 = (0.5, 0.1666666716337204, 0.04166634380817413, 0.008333270438015461, 0.0013942045625299215, 0.00019915623124688864)
"""(expm1(r) - r) / r^2 on |r| <= ln(2)/2; relative error 2^-31.9."""
SINH = (0.1666671633720398, 0.008330283686518669, 0.00020372193830553442)
"""(sinh(x) - x) / x^3 in x^2 on [0, 1]; relative error of sinh 2^-25.2."""
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


def exp(x: Expr) -> Expr:
    """e^x: 0 below -104, infinity above 88.73, denormal results rounded like any other."""
    clamped = clamp(x, -104.0, 89.0)

    def scaled(n: Expr, r: Expr) -> Expr:
        half = tirx.shift_right(n, i32(1))
        return (poly(r, EXPM1) * (r * r) + r + f32(1.0)) * power_of_two(half) * power_of_two(n - half)

    return _exp_reduced(clamped, scaled)


def expm1_below_zero(x: Expr) -> Expr:
    """e^x - 1 for x up to 0, with full relative precision near 0."""

    def scaled(n: Expr, r: Expr) -> Expr:
        return named(power_of_two(n), lambda s: (poly(r, EXPM1) * (r * r) + r) * s + (s - f32(1.0)))

    def full(v: Expr) -> Expr:
        return tirx.Select(v > f32(-(2.0**-60)), v, _exp_reduced(clamp(v, -20.0, 0.0), scaled))

    return named(x, full)


def tanh(x: Expr) -> Expr:
    """Hyperbolic tangent, as expm1(2|x|) / (expm1(2|x|) + 2) with the sign of x."""

    def magnitude(n: Expr, r: Expr) -> Expr:
        power = named(power_of_two(n), lambda s: (poly(r, EXPM1) * (r * r) + r) * s + (s - f32(1.0)))
        return named(power, lambda e: e / (e + f32(2.0)))

    def signed(v: Expr) -> Expr:
        twice = clamp(absolute(v) * f32(2.0), 0.0, 20.0)
        return with_sign(_exp_reduced(twice, magnitude), v)

    return named(x, signed)


def sinh(x: Expr) -> Expr:
    """Hyperbolic sine: an odd polynomial up to 1, (e^|x| - e^-|x|) / 2 beyond, which overflows where the result does."""

    def parts(v: Expr) -> Expr:
        half = name_of(_half_exp(absolute(v)))
        square = name_of(v * v)
        return tirx.Select(absolute(v) < f32(1.0), poly(square, SINH) * square * v + v, with_sign(half - f32(0.25) / half, v))

    return named(x, parts)


def cosh(x: Expr) -> Expr:
    """Hyperbolic cosine."""
    return named(_half_exp(absolute(x)), lambda half: half + f32(0.25) / half)


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + e^-x), without overflow: e^-|x| is never more than 1."""
    return named(
        x, lambda v: named(exp(-absolute(v)), lambda e: tirx.Select(v >= f32(0.0), f32(1.0), e) / (e + f32(1.0)))
    )  # fmt: skip


def erf(x: Expr) -> Expr:
    """Error function: an odd polynomial up to 1, 1 - e^p(|x|) beyond."""

    def parts(v: Expr) -> Expr:
        a = clamp(absolute(v), 0.0, 4.0)
        large = named(a, lambda t: f32(1.0) - exp(poly(t, ERFC_LOG)))
        small = named(v * v, lambda s: poly(s, ERF_SMALL) * v + v)
        return tirx.Select(absolute(v) > f32(ERF_SPLIT), with_sign(large, v), small)

    return named(x, parts)


def _half_exp(x: Expr) -> Expr:
    """e^x / 2 for x from 0 on."""

    def scaled(n: Expr, r: Expr) -> Expr:
        half = tirx.shift_right(n, i32(1))
        return (poly(r, EXPM1) * (r * r) + r + f32(1.0)) * power_of_two(half) * power_of_two(n - half - i32(1))

    return _exp_reduced(clamp(x, 0.0, 90.0), scaled)


def _exp_reduced(x: Expr, finish: Callable[[Expr, Expr], Expr]) -> Expr:
    """`finish(n, r)` with x = n ln 2 + r, n an int32 and |r| <= ln(2)/2; for |x| < 180."""

    def with_sum(v: Expr) -> Expr:
        return named(v * f32(1.4426950408889634) + f32(ROUND), lambda t: with_integer(v, t))

    def with_integer(v: Expr, t: Expr) -> Expr:
        n = tirx.reinterpret("int32", t) - i32(0x4B400000)
        whole = t - f32(ROUND)
        return named((v - whole * f32(LN2_HI)) - whole * f32(LN2_LO), lambda r: named(n, lambda i: finish(i, r)))

    return named(x, with_sum)
