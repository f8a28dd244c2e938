"""The tolerance from random rounding: it forgives what rounding does, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.text import parse_graph
from lepton_compiler.ops.evaluator import evaluate
from lepton_compiler.testing.rounding import ensemble, explained


def graph_of(body: str, **inputs: str) -> Graph:
    formals = ", ".join(f"%{name}: {type}" for name, type in inputs.items())
    return parse_graph(f"graph @main({formals}) {{\n{body}\n}}\n")


SOFTMAX = graph_of("  %y = Softmax()(%x) : float32[3,7]\n  return %y", x="float32[3,7]")
X = np.random.default_rng(0).normal(0, 3, (3, 7)).astype(np.float32)


def verdict(graph: Graph, feeds: dict[str, np.ndarray], actual: np.ndarray) -> str:
    return explained(graph, feeds, ensemble(graph, feeds), {graph.outputs[0].name: actual})


def test_other_orders_of_arithmetic_are_explained() -> None:
    powers = np.exp(X[:, ::-1].astype(np.float64))[:, ::-1]
    assert not verdict(SOFTMAX, {"x": X}, (powers / powers.sum(1, keepdims=True)).astype(np.float32))


def test_an_error_in_one_small_element_is_not_explained_by_large_ones() -> None:
    y = evaluate(SOFTMAX, {"x": X})["y"]
    at = np.unravel_index(y.argmin(), y.shape)
    wrong = y.copy()
    wrong[at] *= np.float32(1 + 2e-5)
    assert y[at] < 1e-4 and "differs in 1 of 21 elements" in verdict(SOFTMAX, {"x": X}, wrong)


def test_what_is_exact_must_be_equal() -> None:
    graph = graph_of("  %c = const float32[] (0.125)\n  %y = Mul()(%x, %c) : float32[4]\n  return %y", x="float32[4]")
    x = np.array([1, 2.5, -3, 0], np.float32)
    assert not verdict(graph, {"x": x}, x / 8)
    assert "differs in 1 of 4" in verdict(graph, {"x": x}, np.nextafter(x / 8, np.array([1, 0.3125, -0.375, 0], np.float32)))


def test_a_half_that_is_exact_has_one_rounding_and_one_that_is_not_has_two() -> None:
    graph = graph_of("  %y = Round()(%x) : float32[2]\n  return %y", x="float32[2]")
    assert "differs" in verdict(graph, {"x": np.array([0.5, 1.5], np.float32)}, np.array([1, 2], np.float32))
    body = "  %c = const float32[] (0.1)\n  %m = Mul()(%x, %c) : float32[2]\n  %y = Round()(%m) : float32[2]\n  return %y"
    graph = graph_of(body, x="float32[2]")
    assert not verdict(graph, {"x": np.array([5, 15], np.float32)}, np.array([1, 1], np.float32))


def test_cancellation_widens_the_bound_where_it_happens() -> None:
    body = "  %c = const float32[] (1e6)\n  %a = Add()(%x, %c) : float32[2]\n  %y = Sub()(%a, %c) : float32[2]\n  return %y"
    graph = graph_of(body, x="float32[2]")
    x = np.array([0.3, 0.3], np.float32)
    assert not verdict(graph, {"x": x}, np.array([0.3125, 0.25], np.float32))
    assert "differs in 1 of 2" in verdict(graph, {"x": x}, np.array([0.3125, 1.9], np.float32))


@pytest.mark.parametrize(("wrong", "found"), [(np.nan, True), (np.inf, True), (-np.inf, False)])
def test_infinities_and_nan_have_their_places(wrong: float, found: bool) -> None:
    graph = graph_of("  %y = Log()(%x) : float32[2]\n  return %y", x="float32[2]")
    feeds = {"x": np.array([0.0, 1.0], np.float32)}
    assert bool(verdict(graph, feeds, np.array([wrong, 0], np.float32))) is found


def test_what_overflows_in_one_order_may_be_anything_and_is_counted() -> None:
    graph = graph_of("  %y = ReduceSum(axes=(0,), keepdims=False)(%x) : float32[2]\n  return %y", x="float32[3,2]")
    feeds = {"x": np.array([[3e38, 1], [3e38, 2], [-3e38, 3]], np.float32)}
    known = ensemble(graph, feeds)
    assert known.open == 0.5
    assert not known.difference({"y": np.array([np.inf, 6], np.float32)}) and not known.difference({"y": np.array([3e38, 6], np.float32)})
    assert known.difference({"y": np.array([np.inf, 7], np.float32)})


def test_integers_follow_exact_operands_and_spread_with_inexact_ones() -> None:
    body = "  %f = Floor()(%x) : float32[1]\n  %y = Cast(to=int32)(%f) : int32[1]\n  return %y"
    graph = graph_of(body, x="float32[1]")
    assert "differs" in verdict(graph, {"x": np.array([3.0], np.float32)}, np.array([2], np.int32))
    body = "  %e = Exp()(%x) : float32[1]\n  %l = Log()(%e) : float32[1]\n" + body.replace("%x", "%l")
    graph = graph_of(body, x="float32[1]")
    assert not verdict(graph, {"x": np.array([3.0], np.float32)}, np.array([2], np.int32))
    assert "differs" in verdict(graph, {"x": np.array([3.0], np.float32)}, np.array([1], np.int32))
