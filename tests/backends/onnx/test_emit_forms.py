"""Forms that are emitted because ONNX, or ONNX Runtime, takes an operator less widely than lepton does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from lepton_compiler.backends.onnx import emit_onnx
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.op import Op
from lepton_compiler.ir.types import dtype, tensor_type
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.conv import ConvInteger
from lepton_compiler.ops.dynamic import Dynamic
from lepton_compiler.ops.evaluator import evaluate
from lepton_compiler.ops.indexing import Compress, Unique
from lepton_compiler.ops.pool import MaxUnpool
from lepton_compiler.ops.reduce import ReduceMax, ReduceMin
from lepton_compiler.ops.resize import Resize
from lepton_compiler.testing.round_trip import EvaluatedInstead, through_onnx_runtime

BFLOAT16 = dtype("bfloat16").numpy
RNG = np.random.default_rng(12)


def graph_of(op: Op, specs: Sequence[str]) -> Graph:
    graph = Graph("forms")
    node = Builder(graph).node(op, [graph.add_input(f"x{i}", tensor_type(s)) for i, s in enumerate(specs)])
    graph.set_outputs(list(node.outputs))
    return graph


def check(graph: Graph, *arrays: np.ndarray, rtol: float = 1e-6) -> list[str]:
    """ONNX Runtime agrees with the evaluator on what is emitted; its operators."""
    pytest.importorskip("onnxruntime")
    feeds = {v.name: a for v, a in zip(graph.inputs, arrays, strict=True)}
    want, got = evaluate(graph, feeds), through_onnx_runtime(graph, feeds)
    assert not isinstance(got, EvaluatedInstead)
    for name, array in want.items():
        assert got[name].dtype == array.dtype and got[name].shape == array.shape
        wide = (got[name].astype(np.float64), array.astype(np.float64))
        np.testing.assert_allclose(*wide, rtol=rtol, atol=1e-6)
    return [n.op_type for n in emit_onnx(graph, None, opset=21).graph.node]


def test_narrow_floats_are_carried_by_float32_where_an_opset_does_not_take_them() -> None:
    x = RNG.standard_normal((4, 3)).astype(BFLOAT16)
    graph = graph_of(Compress(axis=0), ["bfloat16[4,3]", "bool[4]"])
    assert check(graph, x, np.array([True, False, True, True])) == ["Cast", "Compress", "Cast"]
    assert [n.op_type for n in emit_onnx(graph, None, opset=28).graph.node] == ["Compress"]
    numbers = np.array([2, 1, 1, 3, 4, 3], np.float32).astype(BFLOAT16)
    assert check(graph_of(Unique(), ["bfloat16[6]"]), numbers) == ["Cast", "Unique", "Cast"]


@pytest.mark.parametrize("groups", [1, 2])
def test_zero_points_of_weights_that_differ(groups: int) -> None:
    op = ConvInteger(strides=(2, 1), pads=(1, 0, 1, 1), dilations=(1, 2), groups=groups)
    specs = ["uint8[2,4,6,7]", f"int8[4,{4 // groups},3,2]", "uint8[]", "int8[4]"]
    arrays = [RNG.integers(0, 120, tensor_type(s).static_shape).astype(tensor_type(s).dtype.numpy) for s in specs]
    assert check(graph_of(op, specs), *arrays).count("ConvInteger") == 2
    assert check(graph_of(op, [*specs[:3], "int8[]"]), *arrays[:3], np.array(3, np.int8)) == ["ConvInteger"]


def test_larger_shape_of_an_unpooled_image_is_padding() -> None:
    x = np.array([[[[5, 6], [7, 8]]]], np.float32)
    places = np.array([[[[5, 7], [13, 15]]]])
    op = MaxUnpool((2, 2), (2, 2), (0, 0, 0, 0), (1, 1, 5, 6))
    assert "Pad" in check(graph_of(op, ["float32[1,1,2,2]", "int64[1,1,2,2]"]), x, places)
    late = Dynamic(MaxUnpool((2, 2), (2, 2), (0, 0, 0, 0)), ("output_shape",))
    check(graph_of(late, ["float32[1,1,2,2]", "int64[1,1,2,2]", "int64[4]"]), x, places, np.array([1, 1, 4, 7]))


@pytest.mark.parametrize("op", [ReduceMax(axes=(1,)), ReduceMin(axes=(1,))])
def test_extremes_of_no_truth_values(op: Any) -> None:
    assert check(graph_of(op, ["bool[2,0,3]"]), np.zeros((2, 0, 3), bool)) == ["Cast", op.name, "Cast"]
    assert check(graph_of(op, ["bool[2,2,3]"]), RNG.random((2, 2, 3)) < 0.5) == [op.name]
    late = Dynamic(type(op)(axes=()), ("axes",))
    check(graph_of(late, ["bool[n,0,3]", "int64[1]"]), np.zeros((2, 0, 3), bool), np.array([1]))


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_corners_of_a_size_that_is_not_whole(mode: str) -> None:
    op = Resize(mode=mode, coordinate_transformation_mode="align_corners", sizes=(1, 1, 3, 3), scales=(1.0, 1.0, 0.8, 0.8))
    x = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    assert "Resize" not in check(graph_of(op, ["float32[1,1,4,4]"]), x)
    whole = Resize(mode=mode, coordinate_transformation_mode="align_corners", sizes=(1, 1, 8, 8), scales=(1.0, 1.0, 2.0, 2.0))
    assert "Resize" in check(graph_of(whole, ["float32[1,1,4,4]"]), x, rtol=1e-5)  # it computes coordinates in float32


def test_what_onnxruntime_has_no_kernel_for_is_evaluated_and_says_so() -> None:
    pytest.importorskip("onnxruntime")
    graph = Graph("narrow")
    x = graph.add_input("x", tensor_type("int16[3]"))
    graph.set_outputs([Builder(graph).Max(x, np.array([2], np.int16))])
    got = through_onnx_runtime(graph, {"x": np.array([1, 2, 3], np.int16)})
    assert isinstance(got, EvaluatedInstead)
    np.testing.assert_array_equal(got[graph.outputs[0].name], [2, 2, 3])
