"""Decompositions of window, rearranging, indexing and resizing operators compute what the operators do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lepton_compiler.errors import UnsupportedError
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.op import Op
from lepton_compiler.ir.tensor import Tensor
from lepton_compiler.ir.types import BOOL, FLOAT32, tensor_type
from lepton_compiler.ops import indexing as o
from lepton_compiler.ops.conv import Col2Im, ConvInteger, DeformConv, DeformPatches
from lepton_compiler.ops.decompose import expand
from lepton_compiler.ops.evaluator import evaluate
from lepton_compiler.ops.pool import LpPool, MaxPool, MaxUnpool
from lepton_compiler.ops.resize import AffineGrid, Resize
from lepton_compiler.ops.shape import EyeLike

RNG = np.random.default_rng(4)
POOLED = MaxPool((2, 2), (2, 2), (0, 0, 0, 0), (1, 1), indices=True).evaluate(RNG.standard_normal((1, 2, 4, 6)).astype(np.float32))


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def bytes_(*shape: int) -> np.ndarray:
    return RNG.integers(0, 255, shape).astype(np.uint8)


CASES: list[tuple[Op, list[np.ndarray]]] = [
    (o.DepthToSpace(2), [floats(1, 8, 2, 3)]),
    (o.DepthToSpace(2, "CRD"), [floats(1, 8, 2, 3)]),
    (o.SpaceToDepth(2), [floats(1, 3, 4, 6)]),
    (o.Tile((1, 2, 3)), [floats(2, 3, 4)]),
    (o.Tile(()), [floats()]),
    (o.Trilu(1), [floats(2, 4, 5)]),
    (o.Trilu(-1, False), [floats(4, 5)]),
    (EyeLike(1, FLOAT32), [floats(4, 5)]),
    (EyeLike(0, BOOL), [floats(4, 5)]),
    (o.OneHot(5), [np.array([[1, -1], [7, 2]]), np.array([0.5, 2.0])]),
    (o.OneHot(5, 0), [np.array([1, -1], np.int32), np.array([0, 3], np.int8)]),
    (o.ReverseSequence(1, 0), [floats(4, 3, 2), np.array([4, 2, 1])]),
    (o.ReverseSequence(0, 1), [floats(3, 4, 2), np.array([4, 2, 1])]),
    (ConvInteger(groups=2, pads=(1, 1, 1, 1)), [bytes_(1, 4, 5, 5), bytes_(6, 2, 3, 3), bytes_(), bytes_(6)]),
    (ConvInteger(), [bytes_(1, 4, 5, 5), bytes_(6, 4, 3, 3)]),
    (ConvInteger(pads=(1, 0, 1, 0), layout="NHWC"), [bytes_(1, 5, 6, 4), bytes_(6, 4, 3, 3), bytes_(), bytes_(6)]),
    (DeformConv(pads=(1, 0, 1, 1)), [floats(2, 4, 5, 6), floats(3, 4, 3, 2), floats(2, 12, 5, 6)]),
    (DeformConv(groups=2, offset_groups=4), [floats(1, 4, 5, 6), floats(6, 2, 2, 2), floats(1, 32, 4, 5), floats(6), floats(1, 16, 4, 5)]),
    (DeformPatches((2, 3), (2, 1), (1, 0, 0, 1), (1, 2), 2, 4), [floats(2, 5, 6, 8), 2 * floats(2, 24, 3, 3), floats(2, 12, 3, 3)]),
    (DeformPatches((1, 1)), [floats(1, 5, 6, 2), 9 * floats(1, 2, 5, 6)]),
    (LpPool((3, 2), (2, 1), (1, 0, 1, 1), (1, 1), True, 1), [floats(1, 3, 6, 7)]),
    (LpPool((3, 2), (2, 1), (1, 0, 1, 1), (1, 1), False, 2), [floats(1, 3, 6, 7)]),
    (LpPool((3, 2), (2, 1), (1, 0, 1, 1), (1, 2), True, 3), [floats(1, 3, 6, 7)]),
    (MaxUnpool((2, 2), (2, 2), (0, 0, 0, 0)), list(POOLED)),
    (MaxUnpool((2, 2), (2, 2), (0, 0, 0, 0), (1, 2, 5, 7)), list(POOLED)),
    (Col2Im((5, 6), (2, 3), (1, 1), (0, 0, 0, 0), (2, 2)), [floats(2, 18, 4)]),
    (Col2Im((5, 6), (2, 3), (2, 1), (1, 0, 0, 1), (1, 2)), [floats(2, 18, 12)]),
    (AffineGrid((2, 3, 4, 5), True), [floats(2, 2, 3)]),
    (AffineGrid((2, 3, 4, 5, 3)), [floats(2, 3, 4)]),
    (Resize((1, 2, 14, 9)), [floats(1, 2, 7, 10)]),
    (Resize((1, 2, 14, 9), mode="linear"), [bytes_(1, 2, 7, 10)]),
    (Resize((1, 2, 3, 20), mode="cubic", exclude_outside=True), [floats(1, 2, 7, 10)]),
    (Resize((1, 2, 3, 5), mode="linear", antialias=True), [floats(1, 2, 7, 10)]),
    (
        Resize(
            (1, 2, 5, 5),
            mode="linear",
            coordinate_transformation_mode="tf_crop_and_resize",
            extrapolation_value=7.0,
            roi=(0, 0, -0.2, 0.1, 1, 1, 0.8, 1.3),
        ),
        [floats(1, 2, 7, 10)],
    ),
]


@pytest.mark.parametrize(("op", "operands"), CASES, ids=[f"{op.name}-{i}" for i, (op, _) in enumerate(CASES)])
def test_decomposition(op: Op, operands: list[np.ndarray]) -> None:
    graph = Graph()
    node = graph.add(op, [graph.add_input(f"x{i}", Tensor(a).type) for i, a in enumerate(operands)])
    graph.set_outputs(node.outputs)
    created = expand(node)
    assert created is not None
    assert all(type(n.op) is not type(op) for n in graph)
    found = evaluate(graph, {f"x{i}": a for i, a in enumerate(operands)}).values()
    for a, b in zip(found, op.evaluate(*operands), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a.astype(np.float64), b.astype(np.float64), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("op", "spec", "feed"),
    [
        (o.Trilu(), "float32[n,m]", floats(3, 4)),
        (EyeLike(), "float32[n,m]", floats(3, 4)),
        (o.Tile((2, 3)), "float32[n,m]", floats(3, 4)),
        (o.SpaceToDepth(2), "float32[n,3,2*h,4]", floats(2, 3, 6, 4)),
        (Resize(scales=(1.0, 1.0, 2.0, 2.0)), "float32[n,3,4,4]", floats(2, 3, 4, 4)),
    ],
)
def test_decomposition_on_symbolic_sizes(op: Op, spec: str, feed: np.ndarray) -> None:
    graph = Graph()
    node = graph.add(op, [graph.add_input("x", tensor_type(spec))])
    graph.set_outputs(node.outputs)
    assert expand(node) is not None
    sizes = {"n": 3, "m": 4} if "m" in spec else {"n": 2, "h": 3}
    (found,) = evaluate(graph.copy(sizes), {"x": feed}).values()
    np.testing.assert_array_equal(found, op.evaluate(feed)[0])


def test_resizing_an_axis_of_unknown_size_stays_whole() -> None:
    graph = Graph()
    node = graph.add(Resize(scales=(1.0, 1.0, 2.0, 2.0)), [graph.add_input("x", tensor_type("float32[1,3,h,4]"))])
    before: Any = list(graph)
    with pytest.raises(UnsupportedError, match="unknown size"):
        expand(node)
    assert list(graph) == before
