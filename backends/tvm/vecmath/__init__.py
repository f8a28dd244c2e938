"""Elementary functions of float32 as branch-free vector arithmetic: no libm call inside a loop.

Each function takes and returns a TIR expression, usable in any `te.compute`. They are within 4 units in the last
place of the exact value, keep NaN, and have the right limits at the infinities, with or without fused multiply-add.

Polynomial coefficients are minimax fits of our own (Lawson's iteratively reweighted least squares on 4,000
Chebyshev nodes in double precision), each weighted by the relative error of the function that it serves.
Reductions follow W. J. Cody and W. Waite, "Software Manual for the Elementary Functions" (1980).
"""

from __future__ import annotations

from lepton_compiler.backends.tvm.vecmath.circular import cos, sin, tan
from lepton_compiler.backends.tvm.vecmath.exponential import cosh, erf, exp, expm1_below_zero, sigmoid, sinh, tanh
from lepton_compiler.backends.tvm.vecmath.inverse import acos, asin, atan
from lepton_compiler.backends.tvm.vecmath.logarithm import acosh, asinh, atanh, log, log1p_of_share
from lepton_compiler.backends.tvm.vecmath.power import power

__all__ = [
    "acos", "acosh", "asin", "asinh", "atan", "atanh", "cos", "cosh", "erf", "exp", "expm1_below_zero", "log", "log1p_of_share", "power",
    "sigmoid", "sin", "sinh", "tan", "tanh",
]  # fmt: skip
