"""The MLPerf Tiny models, where their files lie beside the checkout: float ones against ONNX Runtime, int8 ones against LiteRT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.ir.graph import Graph, Value
from lepton_compiler.ir.types import INT8
from lepton_compiler.ops.evaluator import evaluate, evaluate_node

MODELS = Path(__file__).parents[2] / "shared" / "models" / "mlperf-tiny"
NAMES = ("anomaly_detection", "image_classification", "keyword_spotting", "visual_wake_words")
INPUTS = 30

pytestmark = pytest.mark.skipif(not MODELS.is_dir(), reason="the MLPerf Tiny files are not there")


def read(name: str) -> Graph:
    """A model with batch 1."""
    path = MODELS / f"{name}.onnx"
    return lc.import_model(path, dims=dict.fromkeys(lc.import_model(path).free_symbols, 1))


def codes(shape: Any, seed: int) -> np.ndarray:
    """Quantized inputs: spread over all codes, or around the middle."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(-128, 128, shape) if seed % 2 else np.clip(rng.normal(0, 30, shape).round(), -128, 127)
    return np.asarray(drawn, np.int8)


@pytest.mark.parametrize("name", NAMES)
def test_float_model_agrees_with_onnxruntime(name: str) -> None:
    runtime = pytest.importorskip("onnxruntime")
    graph = read(f"{name}_fp32")
    session = runtime.InferenceSession(str(MODELS / f"{name}_fp32.onnx"), providers=["CPUExecutionProvider"])
    model, value = lc.compile(graph, level=3), graph.inputs[0]
    feeds = {value.name: np.random.default_rng(0).random(value.type.static_shape, np.float32)}
    (wanted,), (found,) = session.run(None, feeds), model.run(feeds).values()
    assert np.abs(found - wanted).max() <= 1e-5 * np.ptp(wanted)


@pytest.mark.parametrize("level", [0, 3])
@pytest.mark.parametrize("name", NAMES)
def test_int8_model_agrees_with_litert(name: str, level: int) -> None:
    interpreter_module = pytest.importorskip("ai_edge_litert.interpreter")
    graph = read(f"{name}_int8")
    model, value = lc.compile(graph, level=level), graph.inputs[0]
    interpreter = interpreter_module.Interpreter(str(MODELS / f"{name}_int8.tflite"))
    interpreter.allocate_tensors()
    source, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    differences = []
    for seed in range(INPUTS):
        array = codes(source["shape"], seed)
        interpreter.set_tensor(source["index"], array)
        interpreter.invoke()
        wanted = interpreter.get_tensor(result["index"]).astype(int)
        (found,) = model.run({value.name: array.reshape(value.type.static_shape)}).values()
        differences.append(int(np.abs(found.reshape(wanted.shape).astype(int) - wanted).max()))
    if level:
        assert max(differences) == 0
    else:  # sums of scaled numbers: rounding may flip a tie in a layer, which a softmax then makes larger
        assert sum(d > 1 for d in differences) <= 2


@pytest.mark.parametrize(("first", "last"), [(0, 3), pytest.param(3, 1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NAMES)
def test_int8_model_is_the_same_in_the_evaluator_and_natively(name: str, first: int, last: int) -> None:
    graph = lc.optimize(read(f"{name}_int8"), level=3)
    model, value = lc.compile(graph, level=0), graph.inputs[0]
    for seed in range(first, last):
        feeds = {value.name: codes(value.type.static_shape, seed)}
        for key, wanted in lc.evaluate(graph, feeds).items():
            np.testing.assert_array_equal(model.run(feeds)[key], wanted)


@pytest.mark.parametrize("name", NAMES)
def test_each_layer_is_within_a_step_of_what_onnx_defines(name: str) -> None:
    """Each quantized result of the optimised graph, beside what the model's own operators make of the same quantized inputs."""
    imported = read(f"{name}_int8")
    value, found = imported.inputs[0], dict[str, np.ndarray]()
    feed = codes(value.type.static_shape, 1)
    evaluate(lc.optimize(imported, level=3), {value.name: feed}, lambda node, results: found.update({node.output.name: results[0]}))
    values: dict[Value, np.ndarray] = {value: feed}
    compared = 0
    for node in imported:
        inputs = [None if v is None else v.numpy() if v.is_constant else values[v] for v in node.inputs]
        values.update(zip(node.outputs, evaluate_node(node, inputs), strict=True))
        ours = found.get(node.output.name)
        if node.output.type.dtype == INT8 and ours is not None and ours.shape == node.output.type.shape:
            assert np.abs(values[node.output].astype(int) - ours.astype(int)).max() <= 1, node.describe()
            values[node.output] = ours
            compared += 1
    assert compared >= sum(node.op.name in ("Conv", "MatMul", "Gemm") for node in imported)
