"""Tree ensembles: random forests against ONNX Runtime, in every form that they take; damaged ones get a diagnosis."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import lepton_compiler
from lepton_compiler.backends.onnx import emit_onnx
from lepton_compiler.errors import LeptonError, ModelError, UnsupportedError
from lepton_compiler.frontends.onnx import import_onnx
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ops.decompose import expand
from lepton_compiler.ops.ensemble import TreeEnsemble
from lepton_compiler.ops.evaluator import evaluate

FEATURES = 4
BRANCHES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")


def forest(
    seed: int,
    trees: int,
    depth: int,
    targets: int,
    branches: tuple[str, ...] = BRANCHES[:1],
    per_tree: bool = False,
    prefix: str = "target",
) -> dict[str, Any]:
    """The attributes of a random forest in the old format; thresholds and features are small whole numbers, so that equality happens."""
    rng = np.random.default_rng(seed)
    nodes: dict[str, list[Any]] = {
        name: [] for name in ("treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids")
    }
    votes: dict[str, list[Any]] = {name: [] for name in ("treeids", "nodeids", "ids", "weights")}

    def grow(tree: int, level: int, count: list[int]) -> int:
        number = count[0]
        count[0] += 1
        place = len(nodes["modes"])
        leaf = level == depth or (level > 0 and rng.random() < 0.2)
        mode = "LEAF" if leaf else str(rng.choice(branches))
        row = (tree, number, int(rng.integers(FEATURES)), mode, float(rng.integers(-2, 3)), 0, 0)
        for name, value in zip(nodes, row, strict=True):
            nodes[name].append(value)
        if leaf:
            said = [tree % targets] if per_tree else [t for t in range(targets) if rng.random() < 0.7] or [0]
            for target in said:
                for name, value in zip(votes, (tree, number, target, float(rng.standard_normal())), strict=True):
                    votes[name].append(value)
        else:
            nodes["truenodeids"][place] = grow(tree, level + 1, count)
            nodes["falsenodeids"][place] = grow(tree, level + 1, count)
        return number

    for tree in range(trees):
        grow(tree, 0, [0])
    missing = rng.integers(0, 2, len(nodes["modes"])).tolist()
    given = {f"nodes_{name}": values for name, values in nodes.items()} | {f"{prefix}_{name}": values for name, values in votes.items()}
    return given | {"nodes_missing_value_tracks_true": missing}


def rows(seed: int, count: int, element: type = np.float32) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x: np.ndarray = rng.integers(-3, 4, (count, FEATURES)).astype(element)
    if np.issubdtype(element, np.floating):
        x[rng.random(x.shape) < 0.1] = np.nan
        x[rng.random(x.shape) < 0.3] += np.asarray(0.5, element)
    return x


def model(op_type: str, x: np.ndarray, outputs: int = 1, version: int = 3, **given: Any) -> onnx.ModelProto:
    node = helper.make_node(op_type, ["x"], ["y", "z"][:outputs], domain="ai.onnx.ml", **given)
    formal = helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), ["n", x.shape[1]])
    results = [helper.make_empty_tensor_value_info(name) for name in ["y", "z"][:outputs]]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", version)]
    return helper.make_model(helper.make_graph([node], "g", [formal], results), opset_imports=opsets, ir_version=8)


def run(proto: onnx.ModelProto | bytes | str, x: np.ndarray) -> list[np.ndarray]:
    onnxruntime = pytest.importorskip("onnxruntime")
    data = proto.SerializeToString() if isinstance(proto, onnx.ModelProto) else proto
    found: list[np.ndarray] = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    return found


def check(graph: Graph, x: np.ndarray, want: np.ndarray) -> None:
    """The operator, its decomposition, and what is emitted give the same."""
    np.testing.assert_allclose(evaluate(graph, {"x": x})["y"], want, rtol=1e-5, atol=1e-5)
    emitted = emit_onnx(graph, None, opset=18)
    np.testing.assert_allclose(run(emitted, x)[0], want, rtol=1e-5, atol=1e-5)
    (node,) = [n for n in graph if isinstance(n.op, TreeEnsemble)]
    assert expand(node)
    np.testing.assert_allclose(evaluate(graph, {"x": x})["y"], want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("aggregate", ["SUM", "AVERAGE", "MIN", "MAX"])
@pytest.mark.parametrize(("targets", "per_tree"), [(1, False), (3, False), (3, True)])
def test_regressors_agree_with_onnxruntime(seed: int, aggregate: str, targets: int, per_tree: bool) -> None:
    branches = BRANCHES if seed % 2 else BRANCHES[:1]
    given = forest(seed, trees=4, depth=1 + seed, targets=targets, branches=branches, per_tree=per_tree)
    x = rows(seed, 50)
    proto = model("TreeEnsembleRegressor", x, n_targets=targets, aggregate_function=aggregate, **given)
    check(import_onnx(proto), x, run(proto, x)[0])


@pytest.mark.parametrize("element", [np.float64, np.int64, np.int32])
def test_features_of_other_types(element: type) -> None:
    x = rows(3, 40, element)
    given = forest(7, 5, 3, 2, BRANCHES, per_tree=True) | {"n_targets": 2, "base_values": [0.5, -1.0]}
    got = evaluate(import_onnx(model("TreeEnsembleRegressor", x, **given)), {"x": x})["y"]
    same = x.astype(np.float32) if x.dtype.kind == "i" else x  # ONNX Runtime has no kernel for integers
    np.testing.assert_allclose(got, run(model("TreeEnsembleRegressor", same, **given), same)[0], rtol=1e-5, atol=1e-5)
    assert got.dtype == np.float32


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
def test_classifiers_of_several_classes(transform: str) -> None:
    x = rows(5, 60)
    given = forest(8, 9, 3, 3, per_tree=True, prefix="class") | {"classlabels_int64s": [7, -1, 3], "base_values": [0.1, 0.2, -0.1]}
    proto = model("TreeEnsembleClassifier", x, 2, post_transform=transform, **given)
    got = evaluate(import_onnx(proto), {"x": x})
    labels, scores = run(proto, x)
    np.testing.assert_array_equal(got["y"], labels)
    np.testing.assert_allclose(got["z"], scores, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC"])
@pytest.mark.parametrize("positive", [True, False])
def test_two_classes_of_which_one_is_scored(transform: str, positive: bool) -> None:
    x = rows(6, 60)
    given = forest(9, 6, 3, 1, prefix="class") | {"classlabels_int64s": [4, 9]}
    given["class_weights"] = [abs(w) / 8 if positive else w for w in given["class_weights"]]
    proto = model("TreeEnsembleClassifier", x, 2, post_transform=transform, base_values=[0.05], **given)
    got = evaluate(import_onnx(proto), {"x": x})
    labels, scores = run(proto, x)
    assert set(labels.tolist()) == {4, 9}
    np.testing.assert_array_equal(got["y"], labels)
    np.testing.assert_allclose(got["z"], scores, rtol=1e-5, atol=1e-6)


def test_two_classes_that_are_both_scored_get_the_label_of_the_larger() -> None:
    x = rows(6, 60)
    proto = model("TreeEnsembleClassifier", x, 2, classlabels_int64s=[4, 9], **forest(11, 6, 3, 2, prefix="class"))
    got = evaluate(import_onnx(proto), {"x": x})
    np.testing.assert_allclose(got["z"], run(proto, x)[1], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(got["y"], np.array([4, 9])[got["z"].argmax(1)])


def version_5(element: Any, **change: Any) -> dict[str, Any]:
    """Two trees with a membership node, in the tables of version 5."""
    name = helper.np_dtype_to_tensor_dtype(np.dtype(element))

    def tensor(values: list[float], kind: int = name) -> TensorProto:
        return helper.make_tensor("t", kind, [len(values)], values)

    given: dict[str, Any] = {
        "n_targets": 2,
        "tree_roots": [0, 2],
        "nodes_modes": tensor([6, 0, 5, 6], TensorProto.UINT8),
        "nodes_featureids": [0, 1, 2, 0],
        "nodes_splits": tensor([0, 0.5, 1, 0]),
        "nodes_truenodeids": [1, 0, 2, 4],
        "nodes_trueleafs": [0, 1, 1, 1],
        "nodes_falsenodeids": [1, 2, 3, 5],
        "nodes_falseleafs": [1, 1, 0, 1],
        "nodes_missing_value_tracks_true": [1, 0, 0, 0],
        "membership_values": tensor([1, -2, 3, 0, float("nan"), 2, float("nan")]),
        "leaf_targetids": [0, 0, 1, 1, 0, 1],
        "leaf_weights": tensor([1, 2, 4, 8, 16, 32]),
    }
    return {k: v for k, v in (given | change).items() if v is not None}


@pytest.mark.parametrize("element", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("aggregate", range(4))
def test_tables_of_version_5(element: type, aggregate: int) -> None:
    x = rows(2, 60, element)
    graph = import_onnx(model("TreeEnsemble", x, 1, 5, aggregate_function=aggregate, **version_5(element)))
    votes = np.full((60, 2, 2), {0: 0, 1: 0, 2: np.inf, 3: -np.inf}[aggregate], np.float64)
    for row, vote in zip(x, votes, strict=True):
        first = row[0] in (1, -2, 3, 0) or np.isnan(row[0])
        vote[0, 0 if (first and row[1] <= 0.5) or not first else 1] = (1 if row[1] <= 0.5 else 4) if first else 2
        second = row[2] != 1
        vote[1, 0 if not second and row[0] == 2 else 1] = 4 if second else 16 if row[0] == 2 else 32
    total = [votes.mean(1), votes.sum(1), votes.min(1), votes.max(1)][aggregate]
    check_5(graph, x, np.where(np.isinf(total), 0, total))


def check_5(graph: Graph, x: np.ndarray, want: np.ndarray) -> None:
    (got,) = evaluate(graph, {"x": x}).values()
    assert got.dtype == x.dtype
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(run(emit_onnx(graph, None, opset=18), x)[0], want)


@pytest.mark.parametrize(("targets", "aggregate"), [(1, "SUM"), (3, "AVERAGE"), (2, "MAX")])
def test_native_code_agrees(targets: int, aggregate: str, tmp_path: Path) -> None:
    x = rows(4, 16)
    given = forest(3, 4, 4, targets, BRANCHES, per_tree=targets == 3) | {"n_targets": targets, "aggregate_function": aggregate}
    graph = import_onnx(model("TreeEnsembleRegressor", x, **given), {"x": x.shape})
    compiled = lepton_compiler.compile(graph, cache_dir=tmp_path)
    np.testing.assert_allclose(compiled.run({"x": x})["y"], evaluate(graph, {"x": x})["y"], rtol=1e-6, atol=1e-6)


def test_trees_are_emitted_as_trees_where_onnx_has_them(tmp_path: Path) -> None:
    x = rows(1, 5)
    graph = import_onnx(model("TreeEnsembleRegressor", x, n_targets=2, **forest(1, 3, 3, 2, BRANCHES)))
    emitted = emit_onnx(graph, tmp_path / "m.onnx", opset=18)
    assert [n.op_type for n in emitted.graph.node] == ["TreeEnsembleRegressor"]
    assert {(o.domain, o.version) for o in emitted.opset_import} == {("", 18), ("ai.onnx.ml", 3)}
    again = import_onnx(emitted)
    np.testing.assert_array_equal(evaluate(again, {"x": x})["y"], evaluate(graph, {"x": x})["y"])
    shared = import_onnx(model("TreeEnsemble", x, 1, 5, **version_5(np.float32)))
    assert "Loop" in {n.op_type for n in emit_onnx(shared, None, opset=18).graph.node}


def chain(length: int) -> dict[str, Any]:
    """One tree that is a list: the leaf of each node hangs on its true side."""
    inner = np.arange(0, 2 * length, 2)
    numbers = np.arange(2 * length + 1)
    is_inner = (numbers % 2 == 0) & (numbers < 2 * length)
    return {
        "n_targets": 1,
        "nodes_treeids": [0] * len(numbers),
        "nodes_nodeids": numbers.tolist(),
        "nodes_featureids": [0] * len(numbers),
        "nodes_modes": ["BRANCH_LEQ" if i else "LEAF" for i in is_inner],
        "nodes_values": np.where(is_inner, numbers // 2, 0).astype(float).tolist(),
        "nodes_truenodeids": np.where(is_inner, numbers + 1, 0).tolist(),
        "nodes_falsenodeids": np.where(is_inner, numbers + 2, 0).tolist(),
        "target_treeids": [0] * (length + 1),
        "target_nodeids": [*(inner + 1).tolist(), 2 * length],
        "target_ids": [0] * (length + 1),
        "target_weights": np.arange(length + 1).astype(float).tolist(),
    }


def test_large_and_deep_trees_take_seconds() -> None:
    start = time.monotonic()
    x = np.array([[-1.0], [17.5], [4999.5], [1e9]], np.float32)
    graph = import_onnx(model("TreeEnsembleRegressor", x, **chain(5000)))
    np.testing.assert_array_equal(evaluate(graph, {"x": x})["y"], [[0], [18], [5000], [5000]])
    emit_onnx(graph, None)
    tree = forest(1, 1, 15, 1)
    wide: dict[str, Any] = {
        name: [t for t in range(20) for _ in old] if name.endswith("treeids") else old * 20 for name, old in tree.items()
    }
    graph = import_onnx(model("TreeEnsembleRegressor", rows(1, 2), n_targets=1, **wide))
    emit_onnx(graph, None)
    assert time.monotonic() - start < 30


OLD = forest(1, 2, 2, 2)
DAMAGES: list[tuple[str, dict[str, Any], type[LeptonError], str]] = [
    ("TreeEnsembleRegressor", {"nodes_values": [1.0]}, ModelError, "different numbers of entries"),
    ("TreeEnsembleRegressor", {"nodes_truenodeids": [99] * len(OLD["nodes_modes"])}, ModelError, "node 99 of tree 0, which does not exist"),
    ("TreeEnsembleRegressor", {"nodes_truenodeids": [0] * len(OLD["nodes_modes"])}, ModelError, "root|two ways"),
    ("TreeEnsembleRegressor", {"nodes_modes": ["BRANCH_MAYBE"] * len(OLD["nodes_modes"])}, ModelError, "BRANCH_MAYBE"),
    ("TreeEnsembleRegressor", {"nodes_featureids": [FEATURES] * len(OLD["nodes_modes"])}, ModelError, "a feature of a tree is number 4"),
    ("TreeEnsembleRegressor", {"nodes_nodeids": [0] * len(OLD["nodes_modes"])}, ModelError, "same number"),
    ("TreeEnsembleRegressor", {"target_ids": [0]}, ModelError, "entries"),
    ("TreeEnsembleRegressor", {"target_ids": [5] * len(OLD["target_ids"])}, ModelError, "not among the 2"),
    ("TreeEnsembleRegressor", {"target_nodeids": [0] * len(OLD["target_ids"])}, ModelError, "not a leaf"),
    ("TreeEnsembleRegressor", {"n_targets": 2**40}, UnsupportedError, "too large"),
    ("TreeEnsembleRegressor", {"n_targets": 0}, ModelError, "among the 0"),
    ("TreeEnsembleRegressor", {"aggregate_function": "MEDIAN"}, ModelError, "MEDIAN"),
    ("TreeEnsembleRegressor", {"post_transform": "CUBE"}, ModelError, "CUBE"),
    ("TreeEnsembleRegressor", {"base_values": [1.0, 2.0, 3.0]}, UnsupportedError, "3 base values for 2"),
    ("TreeEnsemble", {"tree_roots": [0, 1]}, ModelError, "two ways"),
    ("TreeEnsemble", {"tree_roots": [0, 9]}, ModelError, "root of a tree is number 9"),
    ("TreeEnsemble", {"nodes_truenodeids": [-1, 0, 2, 4]}, ModelError, "child of a tree is number -1"),
    ("TreeEnsemble", {"nodes_truenodeids": [1, 0, 2]}, ModelError, "does not have 4 entries"),
    ("TreeEnsemble", {"nodes_modes": helper.make_tensor("t", TensorProto.UINT8, [4], [6, 0, 7, 6])}, ModelError, "unknown mode"),
    ("TreeEnsemble", {"membership_values": None}, ModelError, "0 sets for 2 nodes"),
    ("TreeEnsemble", {"leaf_targetids": [0, 1]}, ModelError, "6 leaf_weights for 2"),
    ("TreeEnsemble", {"leaf_targetids": [0, 0, 0, 0, 0, 7]}, ModelError, "not among the 2"),
    ("TreeEnsemble", {"nodes_splits": None}, ModelError, "'nodes_splits' is missing"),
    ("TreeEnsemble", {"aggregate_function": 4}, ModelError, "aggregate_function is 4"),
]


@pytest.mark.parametrize(("op_type", "change", "error", "message"), DAMAGES)
def test_damaged_trees_are_diagnosed(op_type: str, change: dict[str, Any], error: type[LeptonError], message: str) -> None:
    given = version_5(np.float32, **change) if op_type == "TreeEnsemble" else OLD | {"n_targets": 2} | change
    with pytest.raises(error, match=message):
        import_onnx(model(op_type, rows(1, 3), 1, 5 if op_type == "TreeEnsemble" else 3, **given))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classlabels_int64s": None, "classlabels_strings": ["a", "b"]}, "text"),
        ({"post_transform": "SOFTMAX"}, "runtimes disagree"),
        ({"base_values": [0.1, 0.2]}, "2 base values for 1"),
    ],
)
def test_classifiers_that_are_refused(change: dict[str, Any], message: str) -> None:
    given = forest(9, 2, 2, 1, prefix="class") | {"classlabels_int64s": [4, 9]} | change
    with pytest.raises(UnsupportedError, match=message):
        import_onnx(model("TreeEnsembleClassifier", rows(1, 3), 2, **{k: v for k, v in given.items() if v is not None}))


@pytest.mark.parametrize("seed", range(200))
def test_mutated_tables_are_imported_or_diagnosed(seed: int) -> None:
    rng, x = np.random.default_rng(seed), rows(1, 3)
    given = version_5(np.float32) if seed % 2 else OLD | {"n_targets": 2}
    proto = model("TreeEnsemble" if seed % 2 else "TreeEnsembleRegressor", x, 1, 5 if seed % 2 else 3, **given)
    lists = [a.ints for a in proto.graph.node[0].attribute if a.ints]
    for _ in range(2):
        chosen = lists[rng.integers(len(lists))]
        if len(chosen) and rng.random() < 0.8:
            chosen[rng.integers(len(chosen))] = int(rng.choice([-1, 0, 1, 3, 2**31, 2**62]))
        else:
            del chosen[len(chosen) // 2 :]
    start = time.monotonic()
    try:
        (y,) = evaluate(import_onnx(proto), {"x": x}).values()
        assert y.shape == (3, 2)
    except LeptonError as error:
        assert error.diagnostics and "Error:" not in str(error)
    assert time.monotonic() - start < 5
