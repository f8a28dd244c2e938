"""Weights of 8 and 4 bits, which products convert as they read them, run in the emulator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.feeds import random_feeds
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.text import parse_graph
from lepton_compiler.ops.builder import Builder

RNG = np.random.default_rng(0)


def graph_of(shape: str) -> tuple[Graph, Builder]:
    graph = parse_graph(f"graph @net(%x: {shape}) {{\n  return %x\n}}\n")
    return graph, Builder(graph)


def normal(*shape: int) -> np.ndarray:
    numbers: np.ndarray = RNG.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    return numbers.astype(np.float32)


def images() -> Graph:
    graph, b = graph_of("float32[1,3,20,20]")
    y = graph.inputs[0]
    for channels, out, edge, stride, groups in ((3, 16, 3, 2, 1), (16, 32, 3, 1, 4), (32, 32, 1, 1, 1)):
        w, bias = b.constant(normal(out, channels // groups, edge, edge)), b.constant(normal(out))
        y = b.Relu(b.Conv(y, w, bias, strides=(stride,) * 2, pads=(edge // 2,) * 4, dilations=(1, 1), groups=groups))
    graph.set_outputs([y])
    return graph


def rows(count: int) -> Graph:
    graph, b = graph_of(f"float32[{count},64]")
    y = graph.inputs[0]
    for columns in (96, 136, 256):
        y = b.Relu(b.MatMul(y, b.constant(normal(y.type.static_shape[-1], columns))))
    graph.set_outputs([b.Gemm(y, b.constant(normal(70, 256)), alpha=1.0, beta=1.0, trans_a=False, trans_b=True)])
    return graph


NETS: dict[str, tuple[Callable[[], Graph], int]] = {"images": (images, 3), "rows": (lambda: rows(40), 4), "one row": (lambda: rows(1), 2)}
"""And how many products are not too small."""


PRECISIONS = {"fp32": ("", 1e-6), "fp16": (",lower-precision{to=float16}", 1e-3), "bf16": (",lower-precision{to=bfloat16}", 8e-3)}
"""Passes, and the largest difference as a part of the range: a rounding of the result."""


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(
    ("net", "precision"),
    [("images", "fp32"), ("rows", "fp32"), ("one row", "fp32"), ("rows", "fp16"), ("one row", "fp16"), ("rows", "bf16")],
)
def test_weights_are_converted_as_they_are_read(make, gpu, net, bits, precision):
    make_net, products = NETS[net]
    (passes, tolerance), graph = PRECISIONS[precision], make_net()
    model, feeds = make(graph, level=3, quantize=f"w{bits}", precision=precision), random_feeds(graph.inputs)
    quantized = lc.optimize(graph, level=2, target="cuda", passes=f"quantize{{scheme=w{bits}}}{passes}")
    (found,), (wanted,) = model.run(feeds).values(), lc.evaluate(quantized, feeds).values()
    assert not gpu.faults
    assert np.abs(found - wanted).max() <= tolerance * np.ptp(wanted)
    number = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}[precision]
    assert model.artifact.files["net.cu"].decode().count(f"ConvertedTile<lepton::Codes<lepton::Number::{number}, {bits}") == products
