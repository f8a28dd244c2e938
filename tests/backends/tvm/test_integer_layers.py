"""The pass that lets layers compute on codes, on cores without vectors."""

from __future__ import annotations

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.text import parse_graph
from lepton_compiler.ir.types import INT8, TensorType
from lepton_compiler.ops.builder import Builder

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


def test_relu_is_a_maximum_of_codes_where_zero_is_not_the_least_one() -> None:
    graph = parse_graph(LAYER.replace("(-128)", "(-90)"))
    changed = lc.optimize(graph, target="cortex-m4", passes="integer-layers,dce")
    assert "Relu" not in names(changed) and names(changed).count("Max") == 1
    feeds = {"x": np.random.default_rng(0).integers(-128, 128, (1, 2, 3, 3)).astype(np.int8)}
    np.testing.assert_array_equal(lc.evaluate(changed, feeds)["a"], lc.evaluate(graph, feeds)["a"])


@pytest.mark.parametrize("target", ["native", "cortex-m4"])
def test_small_models_keep_weights_of_8_bits_and_compute_on_codes(target: str) -> None:
    if target != "native":
        pytest.importorskip("unicorn")
        pytest.importorskip("ziglang")
    random, graph = np.random.default_rng(0), Graph("net")
    b, x = Builder(graph), graph.add_input("x", TensorType(INT8, (2, 80)))
    scale, zero = b.constant(np.float32(0.05)), b.constant(np.int8(3))
    codes, scales = (
        b.constant(random.integers(-128, 128, (80, 64)).astype(np.int8)),
        b.constant(random.uniform(0.01, 0.02, 64).astype(np.float32)),
    )
    product = b.MatMul(b.DequantizeLinear(x, scale, zero), b.DequantizeLinear(codes, scales, axis=1))
    graph.set_outputs([b.QuantizeLinear(product, b.constant(np.float32(0.4)), zero, dtype=INT8)])
    feeds = {"x": random.integers(-128, 128, (2, 80)).astype(np.int8)}
    model = lc.compile(graph, target, "s")
    assert model.manifest["weights_bytes"] < 2 * codes.type.size
    outputs = model.run(feeds) if target == "native" else model.emulate(feeds)[0]
    for name, want in lc.evaluate(lc.optimize(graph, "s", target), feeds).items():
        np.testing.assert_array_equal(outputs[name], want)
