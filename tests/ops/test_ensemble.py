"""Tree ensembles: a tree small enough to follow by hand, and what does not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lepton_compiler.errors import InferenceError, UnsupportedError
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.types import tensor_type
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.decompose import expand
from lepton_compiler.ops.ensemble import TreeEnsemble
from lepton_compiler.ops.evaluator import evaluate

# Node 0 asks for column 1 between 0 and 2, node 1 for column 0 up to 5; the leaves 2, 3, 4 weigh 10, 20, 30.
TREE: dict[str, Any] = {
    "roots": np.array([0, 1], np.int32),
    "feature": np.array([1, 0, 0, 0, 0], np.int32),
    "high": np.array([2, 5, np.inf, np.inf, np.inf], np.float32),
    "yes": np.array([1, 2, 2, 3, 4], np.int32),
    "no": np.array([4, 3, 2, 3, 4], np.int32),
    "weights": np.array([[10], [20], [30]], np.float32),
    "low": np.array([0, -np.inf, -np.inf, -np.inf, -np.inf], np.float32),
    "missing": np.array([True, False, False, False, False]),
}
X = np.array([[4, 1], [6, 1], [4, 3], [4, -1], [6, np.nan], [np.nan, 2]], np.float32)
FIRST, SECOND = np.array([10, 20, 30, 30, 20, 20]), np.array([10, 20, 10, 10, 20, 20])


@pytest.mark.parametrize(
    ("aggregate", "want"),
    [("sum", FIRST + SECOND), ("average", (FIRST + SECOND) / 2), ("min", np.minimum(FIRST, SECOND)), ("max", np.maximum(FIRST, SECOND))],
)
def test_rows_find_their_leaves(aggregate: str, want: np.ndarray) -> None:
    graph = Graph("g")
    x = graph.add_input("x", tensor_type("float32[n,2]"))
    node = Builder(graph).node(TreeEnsemble(1, 2, aggregate), [x, *TREE.values()])
    graph.set_outputs([node.output])
    (got,) = evaluate(graph, {"x": X}).values()
    np.testing.assert_array_equal(got, want[:, None])
    assert expand(node)
    (got,) = evaluate(graph, {"x": X}).values()
    np.testing.assert_array_equal(got, want[:, None])


def test_trees_about_one_target_each() -> None:
    targets = np.array([2, 0], np.int32)
    (y,) = TreeEnsemble(3, 2).evaluate(X, **TREE, tree_targets=targets)
    np.testing.assert_array_equal(y, np.stack([SECOND, 0 * FIRST, FIRST], 1))


def test_no_trees_and_trees_of_one_leaf() -> None:
    tables = TREE | {"roots": np.array([3], np.int32)}
    (y,) = TreeEnsemble(1, 0).evaluate(X, *tables.values())
    np.testing.assert_array_equal(y, np.full((6, 1), 20))
    tables = TREE | {"roots": np.zeros(0, np.int32)}
    for aggregate in ("sum", "average", "min"):
        np.testing.assert_array_equal(TreeEnsemble(1, 2, aggregate).evaluate(X, *tables.values())[0], np.zeros((6, 1)))


GOOD = ["float32[n,2]", "int32[2]", "int32[5]", "float32[5]", "int32[5]", "int32[5]", "float32[3,1]"]


@pytest.mark.parametrize(
    ("op", "place", "spec", "message"),
    [
        (TreeEnsemble(1, 2), 0, "int32[n,2]", "takes floats"),
        (TreeEnsemble(0, 2), 0, "float32[n,2]", "0 targets"),
        (TreeEnsemble(1, 2, "median"), 0, "float32[n,2]", "'median'"),
        (TreeEnsemble(1, 2), 1, "int64[2]", "roots"),
        (TreeEnsemble(1, 2), 3, "float64[5]", "high"),
        (TreeEnsemble(1, 2), 4, "int32[4]", "for each of 5 nodes"),
        (TreeEnsemble(2, 2), 6, "float32[3,1]", r"float32\[leaves,2\]"),
    ],
)
def test_refusals_say_what_is_wrong(op: TreeEnsemble, place: int, spec: str, message: str) -> None:
    specs = [*GOOD[:place], spec, *GOOD[place + 1 :]]
    assert TreeEnsemble(1, 2).infer(*map(tensor_type, GOOD)) == (tensor_type("float32[n,1]"),)
    with pytest.raises(InferenceError, match=message):
        op.infer(*map(tensor_type, specs))


def test_trees_of_unknown_size_are_not_lowered() -> None:
    graph = Graph("g")
    specs = ["float32[n,2]", "int32[t]", "int32[k]", "float32[k]", "int32[k]", "int32[k]", "float32[l,1]"]
    node = Builder(graph).node(TreeEnsemble(1, 2), [graph.add_input(f"x{i}", tensor_type(s)) for i, s in enumerate(specs)])
    with pytest.raises(UnsupportedError, match="sizes of trees"):
        expand(node)
