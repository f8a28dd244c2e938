"""Symbolic dimensions are integers that happen not to be known yet."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_compiler.errors import ParseError
from lepton_compiler.ir.dim import bind, ceildiv, floordiv, maximum, minimum, parse_dim, symbol, symbols

N, M = symbol("n"), symbol("m")


@pytest.mark.parametrize(
    ("dim", "text"),
    [
        (N + 0, "n"),
        (3 + N * 2 - N, "n+3"),
        (N - M, "-m+n"),
        (-N, "-n"),
        ((N + 1) * (N - 1), "n*n-1"),
        (N * 2 * M, "2*m*n"),
        ((N + 1) // 2, "(n+1)//(2)"),
        ((N * 4 + 5) // 2, "2*n+2"),
        (N * 3 * ((N + 1) // 2), "3*n*((n+1)//(2))"),
        (-(N // 2), "-((n)//(2))"),
        (maximum(N, M), "max(n,m)"),
        (minimum(N // 2, 7), "min((n)//(2),7)"),
        (N % 4, "n-4*((n)//(4))"),
    ],
)
def test_one_form(dim: Any, text: str) -> None:
    assert repr(dim) == text
    assert parse_dim(text) == dim


def test_numbers_as_soon_as_symbols_cancel() -> None:
    for dim, number in ((N - N + 3, 3), (N * 0, 0), ((N * 2 + 4) // 2 - N, 2), (N * M // N - M, 0), (N // N, 1), ((N + 1) - (1 + N), 0)):
        assert dim == number and isinstance(dim, int)


def test_equality_and_hash_are_those_of_polynomials() -> None:
    assert (N + M) * (N + M) == N * N + 2 * N * M + M * M
    assert len({N + M, M + N, (N * 2 + 2 * M) // 2}) == 1
    assert symbol("N") != N and N != 1 and N + 1 != N


def test_extremes_are_decided_where_the_difference_is_known() -> None:
    assert maximum(N + 1, N) == N + 1 and minimum(N + 1, N) == N
    assert maximum(2, 3) == 3 and minimum(2, 3) == 2 and maximum(N, N) == N


def test_symbols_and_binding() -> None:
    dim = maximum(N // 2, M) + 1
    assert symbols(dim) == {"n", "m"} and symbols(5) == frozenset()
    assert bind(dim, {"n": 8}) == maximum(4, M) + 1
    assert bind(dim, {"n": 8, "m": 9}) == 10
    assert bind(N * 2, {"n": M + 1}) == M * 2 + 2
    assert bind(7, {"n": 1}) == 7


@pytest.mark.parametrize("text", ["", "n+", "(n", "n n", "max(n)", "max(n,m", "n/2", "3.5", "*n", "n)"])
def test_what_is_no_dimension(text: str) -> None:
    with pytest.raises(ParseError, match="is not a dimension"):
        parse_dim(text)


expressions = st.recursive(
    st.one_of(st.integers(-5, 5), st.sampled_from([N, M])),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from("+-*"), inner, inner),
        st.tuples(st.sampled_from(["max", "min"]), inner, inner),
        st.tuples(st.sampled_from(["//", "ceil", "%"]), inner, st.integers(1, 4)),
    ),
    max_leaves=6,
)


def build(tree: Any, sizes: dict[str, int] | None) -> Any:
    """The expression, of symbols or, where there are sizes, of Python's integers."""
    if not isinstance(tree, tuple):
        return tree if sizes is None or isinstance(tree, int) else sizes[repr(tree)]
    name, left, right = tree[0], build(tree[1], sizes), build(tree[2], sizes)
    match name:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case "//":
            return floordiv(left, right)
        case "ceil":
            return ceildiv(left, right)
        case "%":
            return left % right
        case "max":
            return maximum(left, right)
    return minimum(left, right)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(expressions, st.integers(1, 9), st.integers(1, 9))
def test_arithmetic_agrees_with_integers_and_text_is_exact(tree: Any, n: int, m: int) -> None:
    dim, sizes = build(tree, None), {"n": n, "m": m}
    assert bind(dim, sizes) == build(tree, sizes)
    assert parse_dim(repr(dim)) == dim
