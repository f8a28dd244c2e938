"""Where codes are placed, and that what is placed computes nearly the same."""

from __future__ import annotations

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.calibration import Range, choose_range, evaluator_run, observe, write_ranges
from lepton_compiler.errors import LeptonError, UsageError
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.types import tensor_type
from lepton_compiler.ir.verify import verify
from lepton_compiler.ops.builder import Builder, make_op
from lepton_compiler.passes.quantize import Quantize
from lepton_compiler.passes.quantize.parameters import activation_parameters, scales_with_bias
from lepton_compiler.passes.quantize.place import needed
from lepton_compiler.passes.quantize.profile import PROFILES
from lepton_compiler.passes.quantize.recurrent import expand_recurrent
from lepton_compiler.quantization import Request, parse_recipe, quantize

RNG = np.random.default_rng(0)


def weights(*shape):
    return (RNG.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def residual():
    """conv, relu, then a sum of a convolution and a shortcut, pooled, joined with itself, and a product."""
    graph = Graph("residual")
    x = graph.add_input("x", tensor_type("float32[2,4,8,8]"))
    b = Builder(graph)
    first = b.Relu(b.Conv(x, b.constant(weights(8, 4, 3, 3)), b.constant(weights(8)), pads=(1, 1, 1, 1)))
    second = b.Conv(first, b.constant(weights(8, 8, 3, 3)), b.constant(weights(8)), pads=(1, 1, 1, 1))
    total = b.Relu(b.Add(first, second))
    pooled = b.MaxPool(total, kernel_shape=(2, 2), strides=(2, 2), pads=(0, 0, 0, 0), dilations=(1, 1))
    joined = b.Concat(pooled, pooled, axis=1)
    flat = b.Reshape(joined, shape=(2, 256))
    graph.set_outputs([b.Gemm(flat, b.constant(weights(5, 256)), b.constant(weights(5)), trans_b=True)])
    return graph, {"x": RNG.normal(size=(2, 4, 8, 8)).astype(np.float32)}


def ranges_of(graph, feeds, profile="x86"):
    names = [v.name for v in needed(graph, PROFILES[profile])]
    return {n: choose_range(s.histogram, "minmax") for n, s in observe(evaluator_run(graph, names), [feeds], dict.fromkeys(names)).items()}


def names_of(graph):
    return [node.op.name for node in graph]


def sqnr(graph, other, feeds):
    a, b = (next(iter(lc.evaluate(g, feeds).values())).astype(np.float64) for g in (graph, other))
    return 10 * np.log10((a**2).sum() / ((a - b) ** 2).sum())


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_stays_close_and_valid(profile):
    graph, feeds = residual()
    done = graph.copy()
    Quantize(profile=profile).place_static(done, ranges_of(graph, feeds, profile), "x86_64")
    verify(done)
    assert sqnr(graph, done, feeds) > 28


def test_codes_are_kept_across_pools_joins_and_reshapes():
    graph, feeds = residual()
    done = graph.copy()
    placement = Quantize(profile="x86").place_static(done, ranges_of(graph, feeds), "x86_64")
    total, pooled, joined, flat = [node.output.name for node in graph][4:8]
    assert len({placement.parameters[name] for name in (total, pooled, joined, flat)}) == 1
    assert placement.activations.name == "uint8"
    assert len(placement.layers) == 3


def test_nothing_stands_between_a_layer_and_its_clamp():
    graph, feeds = residual()
    done = graph.copy()
    Quantize(profile="onnx").place_static(done, ranges_of(graph, feeds, "onnx"), "x86_64")
    (relu, _) = [node for node in done if node.op.name == "Relu"]
    assert relu.inputs[0].producer.op.name == "Conv"
    assert {u.op.name for u in relu.output.users} == {"QuantizeLinear"}


def test_layers_that_are_kept_stay_in_floating_point():
    graph, feeds = residual()
    names = [node.output.name for node in graph if node.op.name in ("Conv", "Gemm")]
    done = graph.copy()
    placement = Quantize(profile="x86", keep=tuple(names[1:])).place_static(done, ranges_of(graph, feeds), "x86_64")
    assert [layer.name for layer in placement.layers] == names[:1]
    assert sqnr(graph, done, feeds) > sqnr(graph, _all(graph, feeds), feeds)


def _all(graph, feeds):
    done = graph.copy()
    Quantize(profile="x86").place_static(done, ranges_of(graph, feeds), "x86_64")
    return done


def test_the_pass_reads_ranges_from_a_file(tmp_path):
    graph, feeds = residual()
    write_ranges(ranges_of(graph, feeds), tmp_path / "r.json")
    done = lc.optimize(graph, passes=f"quantize{{scheme=int8,profile=x86,ranges={tmp_path / 'r.json'}}}")
    assert names_of(done).count("QuantizeLinear") == len(needed(graph, PROFILES["x86"]))
    with pytest.raises(UsageError, match="needs ranges of data"):
        lc.optimize(graph, passes="quantize")
    with pytest.raises(LeptonError, match="the range of 'x' is not known"):
        Quantize().place_static(graph.copy(), {}, "x86_64")


def recurrent(kind):
    graph = Graph("recurrent")
    x = graph.add_input("x", tensor_type("float32[6,2,5]"))
    b = Builder(graph)
    gates = {"GRU": 3, "LSTM": 4, "RNN": 1}[kind]
    operands = [x, b.constant(weights(1, gates * 7, 5)), b.constant(weights(1, gates * 7, 7)), b.constant(weights(1, 2 * gates * 7))]
    y = b.node(make_op(kind, {"hidden_size": 7}), operands).outputs[0]
    graph.set_outputs([b.Squeeze(y, axes=(1,))])
    return graph, {"x": RNG.normal(size=(6, 2, 5)).astype(np.float32)}


@pytest.mark.parametrize("kind", ["GRU", "LSTM", "RNN"])
def test_recurrent_layers_are_quantized_statically(kind):
    graph, feeds = recurrent(kind)
    done = quantize(graph, Request(parse_recipe("int8"), [feeds]))
    inner = [node for node in done.graph.walk() if node.op.name == "QuantizeLinear" and node.graph is not done.graph]
    assert len(inner) == (2 if kind == "GRU" else 1)
    assert sqnr(graph, done.graph, feeds) > 25
    assert all(row.precision == "int8" for row in done.report.layers)


@pytest.mark.parametrize(("scheme", "least"), [("w8", 35), ("w4", 12), ("dynamic", 25)])
def test_schemes_without_ranges(scheme, least):
    graph, feeds = residual() if scheme != "dynamic" else _products()
    done = lc.optimize(graph, passes=f"quantize{{scheme={scheme},group=32}}")
    verify(done)
    assert sqnr(graph, done, feeds) > least


def _products():
    graph = Graph("products")
    x = graph.add_input("x", tensor_type("float32[3,64]"))
    b = Builder(graph)
    hidden = b.Relu(b.MatMul(x, b.constant(weights(64, 48))))
    graph.set_outputs([b.Gemm(hidden, b.constant(weights(9, 48)), b.constant(weights(9)), trans_b=True)])
    return graph, {"x": RNG.normal(size=(3, 64)).astype(np.float32)}


def test_tables_are_looked_up_as_codes():
    graph = Graph("table")
    i = graph.add_input("i", tensor_type("int64[3]"))
    b = Builder(graph)
    graph.set_outputs([b.Gather(b.constant(weights(200, 40)), i, axis=0)])
    done = lc.optimize(graph, passes="quantize{scheme=w8}")
    assert any(v.type.dtype.name == "int8" and v.type.shape == (200, 40) for v in done.constants)
    assert sqnr(graph, done, {"i": np.array([5, 0, 199])}) > 35


def test_a_range_of_nothing_has_a_scale_of_one():
    scale, zero = activation_parameters(Range(0.0, 0.0), PROFILES["x86"].activations)
    assert float(scale) == 1 and int(zero) == 0


def test_a_large_bias_widens_its_scale():
    scales = scales_with_bias(np.array([1e-6, 1.0], np.float32), np.array(1e-6, np.float32), np.array([1e5, 1.0], np.float32))
    assert scales[0] * 1e-6 * 2.0**31 > 1e5 and scales[1] == 1


def test_expanding_leaves_other_nodes_alone():
    graph, _ = residual()
    edits = graph.edits
    expand_recurrent(graph)
    assert graph.edits == edits
