"""Products that decode their weights as they read them, against the evaluator."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.backends.tvm.packing import nibbles
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.types import tensor_type
from lepton_compiler.ops.builder import Builder

RNG = np.random.default_rng(0)


def floats(*shape):
    return (RNG.normal(size=shape) / 4).astype(np.float32)


def products():
    """Sizes that are no multiples of groups, pairs or vectors."""
    graph = Graph("products")
    x = graph.add_input("x", tensor_type("float32[5,149]"))
    b = Builder(graph)
    y = b.Relu(b.MatMul(x, b.constant(floats(149, 70))))
    graph.set_outputs([b.Gemm(y, b.constant(floats(33, 70)), b.constant(floats(33)), trans_b=True)])
    return graph


def convolutions():
    graph = Graph("convolutions")
    x = graph.add_input("x", tensor_type("float32[1,12,7,9]"))
    b = Builder(graph)
    y = b.Relu(b.Conv(x, b.constant(floats(21, 12, 3, 3)), b.constant(floats(21)), pads=(1, 1, 1, 1)))
    y = b.Conv(y, b.constant(floats(21, 1, 5, 5)), groups=21)
    graph.set_outputs([b.Conv(y, b.constant(floats(17, 21, 1, 1)), b.constant(floats(17)))])
    return graph


@pytest.mark.parametrize("make", [products, convolutions])
@pytest.mark.parametrize("scheme", ["w8", "w4{group=64}", "w4{group=16}"])
def test_decoded_products_equal_the_evaluator(make, scheme):
    graph = make()
    feeds = {"x": floats(*graph.inputs[0].type.static_shape)}
    name, _, options = scheme.partition("{")
    quantized = lc.optimize(graph, passes=f"quantize{{scheme={name},{options.rstrip('}')}}}" if options else f"quantize{{scheme={name}}}")
    (wanted,), model = lc.evaluate(quantized, feeds).values(), lc.compile(graph, quantize=scheme)
    (actual,) = model.run(feeds).values()
    assert np.abs(actual - wanted).max() < 2e-5 * np.abs(wanted).max()
    assert model.manifest["weights_bytes"] < 0.45 * lc.compile(graph).manifest["weights_bytes"]


def test_two_codes_to_a_byte():
    codes = np.arange(-7, 8).astype(ml_dtypes.int4).reshape(5, 3)
    packed = nibbles(codes)
    assert packed.shape == (3, 3) and packed.dtype == np.uint8
    signed = np.stack([packed << 4, packed], 1).reshape(6, 3).view(np.int8) >> 4
    assert np.array_equal(signed[:5], codes.astype(np.int8)) and not signed[5].any()
