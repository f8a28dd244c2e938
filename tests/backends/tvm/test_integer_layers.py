"""The pass that lets layers compute on codes, on cores without vectors."""

from __future__ import annotations

import numpy as np

import lepton_compiler as lc
from lepton_compiler.ir.text import parse_graph

LAYER = """\
graph @net(%x: int8[1,2,3,3]) {
  %one = const float32[] (1.0)
  %zero = const int8[] (-128)
  %w = const float32[1,2,1,1] (3.0, -5.0)
  %bias = const float32[1] (7.0)
  %factor = const float32[] (0.01)
  %d = DequantizeLinear()(%x, %one, %zero) : float32[1,2,3,3]
  %c = Conv()(%d, %w, %bias) : float32[1,1,3,3]
  %r = Relu()(%c) : float32[1,1,3,3]
  %m = Mul()(%r, %factor) : float32[1,1,3,3]
  %q = QuantizeLinear(dtype=int8)(%m, %one, %zero) : int8[1,1,3,3]
  %e = DequantizeLinear()(%q, %one, %zero) : float32[1,1,3,3]
  %a = AveragePool(kernel_shape=(3, 3), strides=(1, 1), pads=(0, 0, 0, 0), dilations=(1, 1))(%e) : float32[1,1,1,1]
  return %a
}
"""


def names(graph: lc.Graph) -> list[str]:
    return [node.op.name for node in graph]


def test_a_layer_computes_on_codes() -> None:
    graph = parse_graph(LAYER)
    changed = lc.optimize(graph, target="cortex-m4", passes="integer-layers,dce")
    assert names(changed) == ["ConvInteger", "Add", "Cast", "Mul", "QuantizeLinear", "Cast", "Sub", "ReduceSum", "Cast", "Div"]
    feeds = {"x": np.random.default_rng(0).integers(-128, 128, (1, 2, 3, 3)).astype(np.int8)}
    np.testing.assert_array_equal(lc.evaluate(changed, feeds)["a"], lc.evaluate(graph, feeds)["a"])


def test_machines_with_vectors_have_a_pass_of_their_own() -> None:
    assert names(lc.optimize(parse_graph(LAYER), target="x86_64", passes="integer-layers")) == names(parse_graph(LAYER))


def test_weights_that_are_no_whole_numbers_stay() -> None:
    graph = parse_graph(LAYER.replace("(3.0, -5.0)", "(3.5, -5.0)"))
    assert "Conv" in names(lc.optimize(graph, target="cortex-m4", passes="integer-layers"))


def test_relu_stays_where_zero_is_not_the_least_code() -> None:
    graph = parse_graph(LAYER.replace("(-128)", "(-127)"))
    assert "Relu" in names(lc.optimize(graph, target="cortex-m4", passes="integer-layers"))
