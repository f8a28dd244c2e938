"""Sine, cosine and tangent of any float32."""

from __future__ import annotations

import math
from collections.abc import Callable

from tvm import tirx

from lepton_compiler.backends.tvm.naming import named
from lepton_compiler.backends.tvm.outline import rarely
from lepton_compiler.backends.tvm.vecmath.arithmetic import Expr, absolute, f32, f64, i32, name_of, poly

ROUND_F64 = 6755399441055744.0
"""1.5 * 2**52, adding it leaves the nearest integer of a small float64 in the low bits of the sum."""
NEAR = 2.0**20
"""Arguments of sine and cosine up to which three parts of pi/2 suffice."""
HALF_PI = (1.5707963267341256, 6.07710050359346e-11, 2.912732056093356e-20)
"""pi/2 as 31 bits, the next 31 bits, and the rest."""
TWO_OVER_PI = (
    0.636619770899415, 1.4681663246252086e-09, 2.2760100671971816e-18, 5.8812147387730434e-27,
    1.0346868700836215e-35, 3.783256351091319e-45, 3.720474878517739e-53,
)  # fmt: skip
"""2/pi, 29 bits at a time: 203 bits, of which the largest float32 needs 128 + 24 and, next to a multiple of pi/2, 33 more."""
SIN = (-0.1666666716337204, 0.008333329111337662, -0.00019839327433146536, 2.71823728326126e-06)
"""(sin(r) - r) / r^3 in r^2 on |r| <= pi/4."""
COS = (0.0416666679084301, -0.0013888883404433727, 2.479951217537746e-05, -2.7209549102735764e-07)
"""(cos(r) - 1 + r^2/2) / r^4 in r^2 on |r| <= pi/4."""
TAN = (
    0.33333349227905273, 0.13332663476467133, 0.05405992269515991, 0.021282166242599487, 0.010835858061909676, 8.949045150075108e-05,
    0.0043762922286987305,
)  # fmt: skip
"""(tan(r) - r) / r^3 in r^2 on |r| <= pi/4; relative error of tan 2^-28.3."""

Finish = Callable[[Expr, Expr], Expr]
"""A result from the remainder r, |r| <= pi/4, and the number n of quarter turns."""


def sin(x: Expr) -> Expr:
    """Sine."""
    return _reduced(x, lambda r, n: _quarter_wave(r, n))


def cos(x: Expr) -> Expr:
    """Cosine."""
    return _reduced(x, lambda r, n: _quarter_wave(r, n + i32(1)))


def tan(x: Expr) -> Expr:
    """Tangent."""

    def turned(r: Expr, n: Expr) -> Expr:
        square = name_of(r * r)
        value = name_of(poly(square, TAN) * square * r + r)
        return tirx.Select(tirx.bitwise_and(n, i32(1)).equal(i32(0)), value, f32(-1.0) / value)

    return _reduced(x, turned)


def _reduced(x: Expr, finish: Finish) -> Expr:
    """`finish(r, n)` with x = n * pi/2 + r; the reduction is in float64."""
    return named(x, lambda v: rarely(absolute(v) > f32(NEAR), lambda u: _far(u, finish), lambda u: _near(u, finish), v))


def _near(x: Expr, finish: Finish) -> Expr:
    """The reduction up to `NEAR`: pi/2 in three parts, of which integers below 2^22 have exact multiples."""
    v = name_of(x.astype("float64"))
    shifted = name_of(v * f64(2 / math.pi) + f64(ROUND_F64))
    whole = name_of(shifted - f64(ROUND_F64))
    high, middle, low = HALF_PI
    r = name_of((((v - whole * f64(high)) - whole * f64(middle)) - whole * f64(low)).astype("float32"))
    return finish(r, name_of(tirx.reinterpret("int64", shifted).astype("int32")))


def _far(x: Expr, finish: Finish) -> Expr:
    """The reduction of any finite x; NaN for the others.

    2/pi is cut into parts of 29 bits, whose products with x are exact in float64; multiples of 4 are taken away from each, and what is left
    is added up with the rounding errors kept (M. Payne and R. Hanek, "Radian reduction for trigonometric functions", 1983; D. Knuth's sum).
    """
    v = name_of(x.astype("float64"))
    total, error = f64(0.0), f64(0.0)
    for part in TWO_OVER_PI:
        product = name_of(v * f64(part))
        rest = name_of(product - tirx.nearbyint(product * f64(0.25)) * f64(4.0))
        summed = name_of(total + rest)
        added = name_of(summed - total)
        error = name_of(error + ((total - (summed - added)) + (rest - added)))
        total = summed
    whole = name_of(tirx.nearbyint(total + error))
    r = ((total - whole) + error) * f64(math.pi / 2)
    finite = tirx.Select(absolute(x) < f32(math.inf), whole, f64(0.0))
    return finish(name_of(r.astype("float32")), name_of(finite.astype("int32")))


def _quarter_wave(r: Expr, n: Expr) -> Expr:
    """sin(r + n * pi/2)."""
    square = name_of(r * r)
    odd = poly(square, SIN) * square * r + r
    even = poly(square, COS) * (square * square) + (f32(1.0) - square * f32(0.5))
    value = tirx.Select(tirx.bitwise_and(n, i32(1)).equal(i32(0)), odd, even)
    flip = tirx.shift_left(tirx.bitwise_and(n, i32(2)), i32(30))
    return tirx.reinterpret("float32", tirx.bitwise_xor(tirx.reinterpret("int32", value), flip))
