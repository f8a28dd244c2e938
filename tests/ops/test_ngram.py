"""N-grams against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from lepton_compiler.errors import InferenceError, LeptonError, ModelError, UnsupportedError
from lepton_compiler.frontends.onnx import import_onnx
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.types import tensor_type
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.decompose import expand
from lepton_compiler.ops.evaluator import evaluate
from lepton_compiler.ops.ngram import TfIdfVectorizer

RNG = np.random.default_rng(21)
POOL = [3, 1, 4, 2, 2, 5, 5, 1, 1, 2, 3, 4, 4, 4]  # 3, 1, 4; (2, 2), (5, 5), (1, 1), (2, 3); (4, 4, 4)
GIVEN: dict[str, Any] = {
    "min_gram_length": 1,
    "max_gram_length": 3,
    "max_skip_count": 2,
    "ngram_counts": [0, 3, 11],
    "ngram_indexes": [7, 0, 9, 2, 3, 1, 4, 5],
    "pool_int64s": POOL,
    "weights": [0.5, 1.5, 2.0, 3.0, 0.25, 1.0, 4.0, 0.75],
}


def model(shape: tuple[int, ...], element: int = onnx.TensorProto.INT64, **given: Any) -> onnx.ModelProto:
    node = helper.make_node("TfIdfVectorizer", ["x"], ["y"], **given)
    x = helper.make_tensor_value_info("x", element, shape)
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [*shape[:-1], None])
    return helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=[helper.make_opsetid("", 9)], ir_version=8)


@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"min_gram_length": 2},
        {"max_gram_length": 2, "max_skip_count": 0},
        {"max_gram_length": 1},
        {"max_skip_count": 99},
        {"weights": None},
    ],
)
@pytest.mark.parametrize("shape", [(4, 9), (9,), (2, 2)])
def test_counts_agree_with_onnxruntime(onnxruntime_node: Any, mode: str, change: dict[str, Any], shape: tuple[int, ...]) -> None:
    given = {k: v for k, v in (GIVEN | change | {"mode": mode}).items() if v is not None}
    x = RNG.integers(1, 6, shape)
    (want,) = onnxruntime_node("TfIdfVectorizer", [x], opset=9, **given)
    graph = import_onnx(model(shape, **given))
    np.testing.assert_array_equal(evaluate(graph, {"x": x})["y"], want)
    (node,) = graph.nodes
    assert expand(node)
    np.testing.assert_array_equal(evaluate(graph, {"x": x})["y"], want)


def test_narrow_integers_count_too() -> None:
    x = np.array([1, 1, 3], np.int32)
    y = evaluate(import_onnx(model((3,), onnx.TensorProto.INT32, **GIVEN, mode="TF")), {"x": x})["y"]
    np.testing.assert_array_equal(y, [2, 1, 0, 0, 0, 0, 0, 1, 0, 0])


def test_types() -> None:
    op = TfIdfVectorizer("TF", 1, 2, 0, (0, 1), 7)
    (y,) = op.infer(tensor_type("int32[n,c]"), tensor_type("int64[5]"), tensor_type("int64[3]"))
    assert y == tensor_type("float32[n,7]")
    with pytest.raises(InferenceError, match="4 indexes for 3 n-grams"):
        op.infer(tensor_type("int32[n,c]"), tensor_type("int64[5]"), tensor_type("int64[4]"))
    with pytest.raises(InferenceError, match="do not cut a pool of 4"):
        op.infer(tensor_type("int32[n,c]"), tensor_type("int64[4]"), tensor_type("int64[3]"))
    with pytest.raises(InferenceError, match="not float32"):
        op.infer(tensor_type("float32[n,c]"), tensor_type("int64[5]"), tensor_type("int64[3]"))


def test_rows_of_unknown_length_are_not_lowered() -> None:
    graph = Graph("g")
    x = graph.add_input("x", tensor_type("int64[2,n]"))
    node = Builder(graph).node(TfIdfVectorizer("TF", 1, 1, 0, (0,), 2), [x, np.array([4, 5]), np.array([0, 1])])
    with pytest.raises(UnsupportedError, match="length of the rows"):
        expand(node)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"mode": "DF"}, ModelError, "mode 'DF'"),
        ({"mode": None}, ModelError, "'mode' is missing"),
        ({"ngram_counts": [0, 3, 12]}, ModelError, "do not cut a pool of 14"),
        ({"ngram_counts": [0, 99, 3]}, ModelError, "do not cut"),
        ({"ngram_indexes": [0, 1]}, ModelError, "2 indexes for 8"),
        ({"ngram_indexes": [0, 1, 2, 3, 4, 5, 6, -1]}, ModelError, "negative column"),
        ({"ngram_indexes": [0, 1, 2, 3, 4, 5, 6, 2**62]}, ModelError, "larger than any memory"),
        ({"ngram_indexes": [0, 1, 2, 3, 4, 5, 6, 0]}, UnsupportedError, "share a column"),
        ({"pool_int64s": [3, 1, 3, *POOL[3:]]}, ModelError, "n-gram twice"),
        ({"weights": [1.0]}, ModelError, "as long as indexes"),
        ({"min_gram_length": 0}, ModelError, "lengths 0 to 3"),
        ({"max_skip_count": -1}, ModelError, "negative count"),
        ({"pool_int64s": None, "pool_strings": ["a"]}, UnsupportedError, "strings"),
    ],
)
def test_refusals_say_what_is_wrong(change: dict[str, Any], error: type[LeptonError], message: str) -> None:
    given = {k: v for k, v in (GIVEN | {"mode": "TF"} | change).items() if v is not None}
    with pytest.raises(error, match=message):
        import_onnx(model((2, 9), **given))


def test_empty_rows_and_endless_skips_count_nothing() -> None:
    given = GIVEN | {"mode": "TF", "max_skip_count": 2**62}
    for shape in ((2, 0), (2, 1)):
        graph = import_onnx(model(shape, **given))
        assert evaluate(graph, {"x": np.zeros(shape, np.int64)})["y"].sum() == 0
        expand(graph.nodes[0])
        assert evaluate(graph, {"x": np.zeros(shape, np.int64)})["y"].shape == (2, 10)
