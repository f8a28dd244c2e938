"""Scales of biases that are products: as small as that, the same numbers, and understood by whoever reads them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.types import tensor_type
from lepton_compiler.ops.builder import Builder
from lepton_compiler.passes.levels import LEVELS
from lepton_compiler.quantization import Request, parse_recipe, quantize
from lepton_compiler.quantization.derived import derive_bias_scales


def net():
    rng = np.random.default_rng(0)
    graph = Graph("net")
    x = graph.add_input("x", tensor_type("float32[1,3,6,6]"))
    b = Builder(graph)
    y = b.Relu(b.Conv(x, b.constant(rng.normal(size=(8, 3, 3, 3)).astype(np.float32)), b.constant(rng.normal(size=8).astype(np.float32))))
    y = b.Reshape(y, shape=(1, 128))
    y = b.Relu(b.Add(b.MatMul(y, b.constant(rng.normal(size=(128, 12)).astype(np.float32))), b.constant(np.ones(12, np.float32))))
    graph.set_outputs(
        [b.Gemm(y, b.constant(rng.normal(size=(4, 12)).astype(np.float32)), b.constant(np.ones(4, np.float32)), trans_b=True)]
    )
    return graph


def samples():
    rng = np.random.default_rng(1)
    return [{"x": rng.normal(size=(1, 3, 6, 6)).astype(np.float32)} for _ in range(8)]


def quantized(emit):
    return quantize(net(), Request(parse_recipe("int8{profile=onnx}"), samples(), emit=emit))


def test_scales_of_biases_are_products_of_known_scales():
    plain, done = quantized("tflite"), quantized("onnx")
    assert Counter(n.op.name for n in done.graph)["Mul"] - Counter(n.op.name for n in plain.graph)["Mul"] == 3
    assert plain.report.weight_bytes[1] - done.report.weight_bytes[1] == 4 * (8 + 12 + 4)
    for feeds in samples():
        for a, b in zip(lc.evaluate(plain.graph, feeds).values(), lc.evaluate(done.graph, feeds).values(), strict=True):
            np.testing.assert_array_equal(a, b)
    assert derive_bias_scales(done.graph) == 0


@pytest.mark.parametrize("level", ["O0", "O2", "Os"])
def test_levels_make_the_same_of_both(level):
    plain, done = (lc.optimize(quantized(emit).graph, passes=LEVELS[level]) for emit in ("tflite", "onnx"))
    assert [n.op.name for n in plain] == [n.op.name for n in done]
    for feeds in samples():
        for a, b in zip(lc.evaluate(plain, feeds).values(), lc.evaluate(done, feeds).values(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_files_run_in_onnx_runtime_as_quantized_layers(tmp_path):
    ort = pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    done = quantized("onnx").graph
    lc.emit(done, tmp_path / "net.onnx", backend="onnx")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    session = ort.InferenceSession(str(tmp_path / "net.onnx"), options, providers=["CPUExecutionProvider"])
    operators = Counter(n.op_type for n in onnx.load(str(tmp_path / "optimised.onnx")).graph.node)
    assert operators["QLinearConv"] == 1 and not operators["Mul"]
    for feeds in samples():
        (wanted,), (found,) = lc.evaluate(done, feeds).values(), session.run(None, feeds)
        np.testing.assert_allclose(found, wanted, atol=0.02 * np.abs(wanted).max())
    again = lc.optimize(lc.import_model(tmp_path / "net.onnx"), 2)
    native = lc.compile(tmp_path / "net.onnx").run(samples()[0])
    for a, b in zip(native.values(), lc.evaluate(again, samples()[0]).values(), strict=True):
        np.testing.assert_array_equal(a, b)
