"""`leptonc --quantize`: one command from a float model and samples to a quantized artefact or file, and what is refused."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.types import tensor_type
from lepton_compiler.ops.builder import Builder

RNG = np.random.default_rng(0)


def floats(*shape):
    return RNG.normal(size=shape).astype(np.float32)


@pytest.fixture
def net(tmp_path):
    graph = Graph("net")
    x = graph.add_input("x", tensor_type("float32[1,3,6,6]"))
    b = Builder(graph)
    y = b.Relu(b.Conv(x, b.constant(floats(8, 3, 3, 3) / 5), b.constant(floats(8))))
    y = b.Reshape(y, shape=(1, 128))
    graph.set_outputs([b.Gemm(y, b.constant(floats(6, 128) / 11), b.constant(floats(6)), trans_b=True)])
    return lc.emit(graph, tmp_path / "net.onnx")


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "samples"
    folder.mkdir()
    for k in range(6):
        np.save(folder / f"{k}.npy", floats(1, 3, 6, 6))
    return folder


def test_one_command(call, net, data, tmp_path):
    out, page = tmp_path / "out", tmp_path / "q.html"
    options = ("--quantize", "int8", "--calibrate", data, "--max-drop", "20%", "--report", page, "--verify", "--json")
    done = call("leptonc", net, "-o", out, *options)
    assert done.status == 0, done.err
    found = done.json["quantization"]
    assert done.json["verify"]["ok"] and found["samples"] == 6 and len(found["layers"]) == 2 and found["drop"] <= 0.2
    assert (out / "libnet.so").is_file() and "<svg" in page.read_text()
    float_outputs, outputs = (m.run({"x": np.load(data / "0.npy")}) for m in (lc.compile(net), lc.load(out)))
    (wanted,), (actual,) = float_outputs.values(), outputs.values()
    assert 0 < np.abs(wanted - actual).max() < 0.05 * np.abs(wanted).max()


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is not installed")
@pytest.mark.parametrize("scheme", ["int8", "int8{profile=tflite}", "int16x8", "dynamic", "w8", "w4{group=32}"])
def test_emitted_models_run_in_onnx_runtime(call, net, data, tmp_path, scheme):
    out = tmp_path / "q.onnx"
    done = call("leptonc", net, "--quantize", scheme, "--calibrate", data, "--emit", "onnx", "-o", out, "--verify", "--json")
    assert done.status == 0, done.err
    assert done.json["verify"]["ok"]
    kinds = {node.op.name for node in lc.import_model(out)}
    assert kinds & {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}


@pytest.mark.parametrize("scheme", ["w8", "w4{group=32}"])
def test_weights_stay_packed_in_the_artefact(net, data, scheme):
    plain, small = lc.compile(net), lc.compile(net, quantize=scheme)
    assert small.manifest["weights_bytes"] < (0.4 if scheme == "w8" else 0.35) * plain.manifest["weights_bytes"]
    assert small.manifest["arena_bytes"] <= plain.manifest["arena_bytes"]


def test_python_takes_iterables_and_functions(net):
    samples = [{"x": floats(1, 3, 6, 6)} for _ in range(3)]
    model = lc.compile(net, quantize="int8", calibration=samples, max_drop=0.5, metric=lambda run: 1.0)
    assert len(model.run(samples[0])) == 1


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--quantize", "int8"], 2, "--quantize int8 needs samples of the model's inputs"),
        (["--quantize", "int9"], 2, "no quantization scheme 'int9'"),
        (["--max-drop", "1%"], 2, "--max-drop says how to quantize, but not to what"),
        (["--report", "r.html"], 2, "--report shows what quantization did"),
        (["--quantize", "int8", "--calibrate", "nowhere"], 2, "no such calibration data: 'nowhere'"),
        (["--quantize", "w8", "--max-drop", "2"], 2, "'2' is no bound on the loss of accuracy"),
        (["--quantize", "w8", "--metric", "no_such_module:f", "--max-drop", "1%"], 2, "cannot load 'no_such_module:f'"),
    ],
)
def test_requests_that_make_no_sense(call, net, tmp_path, options, status, message):
    done = call("leptonc", net, "-o", tmp_path / "out", *options)
    assert (done.status, message in done.err) == (status, True), done.err
    assert not (tmp_path / "out").exists()


def test_models_that_are_quantized_already_are_refused(call, net, data, tmp_path):
    quantized = tmp_path / "q.onnx"
    assert call("leptonc", net, "--quantize", "int8", "--calibrate", data, "--emit", "onnx", "-o", quantized).status == 0
    done = call("leptonc", quantized, "--quantize", "int8", "--calibrate", data, "-o", tmp_path / "out")
    assert done.status == 1 and "the model is quantized already" in done.err and "without --quantize" in done.err


def test_wrong_samples_are_named(call, net, tmp_path):
    np.savez(tmp_path / "bad.npz", y=floats(1, 3, 6, 6))
    done = call("leptonc", net, "--quantize", "int8", "--calibrate", tmp_path / "bad.npz", "-o", tmp_path / "out")
    assert done.status == 2 and "no input 'y'; the model has x" in done.err and "input 'x' is missing" in done.err
