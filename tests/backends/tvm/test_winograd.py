"""Winograd convolutions: every tile size, ragged sizes, paddings and epilogues against the evaluator, and their error bound."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.backends.tvm.compute import winograd
from lepton_compiler.backends.tvm.packing import WINOGRAD_FILTER
from lepton_compiler.ir.graph import Graph, Value
from lepton_compiler.ir.types import FLOAT32, TensorType
from lepton_compiler.ops.builder import Builder
from lepton_compiler.target import parse_target

Epilogue = Callable[[Builder, Value, Value], Value]
EPILOGUES: dict[str, Epilogue] = {
    "none": lambda b, y, r: y,
    "relu": lambda b, y, r: b.Relu(y),
    "residual": lambda b, y, r: b.Relu(b.Add(y, r)),
    "swish": lambda b, y, r: b.Mul(y, b.Sigmoid(y)),
    "scaled": lambda b, y, r: b.Sub(b.Mul(r, y), b.Clip(y, 0.0, 6.0)),
}
BOUND = 2e-5
"""Largest error relative to the largest result: F(4, 3) loses about four bits."""


def conv(shape: tuple[int, int, int, int], out: int, pads: tuple[int, int, int, int], epilogue: str, bias: bool) -> Graph:
    """A convolution `[N, H, W, C]` to `out` channels, with one other operand of the result's shape."""
    rng = np.random.default_rng(5)
    graph = Graph("g")
    x = graph.add_input("x", TensorType(FLOAT32, shape))
    b = Builder(graph)
    w = graph.constant((rng.standard_normal((out, shape[3], 3, 3)) / np.sqrt(9 * shape[3])).astype(np.float32), "w")
    extra = [graph.constant(rng.standard_normal(out).astype(np.float32), "b")] if bias else []
    y = b.Conv(x, w, *extra, strides=(1, 1), pads=pads, dilations=(1, 1), layout="NHWC")
    r = graph.add_input("r", y.type)
    graph.set_outputs([b.Add(EPILOGUES[epilogue](b, y, r), r) if epilogue == "none" else EPILOGUES[epilogue](b, y, r)])
    return graph


@pytest.mark.parametrize(
    ("shape", "out", "pads", "epilogue", "bias"),
    [
        ((1, 56, 56, 64), 64, (1, 1, 1, 1), "residual", True),
        ((1, 28, 30, 48), 96, (1, 1, 1, 1), "relu", True),
        ((2, 29, 31, 32), 64, (1, 1, 1, 1), "swish", True),
        ((1, 40, 37, 32), 32, (0, 0, 0, 0), "scaled", False),
        ((1, 33, 34, 64), 48, (2, 0, 1, 2), "none", True),
        ((1, 30, 30, 37), 43, (1, 1, 1, 1), "residual", True),
    ],
)
def test_equals_the_evaluator(shape, out, pads, epilogue, bias):
    graph = conv(shape, out, pads, epilogue, bias)
    n, oh, ow, _ = graph.outputs[0].type.static_shape
    assert winograd.plan(n, (oh, ow), shape[3], out, parse_target("native")) is not None
    rng = np.random.default_rng(6)
    feeds = {v.name: rng.standard_normal(v.type.static_shape).astype(np.float32) for v in graph.inputs}
    (wanted,) = lc.evaluate(graph, feeds).values()
    one, two = lc.compile(graph, level=3), lc.compile(graph, level=3, threads=2)
    (found,), (shared,) = one.run(feeds).values(), two.run(feeds).values()
    assert np.abs(found - wanted).max() <= BOUND * np.abs(wanted).max()
    np.testing.assert_array_equal(found, shared)


def test_outside_of_the_image_is_zero_even_beside_infinities():
    graph = conv((1, 32, 32, 32), 32, (1, 1, 1, 1), "relu", True)
    feeds = {v.name: np.ones(v.type.static_shape, np.float32) for v in graph.inputs}
    (wanted,), (found,) = lc.evaluate(graph, feeds).values(), lc.compile(graph, level=3).run(feeds).values()
    np.testing.assert_allclose(found, wanted, atol=BOUND * np.abs(wanted).max())


@pytest.mark.parametrize("m", [2, 4])
def test_the_transforms_are_the_filter(m):
    rng = np.random.default_rng(0)
    d, g = rng.standard_normal((m + 2, m + 2)), rng.standard_normal((3, 3))
    a, b, f = (np.array(table[m], float) for table in (winograd.OUTPUT, winograd.INPUT, WINOGRAD_FILTER))
    found = a @ ((f @ g @ f.T) * (b @ d @ b.T)) @ a.T
    wanted = [[(d[i : i + 3, j : j + 3] * g).sum() for j in range(m)] for i in range(m)]
    np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_it_is_taken_where_it_pays_only():
    target = parse_target("native", "x86-64-v3")
    assert winograd.plan(1, (56, 56), 64, 64, target) is not None
    assert winograd.plan(1, (56, 56), 8, 64, target) is None  # the transforms cost more than the products
    assert winograd.plan(1, (1, 1), 512, 512, target) is None  # one tile: reading the weights is all there is
