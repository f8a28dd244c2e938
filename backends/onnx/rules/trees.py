"""Tree ensembles as TreeEnsembleRegressor of the domain ai.onnx.ml, which every ONNX Runtime has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lepton_compiler.backends.onnx.body import ML_DOMAIN, Emission
from lepton_compiler.ir.graph import Node
from lepton_compiler.ir.types import FLOAT32
from lepton_compiler.ops.ensemble import TreeEnsemble


@dataclass(frozen=True)
class Tables:
    """The constant operands of a `TreeEnsemble`."""

    roots: np.ndarray
    feature: np.ndarray
    high: np.ndarray
    yes: np.ndarray
    no: np.ndarray
    weights: np.ndarray
    low: np.ndarray
    missing: np.ndarray
    tree_targets: np.ndarray | None

    @property
    def inner(self) -> int:
        """How many nodes are not leaves; they come first."""
        return len(self.feature) - len(self.weights)


def fits(node: Node) -> bool:
    """Whether ONNX's operator says the same: float32, constant tables, nodes that make trees, and comparisons that it has."""
    if not isinstance(node.op, TreeEnsemble) or any(v is not None and v.tensor is None for v in node.inputs[1:]):
        return False
    x = node.inputs[0]
    if x is None or x.type.dtype != FLOAT32:
        return False
    tables = tables_of(node)
    reached = np.bincount(np.concatenate([tables.yes[: tables.inner], tables.no[: tables.inner], tables.roots]), minlength=len(tables.yes))
    return bool((reached == 1).all()) and bool((_modes(tables) != "").all())


def tables_of(node: Node) -> Tables:
    """The constant operands, those left out in full."""
    given = [None if v is None else v.numpy() for v in (*node.inputs, None, None, None)[1:10]]
    roots, feature, high, yes, no, weights, low, missing, tree_targets = given
    assert roots is not None and feature is not None and high is not None and yes is not None and no is not None and weights is not None
    low = np.full_like(high, -np.inf) if low is None else low
    missing = np.zeros(len(high), bool) if missing is None else missing
    return Tables(roots, feature, high, yes, no, weights, low, missing, tree_targets)


def _modes(tables: Tables) -> np.ndarray:
    """The comparison of each inner node; empty where ONNX has none such."""
    low, high = tables.low[: tables.inner], tables.high[: tables.inner]
    at_most, at_least, equal = low == -np.inf, (high == np.inf) & (low > -np.inf), low == high
    return np.where(at_most, "BRANCH_LEQ", np.where(at_least, "BRANCH_GTE", np.where(equal, "BRANCH_EQ", "")))


def tree_ensemble(emission: Emission) -> None:
    """All attributes are lists, with the leaves among the nodes, and a list of votes."""
    op, tables = emission.op, tables_of(emission.node)
    assert isinstance(op, TreeEnsemble)
    tree, number = _numbers(tables)
    order = np.lexsort((number, tree))
    inner = np.arange(len(tree)) < tables.inner
    modes = np.concatenate([_modes(tables), np.full(len(tables.weights), "LEAF")])
    values = np.where(modes == "BRANCH_GTE", np.pad(tables.low[: tables.inner], (0, len(tables.weights))), tables.high)
    leaves, targets, weights = _votes(tables, op.aggregate, tree)
    emission.emit(
        "TreeEnsembleRegressor",
        emission.inputs[:1],
        domain=ML_DOMAIN,
        aggregate_function=op.aggregate.upper(),
        n_targets=op.targets,
        nodes_treeids=tree[order].tolist(),
        nodes_nodeids=number[order].tolist(),
        nodes_featureids=tables.feature[order].tolist(),
        nodes_modes=modes[order].tolist(),
        nodes_values=np.where(inner, values, 0)[order].astype(np.float64).tolist(),
        nodes_truenodeids=np.where(inner, number[tables.yes], 0)[order].tolist(),
        nodes_falsenodeids=np.where(inner, number[tables.no], 0)[order].tolist(),
        nodes_missing_value_tracks_true=tables.missing[order].astype(int).tolist() if tables.missing.any() else None,
        target_treeids=tree[leaves].tolist(),
        target_nodeids=number[leaves].tolist(),
        target_ids=targets.tolist(),
        target_weights=weights.astype(np.float64).tolist(),
    )


def _numbers(tables: Tables) -> tuple[np.ndarray, np.ndarray]:
    """For each node its tree, and its number in that tree, level by level."""
    tree, level = np.zeros(len(tables.yes), np.int64), tables.roots.astype(np.int64)
    tree[level] = np.arange(len(level))
    visited = []
    while len(level):
        visited.append(level)
        level = level[level < tables.inner]
        for children in (tables.yes[level], tables.no[level]):
            tree[children] = tree[level]
        level = np.concatenate([tables.yes[level], tables.no[level]]).astype(np.int64)
    order = np.concatenate(visited)
    order = order[np.argsort(tree[order], kind="stable")]
    number = np.zeros(len(tree), np.int64)
    number[order] = np.arange(len(order)) - np.searchsorted(tree[order], tree[order])
    return tree, number


def _votes(tables: Tables, aggregate: str, tree: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Leaves, targets and weights of what the leaves say; each says something."""
    if tables.tree_targets is not None:
        leaves = np.arange(tables.inner, len(tree))
        return leaves, tables.tree_targets[tree[leaves]], tables.weights[:, 0]
    says = np.isfinite(tables.weights) if aggregate in ("min", "max") else tables.weights != 0
    says[~says.any(axis=1), 0] = aggregate not in ("min", "max")
    rows, targets = np.nonzero(says)
    return rows + tables.inner, targets, tables.weights[rows, targets]


RULES = {"TreeEnsemble": tree_ensemble}
