"""Functions of one expression, by element type: vector polynomials for float32, the C library elsewhere."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tvm import tirx

from lepton_compiler.backends.tvm import vecmath
from lepton_compiler.backends.tvm.naming import named
from lepton_compiler.backends.tvm.outline import outlined

Expr = Any
"""A `tvm.tirx` expression; TVM carries no types."""


_native = [False]


@contextmanager
def native_functions() -> Iterator[None]:
    """Within the block, functions are calls of the machine's own, not polynomials: for a GPU."""
    _native.append(True)
    try:
        yield
    finally:
        _native.pop()


def type_of(x: Expr) -> str:
    """Element type of an expression."""
    return str(x.ty)


def is_float(x: Expr) -> bool:
    """Whether an expression is a real floating-point number."""
    return type_of(x).startswith("float")


def const(value: float, like: Expr) -> Expr:
    """A constant of the type of `like`."""
    return tirx.const(value, type_of(like))


def maximum(a: Expr, b: Expr) -> Expr:
    """The larger one; NaN wins, as in numpy."""
    if not is_float(a):
        return tirx.max(a, b)
    return named(a, lambda x: named(b, lambda y: tirx.Select(tirx.Or(x > y, tirx.isnan(x)), x, y)))


def minimum(a: Expr, b: Expr) -> Expr:
    """The smaller one; NaN wins, as in numpy."""
    if not is_float(a):
        return tirx.min(a, b)
    return named(a, lambda x: named(b, lambda y: tirx.Select(tirx.Or(x < y, tirx.isnan(x)), x, y)))


def clamp(x: Expr, low: Expr, high: Expr) -> Expr:
    """`x` within bounds; NaN stays."""
    below = named(x, lambda v: tirx.Select(v > high, high, v))
    return named(below, lambda v: tirx.Select(v < low, low, v))


def rounded(x: Expr) -> Expr:
    """`x`, rounded here: the operation before it is not fused with the one after, so that results are those of the evaluator."""
    return tirx.call_llvm_pure_intrin(type_of(x), "llvm.arithmetic.fence", x)


def _polynomial(x: Expr) -> bool:
    return type_of(x) == "float32" and not _native[-1]


def _vector(name: str, foreign: Callable[..., Expr]) -> Callable[[Expr], Expr]:
    """The polynomial of `vecmath` for float32, else `foreign`."""

    def function(x: Expr) -> Expr:
        return getattr(vecmath, name)(x) if _polynomial(x) else foreign(x)

    return function


def library(name: str, *arguments: Expr) -> Expr:
    """A call of the C library's `name`, or `namef` for float32."""
    kind = type_of(arguments[0])
    return tirx.call_pure_extern(kind, name if kind == "float64" else f"{name}f", *arguments)


exp, log, sin, cos = (_vector(n, getattr(tirx, n)) for n in ("exp", "log", "sin", "cos"))
acos, acosh, asin, asinh, atan, atanh, cosh, erf, sinh, tan, tanh = (
    _vector(n, functools.partial(library, n)) for n in "acos acosh asin asinh atan atanh cosh erf sinh tan tanh".split()
)


def power(x: Expr, y: Expr) -> Expr:
    """`x` to the power of `y`, floats of one type."""
    return outlined(vecmath.power, x, y) if _polynomial(x) else tirx.pow(x, y)


def sigmoid(x: Expr) -> Expr:
    """`1 / (1 + e^-x)`."""
    return vecmath.sigmoid(x) if _polynomial(x) else const(1, x) / (const(1, x) + exp(-x))


def expm1(x: Expr) -> Expr:
    """`e^x - 1` for x up to 0, with full relative precision near 0."""
    return vecmath.expm1_below_zero(x) if _polynomial(x) else library("expm1", x)


def mish(x: Expr) -> Expr:
    """`x tanh(log(1 + e^x))` = `x p / (p + 2)` with `p = e^x (e^x + 2)`; x itself where e^x would overflow."""

    def from_power(v: Expr) -> Expr:
        bounded = tirx.Select(v < const(20, v), v, const(20, v))
        return named(exp(bounded), lambda e: named(e * (e + const(2, v)), lambda p: v * (p / (p + const(2, v)))))

    return named(x, lambda v: tirx.Select(v > const(20, v), v, from_power(v)))


def softplus(x: Expr) -> Expr:
    """`max(x, 0) + log(1 + e^-|x|)`, without overflow, and with full relative precision where x is far below zero."""
    return named(x, lambda v: maximum(v, const(0, v)) + _log1p(exp(-tirx.abs(v))))


def _log1p(x: Expr) -> Expr:
    """`log(1 + x)` for x from 0 to 1; in float64 with W. Kahan's correction for the rounding of `1 + x`."""
    if _native[-1]:
        return library("log1p", x)
    if type_of(x) == "float32":
        return vecmath.log1p_of_share(x)

    def corrected(v: Expr, u: Expr) -> Expr:
        return tirx.Select(tirx.EQ(u, const(1, u)), v, log(u) * (v / (u - const(1, u))))

    return named(x, lambda v: named(v + const(1, v), lambda u: corrected(v, u)))
