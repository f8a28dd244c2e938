"""Inverses of circular functions (polynomials of our own; reductions as in S. Moshier's Cephes library)."""

from __future__ import annotations

import math

from tvm import tirx

from lepton_compiler.backends.tvm.naming import named
from lepton_compiler.backends.tvm.vecmath.arithmetic import Expr, absolute, f32, name_of, poly, with_sign

ASIN = (0.16666659712791443, 0.07500503957271576, 0.04451695457100868, 0.03180772438645363, 0.014438587240874767, 0.03751647472381592)
"""(asin(x) - x) / x^3 in x^2 on [0, 1/2]; relative error of asin 2^-29.8."""
ATAN = (-0.33333316445350647, 0.19998471438884735, -0.14243532717227936, 0.1059381365776062, -0.060782209038734436)
"""(atan(x) - x) / x^3 in x^2 on [0, tan(pi/8)]; relative error of atan 2^-28.3."""
HALF_PI_HI, HALF_PI_LO = 1.5707963705062866, -4.371139000186241e-08
"""pi/2 as a float32, and the rest."""


def asin(x: Expr) -> Expr:
    """Inverse sine: above 1/2, pi/2 less twice that of sqrt((1 - |x|) / 2); NaN beyond 1."""

    def parts(v: Expr) -> Expr:
        a = name_of(absolute(v))
        large, value = _half_angle(a)
        return with_sign(tirx.Select(large, (f32(HALF_PI_LO) - (value + value)) + f32(HALF_PI_HI), value), v)

    return named(x, parts)


def acos(x: Expr) -> Expr:
    """Arc cosine: 2 asin(sqrt((1 - x) / 2)) above 1/2, pi less that of -x below -1/2, pi/2 - asin(x) between; NaN beyond 1."""

    def parts(v: Expr) -> Expr:
        large, value = _half_angle(name_of(absolute(v)))
        twice = name_of(value + value)
        negative = v < f32(0.0)
        far = tirx.Select(negative, (f32(2 * HALF_PI_LO) - twice) + f32(2 * HALF_PI_HI), twice)
        near = f32(HALF_PI_HI) + (f32(HALF_PI_LO) - with_sign(value, v))
        return tirx.Select(large, far, near)

    return named(x, parts)


def atan(x: Expr) -> Expr:
    """Inverse tangent of a magnitude a: above tan(3 pi/8) pi/2 and that of -1 / a, above tan(pi/8) pi/4 and that of (a - 1) / (a + 1)."""

    def parts(v: Expr) -> Expr:
        a, one = name_of(absolute(v)), f32(1.0)
        far, middle = a > f32(math.tan(3 * math.pi / 8)), a > f32(math.tan(math.pi / 8))
        above = tirx.Select(far, f32(-1.0), tirx.Select(middle, a - one, a))
        below = tirx.Select(far, a, tirx.Select(middle, a + one, one))
        turned = name_of(tirx.Select(far, f32(1.0), tirx.Select(middle, f32(0.5), f32(0.0))))
        t = name_of(above / below)
        square = name_of(t * t)
        rest = poly(square, ATAN) * square * t + turned * f32(HALF_PI_LO)
        return with_sign((rest + t) + turned * f32(HALF_PI_HI), v)

    return named(x, parts)


def _half_angle(a: Expr) -> tuple[Expr, Expr]:
    """Whether a > 1/2, and the arc sine of sqrt((1 - a) / 2) if so, else of a."""
    large = a > f32(0.5)
    square = name_of(tirx.Select(large, (f32(1.0) - a) * f32(0.5), a * a))
    root = name_of(tirx.Select(large, tirx.sqrt(square), a))
    return large, name_of(poly(square, ASIN) * square * root + root)
