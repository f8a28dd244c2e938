"""Reductions across rows: threads, and blocks, that share results; run in the emulator, which also looks for races."""

from __future__ import annotations

import re

import pytest

from lepton_compiler.ir.text import parse_graph
from lepton_compiler.runtime.model import CompiledModel


def launches(model: CompiledModel) -> list[str]:
    """The kernels of a model."""
    assert model.artifact is not None
    found = re.findall(r"__global__.*?\n}\n", model.artifact.files["net.cu"].decode(), re.S)
    assert len(found) == model.manifest["launches"]
    return found


CASES = {
    "pixels": ("float32[2,7,7,40]", "%y = ReduceMean(axes=(1,2),keepdims=True)(%x) : float32[2,1,1,40]", 1),
    "pixels of half precision, odd channels": ("float16[3,5,6,37]", "%y = ReduceMean(axes=(1,2),keepdims=False)(%x) : float16[3,37]", 1),
    "tokens": ("float32[2,50,24]", "%y = ReduceMax(axes=(1,),keepdims=False)(%x) : float32[2,24]", 1),
    "the first axis": ("int32[100,20]", "%y = ReduceSum(axes=(0,),keepdims=False)(%x) : int32[20]", 1),
    "large images": ("float32[1,40,50,20]", "%y = ReduceSum(axes=(1,2),keepdims=False)(%x) : float32[1,20]", 2),
    "the root of a mean of squares": ("float32[1,30,30,8]", "%y = ReduceL2(axes=(1,2),keepdims=False)(%x) : float32[1,8]", 2),
}


@pytest.mark.parametrize("case", CASES)
def test_reductions(agrees, case):
    kind, line, count = CASES[case]
    kernels = launches(agrees(parse_graph(f"graph @net(%x: {kind}) {{\n  {line}\n  return %y\n}}\n")))
    assert len(kernels) == count and "[share][threadIdx.x]" in kernels[0]


@pytest.mark.parametrize("op", ["AveragePool", "MaxPool"])
def test_windows_over_a_whole_image(agrees, op):
    line = f'%y = {op}(kernel_shape=(5,6),strides=(1,1),pads=(0,0,0,0),dilations=(1,1),layout="NHWC")(%x) : float16[2,1,1,40]'
    kernels = launches(agrees(parse_graph(f"graph @net(%x: float16[2,5,6,40]) {{\n  {line}\n  return %y\n}}\n"), tolerance=1e-3))
    assert len(kernels) == 1 and "[share][threadIdx.x]" in kernels[0]


def test_what_is_around_a_reduction_is_part_of_its_kernel(agrees):
    lines = [
        "%r = Relu()(%x) : float32[2,6,6,40]",
        "%m = ReduceMean(axes=(1,2),keepdims=True)(%r) : float32[2,1,1,40]",
        "%y = Sigmoid()(%m) : float32[2,1,1,40]",
    ]
    text = "\n  ".join(lines)
    kernels = launches(agrees(parse_graph(f"graph @net(%x: float32[2,6,6,40]) {{\n  {text}\n  return %y\n}}\n")))
    assert len(kernels) == 1 and "[share][threadIdx.x]" in kernels[0]


def test_codes_are_averaged_exactly(agrees):
    lines = [
        "%s = const float32[] (0.1)", "%z = const uint8[] (7)", "%x = DequantizeLinear()(%q, %s, %z) : float32[1,8,8,33]",
        "%m = ReduceMean(axes=(1,2),keepdims=False)(%x) : float32[1,33]", "%t = const float32[] (0.05)",
        "%y = QuantizeLinear(dtype=uint8)(%m, %t, %z) : uint8[1,33]",
    ]  # fmt: skip
    text = "\n  ".join(lines)
    kernels = launches(agrees(parse_graph(f"graph @net(%q: uint8[1,8,8,33]) {{\n  {text}\n  return %y\n}}\n"), tolerance=0))
    assert len(kernels) == 1 and "[share][threadIdx.x]" in kernels[0]


def test_many_results_have_a_thread_each(agrees):
    graph = parse_graph(
        "graph @net(%x: float32[9,300,1000]) {\n  %y = ReduceSum(axes=(0,),keepdims=False)(%x) : float32[300,1000]\n  return %y\n}\n"
    )
    assert "share" not in launches(agrees(graph))[0]
