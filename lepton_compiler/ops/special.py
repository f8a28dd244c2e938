"""Functions that numpy does not have, vectorised."""

from __future__ import annotations

from typing import Any

import numpy as np

_NEAR_P = (1.85777706184603153e-1, 3.16112374387056560e00, 1.13864154151050156e02, 3.77485237685302021e02, 3.20937758913846947e03)
_NEAR_Q = (1.0, 2.36012909523441209e01, 2.44024637934444173e02, 1.28261652607737228e03, 2.84423683343917062e03)
_MID_P = (
    2.15311535474403846e-8,
    5.64188496988670089e-1,
    8.88314979438837594e00,
    6.61191906371416295e01,
    2.98635138197400131e02,
    8.81952221241769090e02,
    1.71204761263407058e03,
    2.05107837782607147e03,
    1.23033935479799725e03,
)
_MID_Q = (
    1.0,
    1.57449261107098347e01,
    1.17693950891312499e02,
    5.37181101862009858e02,
    1.62138957456669019e03,
    3.29079923573345963e03,
    4.36261909014324716e03,
    3.43936767414372164e03,
    1.23033935480374942e03,
)
_NEAR_LIMIT = 0.46875
_SATURATED = 5.95
"""Beyond this the error function rounds to 1 in double precision; the middle formula is good up to there."""


def erf(x: Any) -> np.ndarray:
    """The error function, accurate to double precision; any real input type, result of that type.

    Rational approximations of W. J. Cody, "Rational Chebyshev approximations for the error function", 1969.
    """
    value = np.asarray(x)
    wide = value.astype(np.float64)
    size = np.minimum(np.abs(wide), _SATURATED)
    result = np.empty_like(wide)
    near = size <= _NEAR_LIMIT
    square = wide[near] ** 2
    result[near] = wide[near] * np.polyval(_NEAR_P, square) / np.polyval(_NEAR_Q, square)
    far = ~near
    rest = size[far]
    result[far] = np.copysign(1.0 - np.exp(-rest * rest) * np.polyval(_MID_P, rest) / np.polyval(_MID_Q, rest), wide[far])
    return result.astype(value.dtype)
