"""What half precision is for, and what it would spoil."""

from __future__ import annotations

import numpy as np

import lepton_compiler as lc
from lepton_compiler.feeds import random_feeds
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.text import parse_graph

QUANTIZED = """\
graph @net(%x: int8[1,64]) {
  %one = const float32[] (1.0)
  %zero = const int8[] (0)
  %w = const float32[64,2] @w
  %m = const float32[2] (0.0001, 0.0002)
  %d = DequantizeLinear()(%x, %one, %zero) : float32[1,64]
  %s = MatMul()(%d, %w) : float32[1,2]
  %r = Mul()(%s, %m) : float32[1,2]
  %a = Relu()(%r) : float32[1,2]
  %q = QuantizeLinear(dtype=int8)(%a, %one, %zero) : int8[1,2]
  %e = DequantizeLinear()(%q, %one, %zero) : float32[1,2]
  %t = Tanh()(%e) : float32[1,2]
  return %q, %t
}
""".replace("@w", f"({', '.join(['127.0'] * 128)})")
DYNAMIC = """\
graph @net(%x: float32[1,4]) {
  %w = const int8[4,2] (127, 127, 127, 127, 127, 127, 127, 127)
  %ws = const float32[] (0.0001)
  %h = Add()(%x, %x) : float32[1,4]
  %q, %s, %z = DynamicQuantizeLinear()(%h) : uint8[1,4], float32[], uint8[]
  %p = MatMulInteger()(%q, %w, %z) : int32[1,2]
  %f = Cast(to=float32)(%p) : float32[1,2]
  %b = Mul()(%s, %ws) : float32[]
  %y = Mul()(%f, %b) : float32[1,2]
  %g = Gelu()(%y) : float32[1,2]
  return %g
}
"""
MEAN = """\
graph @net(%x: float32[1,512]) {
  %d = const float32[] (512.0)
  %q = Mul()(%x, %x) : float32[1,512]
  %s = ReduceSum(axes=(1,),keepdims=False)(%q) : float32[1]
  %r = Reshape(shape=(1, 1))(%s) : float32[1,1]
  %m = Div()(%r, %d) : float32[1,1]
  %y = Add()(%x, %m) : float32[1,512]
  return %y
}
"""
PLAIN = """\
graph @net(%x: float32[2,4]) {
  %w = const float32[4,2] (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)
  %y = MatMul()(%x, %w) : float32[2,2]
  return %y
}
"""


def lowered(graph: Graph) -> tuple[Graph, dict[str, str]]:
    """The graph in half precision, and the type that each operator computes in."""
    found = lc.optimize(graph, 0, "cuda:sm_80", "lower-precision,simplify-casts,dce")
    return found, {n.op.name: str(n.outputs[0].type.dtype) for n in found.nodes}


def test_layers_of_codes_stay_what_comes_after_them_does_not() -> None:
    graph = parse_graph(QUANTIZED)
    half, types = lowered(graph)
    assert [types[name] for name in ("MatMul", "Mul", "Relu", "Tanh")] == ["float32", "float32", "float32", "float16"]
    feeds = {"x": np.full((1, 64), 100, np.int8)}  # the sums are 812,800, twelve times what float16 holds
    np.testing.assert_array_equal(lc.evaluate(half, feeds)["q"], lc.evaluate(graph, feeds)["q"])


def test_sums_and_scales_that_are_measured_stay() -> None:
    graph = parse_graph(DYNAMIC)
    half, types = lowered(graph)
    assert [types[name] for name in ("Add", "Mul", "Gelu")] == ["float16", "float32", "float16"]
    feeds = random_feeds(graph.inputs)
    np.testing.assert_allclose(lc.evaluate(half, feeds)["g"], lc.evaluate(graph, feeds)["g"], rtol=2e-3, atol=1e-6)


def test_sums_stay_until_they_are_scaled() -> None:
    graph = parse_graph(MEAN)
    half, types = lowered(graph)
    assert [types[name] for name in ("Mul", "ReduceSum", "Reshape", "Div", "Add")] == ["float32"] * 4 + ["float16"]
    feeds = {"x": np.full((1, 512), 30, np.float32)}  # the sum of squares is 460,800, seven times what float16 holds
    np.testing.assert_array_equal(lc.evaluate(half, feeds)["y"], lc.evaluate(graph, feeds)["y"])


def test_layers_of_numbers_are_lowered() -> None:
    graph = parse_graph(PLAIN)
    half, types = lowered(graph)
    assert types["MatMul"] == "float16" and half.outputs[0].type == graph.outputs[0].type
