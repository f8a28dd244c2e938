"""Symbolic dimensions: integer expressions over named sizes, in a canonical form.

A dimension is an `int` or a `SymDim`. Arithmetic on them gives back an `int` as soon as the symbols cancel,
so static shapes never meet this class. The canonical form is a sum of products of atoms; an atom is a name or
an opaque `a // b`, `max(a, b)`, `min(a, b)`. Two expressions that are equal as polynomials compare equal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Union

from lepton_compiler.errors import ParseError

Dim = Union[int, "SymDim"]
Atom = Union[str, tuple[str, "Dim", "Dim"]]
Monomial = tuple[Atom, ...]


class SymDim:
    """An immutable, hashable integer expression; build one with `symbol` and arithmetic."""

    __slots__ = ("_hash", "terms")

    def __init__(self, terms: Mapping[Monomial, int]) -> None:
        self.terms: tuple[tuple[Monomial, int], ...] = tuple(
            sorted(((m, c) for m, c in terms.items() if c), key=lambda t: (-len(t[0]), repr(t)))
        )
        self._hash = hash(self.terms)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SymDim) and self.terms == other.terms

    def __repr__(self) -> str:
        return "+".join(_term_text(m, c) for m, c in self.terms).replace("+-", "-")

    def __add__(self, other: Dim) -> Dim:
        total = dict(self.terms)
        for monomial, factor in _terms(other):
            total[monomial] = total.get(monomial, 0) + factor
        return _normal(total)

    def __mul__(self, other: Dim) -> Dim:
        product: dict[Monomial, int] = {}
        for left, a in self.terms:
            for right, b in _terms(other):
                key = tuple(sorted((*left, *right), key=repr))
                product[key] = product.get(key, 0) + a * b
        return _normal(product)

    def __floordiv__(self, other: Dim) -> Dim:
        return floordiv(self, other)

    def __rfloordiv__(self, other: Dim) -> Dim:
        return floordiv(other, self)

    def __mod__(self, other: Dim) -> Dim:
        return self - floordiv(self, other) * other

    __radd__ = __add__
    __rmul__ = __mul__

    def __neg__(self) -> Dim:
        return self * -1

    def __sub__(self, other: Dim) -> Dim:
        return self + (-other)

    def __rsub__(self, other: Dim) -> Dim:
        return -self + other


def symbol(name: str) -> SymDim:
    """The dimension called `name`."""
    return SymDim({(name,): 1})


def floordiv(a: Dim, b: Dim) -> Dim:
    """`a // b`, exact where every coefficient of `a` is a multiple of an integer `b`."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    if a == b:
        return 1
    if isinstance(b, int):
        if b == 1:
            return a
        whole = {m: c // b for m, c in _terms(a) if c % b == 0}
        rest = {m: c for m, c in _terms(a) if c % b}
        if not rest:
            return _normal(whole)
        if whole:
            return _normal(whole) + floordiv(_normal(rest), b)
        if set(rest) == {()}:
            return rest[()] // b
    elif not isinstance(a, int) and len(b.terms) == 1 and (quotient := _divide_exactly(a, b)) is not None:
        return quotient
    return SymDim({(("//", a, b),): 1})


def ceildiv(a: Dim, b: Dim) -> Dim:
    """The smallest integer not below `a / b`."""
    return -floordiv(-a, b)


def maximum(a: Dim, b: Dim) -> Dim:
    """The larger of two dimensions, symbolic where that is not known."""
    return _extreme("max", a, b)


def minimum(a: Dim, b: Dim) -> Dim:
    """The smaller of two dimensions, symbolic where that is not known."""
    return _extreme("min", a, b)


def symbols(dim: Dim) -> frozenset[str]:
    """The names that a dimension depends on."""
    names: set[str] = set()
    for monomial, _ in _terms(dim):
        for atom in monomial:
            names |= {atom} if isinstance(atom, str) else symbols(atom[1]) | symbols(atom[2])
    return frozenset(names)


def bind(dim: Dim, sizes: Mapping[str, Dim]) -> Dim:
    """`dim` with the named sizes put in."""
    if isinstance(dim, int):
        return dim
    total: Dim = 0
    for monomial, factor in dim.terms:
        product: Dim = factor
        for atom in monomial:
            product = product * (
                sizes.get(atom, symbol(atom)) if isinstance(atom, str) else _OPS[atom[0]](bind(atom[1], sizes), bind(atom[2], sizes))
            )
        total = total + product
    return total


_OPS = {"//": floordiv, "max": maximum, "min": minimum}
_TOKEN = re.compile(r"\s*(?:(\d+)|([A-Za-z_?][\w.?$:]*)|(//|[-+*(),]))")


def parse_dim(text: str) -> Dim:
    """Parse what `repr` prints: names, integers, `+ - * //`, parentheses, `max(a, b)`, `min(a, b)`.

    Raises:
        ParseError: text that is not such an expression.
    """
    tokens: list[str] = []
    position, text = 0, text.strip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ParseError(f"'{text}' is not a dimension", hint="use names, integers, + - * //, max(a, b), min(a, b)")
        tokens.append(match.group().strip())
        position = match.end()
    dim, rest = _parse_sum(tokens, text)
    if rest:
        raise ParseError(f"'{text}' is not a dimension: unexpected '{rest[0]}'")
    return dim


def _parse_sum(tokens: list[str], text: str) -> tuple[Dim, list[str]]:
    total, tokens = _parse_product(tokens, text)
    while tokens and tokens[0] in "+-":
        term, rest = _parse_product(tokens[1:], text)
        total, tokens = (total + term if tokens[0] == "+" else total - term), rest
    return total, tokens


def _parse_product(tokens: list[str], text: str) -> tuple[Dim, list[str]]:
    product, tokens = _parse_atom(tokens, text)
    while tokens and tokens[0] in ("*", "//"):
        factor, rest = _parse_atom(tokens[1:], text)
        product, tokens = (product * factor if tokens[0] == "*" else floordiv(product, factor)), rest
    return product, tokens


def _parse_atom(tokens: list[str], text: str) -> tuple[Dim, list[str]]:
    match tokens:
        case ["-", *rest]:
            inner, rest = _parse_atom(rest, text)
            return -inner, rest
        case ["(", *rest]:
            inner, rest = _parse_sum(rest, text)
            if rest[:1] == [")"]:
                return inner, rest[1:]
        case ["max" | "min" as name, "(", *rest]:
            left, rest = _parse_sum(rest, text)
            if rest[:1] == [","]:
                right, rest = _parse_sum(rest[1:], text)
                if rest[:1] == [")"]:
                    return _OPS[name](left, right), rest[1:]
        case [token, *rest] if token.isdigit():
            return int(token), rest
        case [token, *rest] if token[0].isalpha() or token[0] in "_?":
            return symbol(token), rest
    raise ParseError(f"'{text}' is not a dimension", hint="use names, integers, + - * //, max(a, b), min(a, b)")


def _terms(dim: Dim) -> tuple[tuple[Monomial, int], ...]:
    return dim.terms if isinstance(dim, SymDim) else (((), int(dim)),)


def _normal(terms: Mapping[Monomial, int]) -> Dim:
    kept = {m: c for m, c in terms.items() if c}
    return SymDim(kept) if any(kept) else kept.get((), 0)


def _divide_exactly(a: SymDim, b: SymDim) -> Dim | None:
    """`a / b` for a one-term `b` that divides every term of `a`, else None."""
    (divisor, factor), quotient = b.terms[0], {}
    for monomial, coefficient in a.terms:
        left = list(monomial)
        for atom in divisor:
            if atom not in left:
                return None
            left.remove(atom)
        if coefficient % factor:
            return None
        quotient[tuple(left)] = coefficient // factor
    return _normal(quotient)


def _extreme(name: str, a: Dim, b: Dim) -> Dim:
    if a == b:
        return a
    if isinstance(a, int) and isinstance(b, int):
        return max(a, b) if name == "max" else min(a, b)
    difference = a - b
    if _never_negative(difference):
        return a if name == "max" else b
    if _never_negative(-difference):
        return b if name == "max" else a
    return SymDim({((name, a, b),): 1})


def _never_negative(dim: Dim) -> bool:
    """Whether a dimension is certain to be at least zero: names are sizes, which are."""
    return all(factor >= 0 and all(isinstance(atom, str) for atom in monomial) for monomial, factor in _terms(dim))


def _term_text(monomial: Monomial, factor: int) -> str:
    parts = [
        atom if isinstance(atom, str) else f"({atom[1]})//({atom[2]})" if atom[0] == "//" else f"{atom[0]}({atom[1]},{atom[2]})"
        for atom in monomial
    ]
    parts = [f"({p})" if "//" in p and len(parts) > 1 else p for p in parts]
    if factor == -1 and parts:
        return "-" + (f"({parts[0]})" if "//" in parts[0] else parts[0]) + "".join("*" + p for p in parts[1:])
    if factor != 1 and parts and "//" in parts[0]:
        parts = [f"({p})" if "//" in p and not p.startswith("((") else p for p in parts]
    return "*".join(([str(factor)] if factor != 1 or not parts else []) + parts)
