"""Fourier transforms as ONNX: products where they are short, in float64 where ONNX Runtime's own has to do it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from lepton_compiler.backends.onnx import emit_onnx
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.op import Op
from lepton_compiler.ir.types import tensor_type
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.evaluator import evaluate
from lepton_compiler.ops.signal import DFT, STFT

RNG = np.random.default_rng(3)


def emitted(op: Op, spec: str, path: Path) -> tuple[onnx.ModelProto, Graph]:
    graph = Graph("signal")
    x = graph.add_input("x", tensor_type(spec))
    graph.set_outputs([Builder(graph)(op, x)])
    return emit_onnx(graph, path, opset=20), graph


@pytest.mark.parametrize("op", [DFT(axis=1), DFT(axis=1, inverse=True), DFT(axis=1, length=1000), STFT(frame_step=30, frame_length=100)])
def test_transforms_are_precise_in_onnxruntime(op: Op, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model, graph = emitted(op, "float32[2,300,1]", tmp_path / "m.onnx")
    assert [n.op_type for n in model.graph.node] == ["Cast", op.name, "Cast"]
    x = RNG.standard_normal((2, 300, 1)).astype(np.float32)
    (got,) = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"]).run(None, {"x": x})
    (want,) = evaluate(graph, {"x": x}).values()
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6 * np.abs(want).max())


def test_short_transforms_are_products(tmp_path: Path) -> None:
    model, _ = emitted(DFT(axis=1), "float32[2,12,1]", tmp_path / "m.onnx")
    assert "DFT" not in {n.op_type for n in model.graph.node} and "MatMul" in {n.op_type for n in model.graph.node}
    model, _ = emitted(STFT(frame_step=4, frame_length=8), "float32[2,40,1]", tmp_path / "m.onnx")
    assert "Conv" in {n.op_type for n in model.graph.node}


def test_float64_stays_as_it_is(tmp_path: Path) -> None:
    model, _ = emitted(DFT(axis=1), "float64[2,100,1]", tmp_path / "m.onnx")
    assert [n.op_type for n in model.graph.node] == ["DFT"]
