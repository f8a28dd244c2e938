"""Kernels for GPUs, run in the emulator and compared with the evaluator; it also looks for races and accesses out of bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.text import parse_graph
from lepton_compiler.ops.builder import Builder

RNG = np.random.default_rng(0)


def graph_of(signature: str, *lines: str, results: str) -> Graph:
    return parse_graph("\n".join([f"graph @net({signature}) {{", *(f"  {line}" for line in lines), f"  return {results}", "}", ""]))


def convolution(shape, weight, **attributes):
    text = f"graph @net(%x: float32[{','.join(map(str, shape))}]) {{\n  return %x\n}}\n"
    graph = parse_graph(text)
    b = Builder(graph)
    w = b.constant((RNG.standard_normal(weight) / np.sqrt(np.prod(weight[1:]))).astype(np.float32), name="w")
    bias = b.constant(RNG.standard_normal(weight[0]).astype(np.float32), name="b")
    rank = len(shape) - 2
    given = {"strides": (1,) * rank, "pads": (0,) * 2 * rank, "dilations": (1,) * rank, "groups": 1, **attributes}
    y = b.Conv(graph.inputs[0], w, bias, **given)
    graph.set_outputs([b.Relu(y)])
    return graph


ROWS = {
    "softmax of short rows": ("%x: float32[70,50]", "%y = Softmax(axis=1)(%x) : float32[70,50]"),
    "softmax of long rows": ("%x: float32[2,5000]", "%y = Softmax(axis=1)(%x) : float32[2,5000]"),
    "softmax across": ("%x: float32[2,6,5]", "%y = Softmax(axis=1)(%x) : float32[2,6,5]"),
    "sum of one long row": ("%x: float32[1,20000]", "%y = ReduceSum(axes=(1,),keepdims=False)(%x) : float32[1]"),
    "mean over pixels": ("%x: float32[2,16,7,7]", "%y = ReduceMean(axes=(2,3),keepdims=True)(%x) : float32[2,16,1,1]"),
    "first of the largest": ("%x: float32[3,100]", "%y = ArgMax(axis=1,keepdims=False,select_last_index=False)(%x) : int64[3]"),
}


@pytest.mark.parametrize("case", ROWS)
def test_rows(agrees, case):
    signature, line = ROWS[case]
    agrees(graph_of(signature, line, results="%y"))


def test_layer_normalisation_is_one_launch(agrees):
    line = "%y = LayerNormalization(axis=-1,epsilon=1e-05)(%x,%s,%b) : float32[65,130]"
    model = agrees(graph_of("%x: float32[65,130], %s: float32[130], %b: float32[130]", line, results="%y"))
    assert model.manifest["launches"] == 1


def test_rows_are_read_and_written_in_vectors(agrees):
    line = "%y = LayerNormalization(axis=-1,epsilon=1e-05)(%x,%s,%b) : float32[65,144]"
    model = agrees(graph_of("%x: float32[65,144], %s: float32[144], %b: float32[144]", line, results="%y"))
    kernel = model.artifact.files["net.cu"].decode().split("__global__")[1]
    assert kernel.count("= *(const lepton_16bytes *)(p") == 5  # twice for the sums, and for the result x, scale and bias
    assert kernel.count("*(lepton_16bytes *)(p") == 1


def test_parts_of_vectors_are_what_was_loaded(agrees, gpu, monkeypatch):
    monkeypatch.setattr(
        gpu, "checks", False
    )  # compiled with more optimisation, which must not take a vector and its elements for different memory
    line = "%y = LayerNormalization(axis=-1,epsilon=1e-05)(%x,%s,%b) : float16[65,256]"
    agrees(graph_of("%x: float16[65,256], %s: float16[256], %b: float16[256]", line, results="%y"), tolerance=2e-3)


def test_a_row_times_a_matrix_is_read_in_vectors(agrees):
    graph = graph_of("%x: float16[1,1024]", results="%x")
    b = Builder(graph)
    weights = b.constant((RNG.standard_normal((1024, 96)) / 32).astype(np.float16), name="w")
    graph.set_outputs([b.MatMul(graph.inputs[0], weights)])
    model = agrees(graph, tolerance=2e-3)
    kernel = model.artifact.files["net.cu"].decode().split("__global__")[1]
    assert kernel.count("= *(const lepton_16bytes *)(p") == 2


def test_neighbours_are_read_and_written_at_once(agrees):
    model = agrees(graph_of("%x: float32[300,256], %z: float32[300,256]", "%y = Add()(%x,%z) : float32[300,256]", results="%y"))
    assert "lepton_16bytes" in model.artifact.files["net.cu"].decode().split("__global__")[1]


MOVES = {
    "two axes": ("%x: float32[70,45]", "%y = Transpose(perm=(1,0))(%x) : float32[45,70]"),
    "channels last": ("%x: float32[2,40,5,7]", "%y = Transpose(perm=(0,2,3,1))(%x) : float32[2,5,7,40]"),
    "an axis between": ("%x: int8[20,3,33]", "%y = Transpose(perm=(2,1,0))(%x) : int8[33,3,20]"),
}


@pytest.mark.parametrize("case", MOVES)
def test_transpositions_go_through_shared_memory(agrees, case):
    signature, line = MOVES[case]
    model = agrees(graph_of(signature, line, results="%y"), tolerance=0)
    assert "square" in model.artifact.files["net.cu"].decode()


PRODUCTS = {
    "rows and columns of all sizes": ("%x: float32[70,50], %w: float32[50,36]", "%y = MatMul()(%x,%w) : float32[70,36]"),
    "broadcast batch": ("%x: float32[3,1,20,40], %w: float32[2,40,24]", "%y = MatMul()(%x,%w) : float32[3,2,20,24]"),
    "transposed": (
        "%x: float32[48,70], %w: float32[36,48], %b: float32[36]",
        "%y = Gemm(alpha=0.5,beta=2.0,trans_a=True,trans_b=True)(%x,%w,%b) : float32[70,36]",
    ),
    "a split sum": ("%x: float32[20,1024], %w: float32[1024,24]", "%y = MatMul()(%x,%w) : float32[20,24]"),
    "two rows": ("%x: float32[2,300], %w: float32[300,100]", "%y = MatMul()(%x,%w) : float32[2,100]"),
}


@pytest.mark.parametrize("case", PRODUCTS)
def test_products(agrees, case):
    signature, line = PRODUCTS[case]
    agrees(graph_of(signature, line, results="%y"))


CONVOLUTIONS: dict[str, tuple[Any, dict[str, Any]]] = {
    "padded, strided": (((2, 8, 13, 11), (12, 8, 3, 3)), {"strides": (2, 2), "pads": (1, 1, 1, 1)}),
    "groups": (((1, 32, 8, 8), (32, 8, 3, 3)), {"groups": 4, "pads": (1, 0, 1, 0)}),
    "depthwise": (((1, 16, 9, 9), (16, 1, 3, 3)), {"groups": 16, "pads": (1, 1, 1, 1)}),
    "one axis": (((2, 12, 33), (20, 12, 5)), {"pads": (2, 2)}),
    "three axes": (((1, 4, 5, 6, 7), (8, 4, 3, 3, 3)), {"pads": (1,) * 6}),
    "dilated": (((1, 8, 12, 12), (8, 8, 3, 3)), {"dilations": (2, 2)}),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions(agrees, case):
    (shape, weight), attributes = CONVOLUTIONS[case]
    agrees(convolution(shape, weight, **attributes))


def test_what_follows_a_convolution_is_part_of_it(agrees):
    graph = convolution((1, 16, 8, 8), (16, 16, 1, 1))
    b = Builder(graph)
    w = b.constant(RNG.standard_normal((16, 16, 1, 1)).astype(np.float32) / 4, name="w2")
    graph.set_outputs([b.Conv(graph.outputs[0], w, None, strides=(1, 1), pads=(0,) * 4, dilations=(1, 1), groups=1)])
    model = agrees(graph)
    assert any(row["symbol"].startswith("lepton_conv_relu_") for row in model.manifest["calls"])


def test_serial_kernels_are_told_of(agrees):
    line = "%y = CumSum(axis=0,exclusive=False,reverse=False)(%x) : float32[50]"
    model = agrees(graph_of("%x: float32[50]", line, results="%y"))
    assert len(model.manifest["serial"]) == 1 and "cumsum" in model.manifest["serial"][0]


@pytest.mark.parametrize(("precision", "function"), [("tf32", "tf32"), ("fp16", "f16"), ("bf16", "bf16")])
def test_lower_precision_is_for_products(agrees, precision, function):
    graph = convolution((1, 16, 8, 8), (16, 16, 3, 3), pads=(1, 1, 1, 1))
    model = agrees(graph, tolerance=5e-2 if precision == "bf16" else 1e-2, precision=precision)
    assert f"Arithmetic::{function}" in model.artifact.files["net.cu"].decode()
    assert model.manifest["inputs"][0]["dtype"] == model.manifest["outputs"][0]["dtype"] == "float32"


def test_numbers_of_16_bits_are_compared(agrees):
    lines = "%low = const float16[] (-0.5)", "%high = const float16[] (0.25)", "%y = Clip()(%x, %low, %high) : float16[40]"
    agrees(graph_of("%x: float16[40]", *lines, results="%y"), tolerance=0)
