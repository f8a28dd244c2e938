"""Products and convolutions of 8-bit integers on tensor cores, run in the emulator: the evaluator's bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.text import parse_graph
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.conv import ConvInteger
from lepton_compiler.ops.matmul import MatMulInteger
from lepton_compiler.runtime.model import CompiledModel

RNG = np.random.default_rng(0)
NUMPY = {"uint8": np.uint8, "int8": np.int8}
SHORT = {"uint8": "u8", "int8": "s8"}
Zero = int | Sequence[int] | None


def codes(shape: Sequence[int], kind: str) -> np.ndarray:
    """All codes are as likely."""
    limits = np.iinfo(NUMPY[kind])
    return RNG.integers(limits.min, limits.max + 1, shape).astype(NUMPY[kind])


def graph_of(**inputs: str) -> Graph:
    formals = ", ".join(f"%{name}: {kind}" for name, kind in inputs.items())
    return parse_graph(f"graph @net({formals}) {{\n  return %{next(iter(inputs))}\n}}\n")


def typed(kind: str, shape: Sequence[int]) -> str:
    return f"{kind}[{','.join(map(str, shape))}]"


def matmul(x: tuple[str, Sequence[int]], w: tuple[str, Sequence[int]], x_zero: Zero = None, w_zero: Zero = None) -> Graph:
    """Data from outside, weights known."""
    graph = graph_of(x=typed(*x))
    b = Builder(graph)
    zeros = [None if z is None else b.constant(np.array(z, NUMPY[t[0]])) for z, t in ((x_zero, x), (w_zero, w))]
    graph.set_outputs([b(MatMulInteger(), graph.inputs[0], b.constant(codes(w[1], w[0])), *zeros)])
    return graph


def conv(
    x: tuple[str, Sequence[int]],
    w: tuple[str, Sequence[int]],
    x_zero: Zero = None,
    w_zero: Zero = None,
    *,
    open_zero: bool = False,
    **attributes: Any,
) -> Graph:
    """Data from outside, with its zero point or without, weights known."""
    graph = graph_of(x=typed(*x), **({"zero": typed(x[0], ())} if open_zero else {}))
    b, rank = Builder(graph), len(w[1]) - 2
    zeros = [None if z is None else b.constant(np.array(z, NUMPY[t[0]])) for z, t in ((x_zero, x), (w_zero, w))]
    if open_zero:
        zeros[0] = graph.inputs[1]
    op = ConvInteger(**{"strides": (1,) * rank, "pads": (0,) * 2 * rank, "dilations": (1,) * rank, "layout": "NHWC", **attributes})
    graph.set_outputs([b(op, graph.inputs[0], b.constant(codes(w[1], w[0])), *zeros)])
    return graph


def multiplied(model: CompiledModel) -> str:
    """The text of the model's own kernels, which multiply on tensor cores."""
    assert model.artifact is not None
    text = model.artifact.files["net.cu"].decode().rpartition("// namespace lepton")[2]
    assert "multiply_on_tensor_cores<lepton::Arithmetic::" in text
    return text


@pytest.mark.parametrize("x", NUMPY)
@pytest.mark.parametrize("w", NUMPY)
def test_codes_of_all_signs(agrees, x, w):
    text = multiplied(agrees(matmul((x, (37, 53)), (w, (53, 45)), 7, 3), tolerance=0))
    assert f"Arithmetic::{SHORT[x]}_{SHORT[w]}" in text


MATRICES: dict[str, Callable[[], Graph]] = {
    "no zero points": lambda: matmul(("int8", (2, 20, 64)), ("int8", (64, 32))),
    "zero points of columns": lambda: matmul(("uint8", (33, 40)), ("uint8", (40, 20)), 128, range(100, 120)),
    "few rows, a split sum": lambda: matmul(("uint8", (2, 1500)), ("int8", (1500, 40)), 200, -1),
    "few columns": lambda: matmul(("int8", (300, 48)), ("int8", (48, 3)), -128),
}


@pytest.mark.parametrize("case", MATRICES)
def test_matrices(agrees, case):
    multiplied(agrees(MATRICES[case](), tolerance=0))


