"""Names for subexpressions: what is used twice is computed, and analysed, once.

Inside `in_sequence` names are bound one after the other around the whole expression. TVM's analyses put the values of names
back into expressions, at a cost exponential in the depth of names that need no load: keep chains of functions short.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import te, tirx

Expr = Any
"""A `tvm.tirx` expression; TVM carries no types."""

_sequences: list[list[tuple[Any, Expr]]] = []


def named(value: Expr, body: Callable[[Expr], Expr]) -> Expr:
    """`body` of a name for `value`; a variable or a constant needs none, and truth values get none: TVM cannot bind vectors of them."""
    if isinstance(value, te.TensorSlice):
        value = value.asobject()
    if isinstance(value, tirx.Var | tirx.FloatImm | tirx.IntImm) or str(value.ty) == "bool":
        return body(value)
    name = tirx.Var("v", value.ty)
    if _sequences:
        _sequences[-1].append((name, value))
        return body(name)
    return tirx.Let(name, value, body(name))


def in_sequence(build: Callable[[], Expr]) -> Expr:
    """What `build` returns, inside the names that it bound. It must not name a load that a condition around the name guards."""
    _sequences.append([])
    try:
        result = build()
    finally:
        names = _sequences.pop()
    for name, value in reversed(names):
        result = tirx.Let(name, value, result)
    return result
