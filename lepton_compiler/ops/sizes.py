"""Questions about symbolic sizes that can be answered without knowing them, because no size is negative."""

from __future__ import annotations

from typing import Any

import numpy as np

from lepton_compiler.ir.dim import Atom, Dim, SymDim, floordiv


def truth(value: Any) -> bool:
    """An element of an object array as a truth value.

    Raises:
        TypeError: it is symbolic.
    """
    if isinstance(value, SymDim):
        raise TypeError(f"'{value}' is not known")
    return bool(value)


def dims_equal(a: Dim, b: Dim) -> bool:
    """Whether two sizes are the same.

    Raises:
        TypeError: that depends on the symbols.
    """
    if not isinstance(a, SymDim) and not isinstance(b, SymDim):
        return bool(a == b)
    difference = a - b
    if difference == 0:
        return True
    if is_negative(difference) or is_negative(-difference):
        return False
    raise TypeError(f"whether {a} is {b} is not known")


def dims_less(a: Dim, b: Dim) -> bool:
    """Whether `a < b`.

    Raises:
        TypeError: that depends on the symbols.
    """
    if not isinstance(a, SymDim) and not isinstance(b, SymDim):
        return bool(a < b)
    if is_negative(a - b):
        return True
    if is_not_negative(a - b):
        return False
    raise TypeError(f"whether {a} is less than {b} is not known")


def is_not_negative(dim: Dim) -> bool:
    """Whether `dim >= 0` whatever its symbols are."""
    if not isinstance(dim, SymDim):
        return dim >= 0
    return all(factor >= 0 and all(map(_atom_not_negative, monomial)) for monomial, factor in dim.terms)


def is_negative(dim: Dim) -> bool:
    """Whether `dim < 0` whatever its symbols are."""
    return is_not_negative(-dim - 1)


def truncated_division(a: Any, b: Any) -> Dim:
    """`a / b` rounded towards zero. A quotient whose sign depends on the symbols is taken to be positive, as sizes are.

    Raises:
        ZeroDivisionError: b is 0.
    """
    if isinstance(b, (int, np.integer)) and b < 0:
        return -truncated_division(a, -b)
    if is_not_negative(-a):
        return -floordiv(-a, b)
    return floordiv(a, b)


def _atom_not_negative(atom: Atom) -> bool:
    if isinstance(atom, str):
        return True
    name, a, b = atom
    either = is_not_negative(a), is_not_negative(b)
    return any(either) if name == "max" else all(either)