def test_sums_wrap_around(agrees):
    graph, feeds = graph_of(x="uint8[5,33200]", y="uint8[33200,8]"), {"x": (5, 33200), "y": (33200, 8)}
    graph.set_outputs([Builder(graph)(MatMulInteger(), *graph.inputs)])
    multiplied(agrees(graph, {name: np.full(shape, 255, np.uint8) for name, shape in feeds.items()}, tolerance=0))


@pytest.mark.parametrize(("x", "y"), [("uint8", "int8"), ("int8", "uint8")])
def test_both_operands_are_data(agrees, x, y):
    graph = graph_of(x=f"{x}[2,37,52]", y=f"{y}[2,52,44]", p=f"{x}[]", q=f"{y}[44]")
    graph.set_outputs([Builder(graph)(MatMulInteger(), *graph.inputs)])
    assert "TurnedTile<" in multiplied(agrees(graph, tolerance=0))


def test_data_that_cannot_be_turned_in_words(agrees):
    graph = graph_of(x="uint8[21,30]", y="int8[30,27]", p="uint8[]")
    graph.set_outputs([Builder(graph)(MatMulInteger(), *graph.inputs)])
    assert "TurnedTile<" not in multiplied(agrees(graph, tolerance=0))


CONVOLUTIONS: dict[str, Callable[[], Graph]] = {
    "padded with the zero point": lambda: conv(("uint8", (2, 9, 7, 16)), ("int8", (24, 16, 3, 3)), 117, pads=(1, 1, 1, 1)),
    "both zero points": lambda: conv(("uint8", (2, 9, 7, 16)), ("uint8", (24, 16, 3, 3)), 117, 5, pads=(1, 0, 1, 2)),
    "three channels, strided": lambda: conv(("int8", (1, 19, 17, 3)), ("int8", (20, 3, 5, 5)), -7, pads=(2, 2, 1, 1), strides=(2, 2)),
    "zero point is data, dilated": lambda: conv(
        ("uint8", (1, 8, 8, 16)), ("int8", (20, 16, 3, 3)), open_zero=True, pads=(1, 1, 1, 1), dilations=(2, 1)
    ),
    "zero points of channels": lambda: conv(("int8", (1, 8, 8, 20)), ("int8", (12, 20, 3, 3)), 3, range(12), pads=(1, 1, 1, 1)),
    "groups": lambda: conv(("uint8", (2, 8, 8, 32)), ("int8", (32, 8, 3, 3)), 3, 2, pads=(1, 1, 1, 1), groups=4),
    "channels first": lambda: conv(("uint8", (2, 5, 6, 9)), ("int8", (20, 5, 3, 3)), 3, 2, pads=(1, 1, 1, 1), layout="NCHW"),
    "channels first, single pixels": lambda: conv(("uint8", (2, 24, 6, 6)), ("int8", (20, 24, 1, 1)), 3, 2, layout="NCHW"),
    "one axis": lambda: conv(("uint8", (2, 33, 12)), ("int8", (20, 12, 5)), 3, pads=(2, 2)),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions(agrees, case):
    multiplied(agrees(CONVOLUTIONS[case](), tolerance=0))


SMALL: dict[str, Callable[[], Graph]] = {
    "matrices": lambda: matmul(("uint8", (5, 7)), ("int8", (7, 6)), 9, range(6)),
    "images": lambda: conv(("uint8", (1, 5, 6, 4)), ("int8", (4, 4, 3, 3)), 9, range(4), pads=(1, 1, 0, 0)),
    "groups of few channels": lambda: conv(("int8", (1, 9, 9, 16)), ("uint8", (16, 2, 3, 3)), 9, 130, pads=(1, 1, 1, 1), groups=8),
}


@pytest.mark.parametrize("case", SMALL)
def test_small_products_stay_with_ordinary_cores(agrees, case):
    assert "tensor_cores" not in agrees(SMALL[case](), tolerance=0).artifact.files["net.cu"].decode()


def test_depthwise_convolutions_stay_with_ordinary_cores(agrees):
    graph = conv(("uint8", (1, 9, 9, 16)), ("int8", (16, 1, 3, 3)), 3, pads=(1, 1, 1, 1), groups=16)
    text = agrees(graph, tolerance=0).artifact.files["net.cu"].decode()
    assert "lepton::sliding::convolve<" in text and "multiply_on_tensor_cores<" not in text
