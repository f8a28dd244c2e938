"""Intervals hold every element that evaluation gives, and are as tight as shape arithmetic needs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lepton_compiler.analysis.value_range import Ranges
from lepton_compiler.ir.text import parse_graph
from lepton_compiler.ops.evaluator import evaluate_node

TEXT = """graph @g(%x: float32[2,5], %b: uint8[3], %n: int64[]) {
  %lo = const float32[] (-2.0)
  %hi = const float32[] (7.0)
  %two = const float32[] (2.0)
  %ten = const int64[] (10)
  %one = const int64[] (1)
  %c = Clip()(%x, %lo, %hi) : float32[2,5]
  %s = ReduceSum(axes=(1,), keepdims=False)(%c) : float32[2]
  %t = Tanh()(%x) : float32[2,5]
  %d = Div()(%t, %two) : float32[2,5]
  %m = Sub()(%c, %d) : float32[2,5]
  %a = Abs()(%m) : float32[2,5]
  %i = Cast(to=int64)(%a) : int64[2,5]
  %u = Cast(to=int64)(%b) : int64[3]
  %k = Min()(%n, %ten) : int64[]
  %p = Max()(%k, %one) : int64[]
  %w = Mul()(%u, %p) : int64[3]
  %e = CumSum(axis=0)(%w) : int64[3]
  %g = ArgMax(axis=1)(%x) : int64[2,1]
  return %s, %i, %e, %g, %p, %m
}"""


def _intervals() -> dict[str, tuple[float, float]]:
    graph = parse_graph(TEXT)
    ranges = Ranges()
    return {value.name: ranges.of(value) for node in graph for value in node.outputs}


def test_the_intervals_of_shape_arithmetic() -> None:
    found = _intervals()
    assert found["c"] == (-2, 7)
    assert found["s"] == (-10, 35)
    assert found["m"] == (-2.5, 7.5)
    assert found["i"] == (0, 7)
    assert found["p"] == (1, 10)
    assert found["e"] == (0, 255 * 10 * 3)
    assert found["g"] == (0, 4)


@pytest.mark.parametrize("seed", range(20))
def test_every_element_lies_in_its_interval(seed: int) -> None:
    graph, rng = parse_graph(TEXT), np.random.default_rng(seed)
    feeds = {"x": (rng.standard_normal((2, 5)) * 8).astype(np.float32), "b": rng.integers(0, 256, 3).astype(np.uint8)}
    arrays = {v: np.asarray({**feeds, "n": np.array(rng.integers(-50, 50), np.int64)}[v.name]) for v in graph.inputs}
    ranges = Ranges()
    for node in graph:
        results = evaluate_node(node, [None if v is None else v.numpy() if v.tensor is not None else arrays[v] for v in node.inputs])
        for value, array in zip(node.outputs, results, strict=True):
            arrays[value] = array
            low, high = ranges.of(value)
            assert low <= array.min() and array.max() <= high, value.name


def test_what_may_wrap_around_has_the_range_of_its_type() -> None:
    graph = parse_graph("graph @g(%n: uint8[4]) {\n%y = Add()(%n, %n) : uint8[4]\nreturn %y\n}")
    assert Ranges().of(graph.outputs[0]) == (0, 255)


def test_nothing_is_known_of_inputs_and_of_unknown_operators() -> None:
    graph = parse_graph("graph @g(%x: float32[4]) {\n%y = Erf()(%x) : float32[4]\nreturn %y\n}")
    assert Ranges().of(graph.outputs[0]) == (-math.inf, math.inf)
