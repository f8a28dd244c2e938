"""Convolutions to few channels, whose vectors run along the row: strides, dilations, paddings, ragged rows, layouts, against the evaluator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lepton_compiler.backends.tvm.compute.narrow import pays
from lepton_compiler.backends.tvm.compute.window import Window
from lepton_compiler.ir.graph import Value
from lepton_compiler.ops.builder import Builder
from lepton_compiler.target import parse_target

CASES: dict[str, tuple[tuple[int, ...], int, tuple[int, ...], dict[str, Any]]] = {
    "one channel": ((1, 17, 40, 6), 1, (5, 5), {"pads": (2, 2, 2, 2)}),
    "eight channels, wide filter": ((1, 9, 83, 3), 8, (3, 19), {"pads": (1, 9, 1, 9)}),
    "stride and dilation": ((2, 20, 77, 5), 3, (3, 3), {"strides": (2, 3), "dilations": (2, 2), "pads": (1, 2, 0, 1)}),
    "stride beyond the filter": ((1, 12, 95, 4), 4, (4, 2), {"strides": (1, 3)}),
    "a row of samples": ((1, 1, 700), 1, (64,), {"strides": (2,), "pads": (3, 0), "layout": "NCHW"}),
    "a column": ((1, 150, 1, 3), 2, (9, 1), {"pads": (4, 0, 4, 0)}),
    "channels first": ((1, 4, 11, 50), 2, (3, 3), {"pads": (0, 1, 1, 0), "layout": "NCHW"}),
}


def build(case: str) -> tuple[Callable[..., list[Value]], np.ndarray]:
    """The convolution of a case with a bias and an epilogue, and an input for it."""
    shape, out, kernel, given = CASES[case]
    rng = np.random.default_rng(3)
    layout = given.get("layout", "NHWC")
    channels = shape[-1] if layout == "NHWC" else shape[1]
    ones, none = (1,) * len(kernel), (0,) * (2 * len(kernel))
    fields = {"strides": ones, "dilations": ones, "pads": none, "layout": layout, **given}
    w = (rng.standard_normal((out, channels, *kernel)) / np.sqrt(channels * np.prod(kernel))).astype(np.float32)

    def make(b: Builder, x: Value) -> list[Value]:
        y = b.Conv(x, b.constant(w), b.constant(np.linspace(-1, 1, out, dtype=np.float32)), **fields)
        return [b.Sigmoid(y), b.Relu(y)]

    return make, rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("case", CASES)
def test_equals_the_evaluator(case: str, compile_and_compare: Callable[..., None]) -> None:
    make, x = build(case)
    compile_and_compare(make, x)


@pytest.mark.parametrize(
    ("size", "kernel", "out", "cpu", "expected"),
    [
        ((32, 32), (3, 3), 1, "x86-64-v4", True),
        ((32, 32), (3, 3), 8, "x86-64-v4", True),
        ((32, 32), (3, 3), 8, "x86-64-v3", False),  # the channels fill a vector
        ((32, 32), (1, 1), 4, "x86-64-v4", False),  # hardly anything to do with an element: copying it costs as much
        ((32, 8), (3, 3), 1, "x86-64-v4", False),  # a row does not fill a vector
    ],
)
def test_it_is_taken_where_it_pays_only(size, kernel, out, cpu, expected):
    window = Window(size, kernel, (1, 1), (1, 1, 1, 1) if kernel == (3, 3) else (0, 0, 0, 0), (1, 1))
    assert pays(window, out, parse_target("x86_64", cpu)) == expected
