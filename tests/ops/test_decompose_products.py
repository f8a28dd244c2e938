"""Decompositions into products that are fast everywhere: transposed convolutions by phases, integer products in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.backends.tvm.split_transposed import splits_into_phases
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.types import FLOAT32, UINT8, TensorType
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.decompose import expand_where


def transposed(size: tuple[int, ...], maps: int, kernel: tuple[int, ...], bias: bool, **attributes: Any) -> Graph:
    """A transposed convolution of `[2, 3, *size]`."""
    rng = np.random.default_rng(0)
    graph = Graph("g")
    x = graph.add_input("x", TensorType(FLOAT32, (2, 3, *size)))
    w = rng.standard_normal((3, maps, *kernel)).astype(np.float32)
    extra = [rng.standard_normal(maps).astype(np.float32)] if bias else []
    graph.set_outputs([Builder(graph).ConvTranspose(x, w, *extra, dilations=(1,) * len(kernel), **attributes)])
    return graph


@pytest.mark.parametrize(
    ("size", "kernel", "attributes"),
    [
        ((4, 5), (2, 2), {"strides": (2, 2), "pads": (0, 0, 0, 0)}),
        ((4, 5), (4, 4), {"strides": (2, 2), "pads": (1, 1, 1, 1)}),
        ((4, 5), (3, 3), {"strides": (2, 2), "pads": (1, 1, 1, 1), "output_padding": (1, 1)}),
        ((4, 3), (5, 3), {"strides": (3, 2), "pads": (2, 0, 1, 1), "output_padding": (2, 0)}),
        ((4, 3), (3, 2), {"strides": (1, 1), "pads": (1, 0, 0, 1)}),
        ((1, 1), (4, 2), {"strides": (3, 2), "pads": (0, 0, 0, 0)}),
        ((6,), (4,), {"strides": (3,), "pads": (1, 2), "output_padding": (0,)}),
    ],
)
@pytest.mark.parametrize("bias", [False, True])
def test_transposed_convolutions_are_convolutions_of_their_phases(size, kernel, attributes, bias):
    graph = transposed(size, 4, kernel, bias, **{"output_padding": (0,) * len(kernel), **attributes})
    assert splits_into_phases(graph.nodes[-1])
    apart = lc.optimize(graph, passes="split-transposed")
    assert not [n for n in apart if n.op.name == "ConvTranspose"]
    feeds = {"x": np.random.default_rng(1).standard_normal((2, 3, *size)).astype(np.float32)}
    (wanted,) = lc.evaluate(graph, feeds).values()
    for found in (*lc.evaluate(apart, feeds).values(), *lc.compile(graph, level=3).run(feeds).values()):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_infinities_meet_no_tap_that_is_not_there():
    graph = transposed((4, 4), 2, (3, 3), False, strides=(2, 2), pads=(0, 0, 0, 0), output_padding=(0, 0))
    x = np.zeros((2, 3, 4, 4), np.float32)
    x[0, 0, 1, 1] = np.inf
    for found, wanted in zip(lc.compile(graph).run({"x": x}).values(), lc.evaluate(graph, {"x": x}).values(), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_more_padding_than_the_kernel_reaches_stays_a_transposed_convolution():
    graph = transposed((9, 9), 2, (2, 2), False, strides=(2, 2), pads=(4, 4, 4, 4), output_padding=(0, 0))
    assert not splits_into_phases(graph.nodes[-1])
    feeds = {"x": np.random.default_rng(1).standard_normal((2, 3, 9, 9)).astype(np.float32)}
    for found, wanted in zip(lc.compile(graph).run(feeds).values(), lc.evaluate(graph, feeds).values(), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("depth", [24, 4000])
def test_integer_products_are_exact_whether_float32_holds_them_or_not(depth):
    rng = np.random.default_rng(depth)
    graph = Graph("g")
    b = Builder(graph)
    x, zero = graph.add_input("x", TensorType(UINT8, (3, depth))), graph.add_input("z", TensorType(UINT8, ()))
    w = graph.constant(rng.integers(0, 256, (depth, 5)).astype(np.uint8), "w")
    graph.set_outputs([b.MatMulInteger(x, w, zero, graph.constant(np.array(3, np.uint8), "wz"))])
    feeds = {"x": rng.integers(0, 256, (3, depth)).astype(np.uint8), "z": np.array(7, np.uint8)}
    apart = graph.copy()
    expand_where(apart, lambda node: node.op.name == "MatMulInteger")
    (product,) = [n for n in apart if n.op.name == "MatMul"]
    assert (product.output.type.dtype == FLOAT32) == (depth == 24)
    (wanted,) = lc.evaluate(graph, feeds).values()
    for found in (*lc.evaluate(apart, feeds).values(), *lc.compile(graph, level=3).run(feeds).values()):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("groups", [1, 6])
def test_convolutions_of_width_one_run_along_the_column(groups):
    rng = np.random.default_rng(2)
    graph = Graph("g")
    b = Builder(graph)
    x = graph.add_input("x", TensorType(FLOAT32, (2, 6, 20, 1)))
    w = rng.standard_normal((12 if groups == 1 else 6, 6 // groups, 5, 1)).astype(np.float32)
    y = b.Conv(x, w, strides=(2, 1), pads=(1, 0, 2, 0), dilations=(2, 1), groups=groups)
    graph.set_outputs([b.Relu(y)])
    feeds = {"x": rng.standard_normal((2, 6, 20, 1)).astype(np.float32)}
    for found, wanted in zip(lc.compile(graph, level=3).run(feeds).values(), lc.evaluate(graph, feeds).values(), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)
