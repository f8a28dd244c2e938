"""The domain ai.onnx.ml: ensembles of decision trees, in the tables of operator version 5 and in the older ones."""

from __future__ import annotations

import numpy as np

from lepton_compiler.errors import ModelError, UnsupportedError
from lepton_compiler.frontends.onnx.call import Call, Result
from lepton_compiler.frontends.onnx.forest import LEAF, MEMBER, MODES, Forest, Nodes, forest_of
from lepton_compiler.frontends.onnx.rules.scores import (
    as_float32,
    best_label,
    both,
    class_labels,
    label_above,
    transform_of,
    transformed,
)
from lepton_compiler.ir.graph import Value
from lepton_compiler.ir.types import FLOAT32
from lepton_compiler.ops.binary import Add, Sub
from lepton_compiler.ops.cast import Cast
from lepton_compiler.ops.ensemble import TreeEnsemble
from lepton_compiler.ops.unary import Neg, Sigmoid

AGGREGATES = ("average", "sum", "min", "max")
ABSENT = {"average": 0.0, "sum": 0.0, "min": np.inf, "max": -np.inf}
"""What a leaf says about a target that it has no weight for."""

TABLE_LIMIT = 2**26
"""Largest number of weights, leaves times targets."""


def tree_ensemble(call: Call) -> Result:
    """TreeEnsemble of version 5: inner nodes and leaves in tables of their own."""
    x = call.value(0)
    element = x.type.dtype.numpy
    kind = call.attr("aggregate_function", 1)
    if kind not in range(4):
        raise ModelError(f"aggregate_function is {kind}; known are 0 to 3")
    targets, weights = _column(call, "leaf_targetids"), _required(call, "leaf_weights").reshape(-1).astype(element)
    if len(targets) != len(weights):
        raise ModelError(f"{len(weights)} leaf_weights for {len(targets)} leaf_targetids")
    nodes, roots = _nodes_5(call, len(weights), element), _column(call, "tree_roots")
    if (roots >= len(nodes) - len(weights)).any():
        raise ModelError(f"a root of a tree is number {int(roots.max())}, which does not exist")
    nodes.check(roots, _features(x))
    nodes.split_members(_member_sets(call, element))
    votes = np.arange(len(nodes.mode))[nodes.mode == LEAF], targets, weights
    count = int(call.attr("n_targets", int(targets.max(initial=0)) + 1))
    return transformed(call, _ensemble(call, x, forest_of(nodes, roots), votes, count, AGGREGATES[kind]), transform_of(call))


def _nodes_5(call: Call, leaves: int, element: np.dtype) -> Nodes:
    """The nodes, the leaves after the others."""
    modes = _required(call, "nodes_modes").reshape(-1).astype(np.int64)
    count, filler = len(modes), np.zeros(leaves, np.int64)
    missing = call.array("nodes_missing_value_tracks_true")
    columns = [_column(call, f"nodes_{name}") for name in ("featureids", "truenodeids", "trueleafs", "falsenodeids", "falseleafs")]
    splits = _required(call, "nodes_splits").reshape(-1).astype(element)
    if any(len(column) != count for column in (*columns, splits)) or (missing is not None and len(missing) not in (0, count)):
        raise ModelError(f"an attribute of the nodes does not have {count} entries, as nodes_modes has")
    if ((modes < 0) | (modes >= LEAF)).any():
        raise ModelError("nodes_modes has an unknown mode; known are 0 to 6")
    feature, yes, yes_leaf, no, no_leaf = columns
    for child, is_leaf in ((yes, yes_leaf), (no, no_leaf)):
        limits = np.where(is_leaf != 0, leaves, count)
        if ((child < 0) | (child >= limits)).any():
            raise ModelError(f"a child of a tree is number {int(child[(child < 0) | (child >= limits)][0])}, which does not exist")
    return Nodes(
        mode=np.concatenate([modes, np.full(leaves, LEAF)]),
        feature=np.concatenate([feature, filler]),
        value=np.concatenate([splits, filler.astype(element)]),
        yes=np.concatenate([np.where(yes_leaf != 0, yes + count, yes), filler]),
        no=np.concatenate([np.where(no_leaf != 0, no + count, no), filler]),
        missing=np.concatenate([np.zeros(count, bool) if missing is None or not len(missing) else missing != 0, filler != 0]),
    )


def _member_sets(call: Call, element: np.dtype) -> list[np.ndarray]:
    """The sets of the MEMBER nodes, which NaNs part from each other."""
    values = call.array("membership_values")
    if values is None:
        return []
    values = values.reshape(-1).astype(element)
    ends = np.flatnonzero(np.isnan(values))
    if len(values) and (not len(ends) or ends[-1] != len(values) - 1):
        ends = np.append(ends, len(values))
    return [values[start:end] for start, end in zip([0, *(ends[:-1] + 1)], ends, strict=True)]


def tree_ensemble_regressor(call: Call) -> Result:
    """TreeEnsembleRegressor: float32 results."""
    name = str(call.attr("aggregate_function", "SUM")).lower()
    if name not in AGGREGATES:
        raise ModelError(f"aggregate_function is '{name.upper()}'; known are AVERAGE, SUM, MIN, MAX")
    targets = _column(call, "target_ids")
    count = int(call.attr("n_targets", int(targets.max(initial=0)) + 1))
    scores = _with_base(call, _old_ensemble(call, "target", count, name), count)
    return transformed(call, scores, transform_of(call))


def tree_ensemble_classifier(call: Call) -> Result:
    """TreeEnsembleClassifier: the label, and the score of each class."""
    labels, transform = class_labels(call, "classlabels_int64s"), transform_of(call)
    classes = _column(call, "class_ids")
    if len(labels) == 2 and len(classes) and (classes == classes[0]).all():
        return _one_sided(call, labels, int(classes[0]), transform)
    scores = _with_base(call, _old_ensemble(call, "class", len(labels), "sum"), len(labels))
    return [best_label(call, scores, labels), transformed(call, scores, transform)]


def _one_sided(call: Call, labels: np.ndarray, voted: int, transform: str) -> Result:
    """Two classes of which the trees score one: a probability if no weight is negative, else a margin around zero."""
    weights = _either(call, "class_weights")
    positive = not (weights < 0).any()
    score = _with_base(call, _old_ensemble(call, "class", 2, "sum", only=voted), 1)
    label = label_above(call, score, 0.5 if positive else 0.0, labels)
    if not call.wants(1):
        return [label]
    if voted == 1 or transform not in ("NONE", "LOGISTIC"):
        raise UnsupportedError(
            f"scores of two classes (post_transform {transform}) of which the trees score only number {voted}: runtimes disagree about them",
            hint="give weights for both classes, or use the label only",
        )
    if transform == "LOGISTIC":
        return [label, call.add(Sigmoid(), both(call, call.add(Neg(), score), score))]
    other = call.add(Sub(), call.like(score, 1), score) if positive else call.add(Neg(), score)
    return [label, both(call, other, score)]


def _old_ensemble(call: Call, kind: str, count: int, aggregate: str, only: int | None = None) -> Value:
    """The scores [N, count] in float32, or [N, 1] of the class `only`.

    Args:
        call: the node.
        kind: "target" or "class", the prefix of the attributes about leaves.
        count: how many targets.
        aggregate: how the trees are taken together.
        only: the only class that leaves may have weights for.
    """
    x = call.value(0)
    if not x.type.dtype.is_float:
        x = as_float32(call, x)
    element = x.type.dtype.numpy
    nodes, roots, places = _old_nodes(call, element)
    nodes.check(roots, _features(x))
    leaves = _places_of(places, _column(call, f"{kind}_treeids"), _column(call, f"{kind}_nodeids"))
    targets, weights = _column(call, f"{kind}_ids"), _either(call, f"{kind}_weights").astype(element)
    if not len(leaves) == len(targets) == len(weights):
        raise ModelError(f"the attributes {kind}_* have {len(leaves)}, {len(targets)} and {len(weights)} entries")
    if (nodes.mode[leaves] != LEAF).any():
        raise ModelError(f"{kind}_nodeids names a node that is not a leaf")
    if only is not None:
        targets, count = np.zeros_like(targets), 1
    scores = _ensemble(call, x, forest_of(nodes, roots), (leaves, targets, weights), count, aggregate)
    return scores if scores.type.dtype == FLOAT32 else call.add(Cast(to=FLOAT32), scores)


def _old_nodes(call: Call, element: np.dtype) -> tuple[Nodes, np.ndarray, np.ndarray]:
    """The nodes, the roots, and each node's (tree, number) as a sorted table of (tree, number, position)."""
    names = {name: index for index, name in enumerate(MODES) if index != MEMBER}
    try:
        mode = np.array([names[m] for m in call.attr("nodes_modes", ())], np.int64)
    except KeyError as error:
        raise ModelError(f"nodes_modes has {error}; known are {', '.join(names)}") from error
    columns = [_column(call, f"nodes_{name}") for name in ("treeids", "nodeids", "featureids", "truenodeids", "falsenodeids")]
    trees, numbers, feature, yes, no = columns
    value = _either(call, "nodes_values").astype(element)
    given = call.array("nodes_missing_value_tracks_true")
    missing = np.zeros(len(mode), bool) if given is None or not len(given) else given != 0
    if len({len(mode), *(len(c) for c in (*columns, value, missing))}) != 1:
        raise ModelError("the attributes nodes_* have different numbers of entries")
    order = np.lexsort((numbers, trees))
    places = np.stack([trees[order], numbers[order], order], axis=1)
    if (np.diff(places[:, :2], axis=0) == 0).all(axis=1).any():
        raise ModelError("two nodes of a tree have the same number")
    inner = mode != LEAF
    for child in (yes, no):
        child[inner] = _places_of(places, trees[inner], child[inner])
    orphan = np.ones(len(mode), bool)
    orphan[yes[inner]], orphan[no[inner]] = False, False
    roots = np.flatnonzero(orphan)
    if len(np.unique(trees[roots])) != len(roots) or len(roots) != len(np.unique(trees)):
        raise ModelError("a tree does not have exactly one root")
    return Nodes(mode, feature, value, yes, no, missing), roots, places


def _places_of(places: np.ndarray, trees: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The positions of nodes given by tree and number.

    Raises:
        ModelError: there is no such node.
    """
    if len(trees) != len(numbers):
        raise ModelError(f"{len(numbers)} numbers of nodes for {len(trees)} numbers of trees")
    keys = np.concatenate([places[:, :2], np.stack([trees, numbers], axis=1)])
    _, codes = np.unique(keys, axis=0, return_inverse=True)
    position = np.full(codes.max(initial=-1) + 1, -1)
    position[codes[: len(places)]] = places[:, 2]
    found = position[codes[len(places) :]]
    if (found < 0).any():
        bad = int(np.flatnonzero(found < 0)[0])
        raise ModelError(f"a tree refers to node {int(numbers[bad])} of tree {int(trees[bad])}, which does not exist")
    return found


def _ensemble(call: Call, x: Value, forest: Forest, votes: tuple[np.ndarray, np.ndarray, np.ndarray], count: int, aggregate: str) -> Value:
    """The operator, on constants; `votes` are leaves, targets and weights."""
    leaves, targets, weights = votes
    if count < 1 or (len(targets) and not 0 <= targets.min() <= targets.max() < count):
        raise ModelError(f"a leaf has a weight for a target that is not among the {count}")
    number = np.full(max(leaves.max(initial=-1), forest.leaves.max(initial=-1)) + 1, -1)
    number[forest.leaves] = np.arange(len(forest.leaves))
    rows = number[leaves]
    rows, targets, weights = rows[rows >= 0], targets[rows >= 0], weights[rows >= 0]
    of_tree = _tree_targets(forest, rows, targets, count) if aggregate in ("sum", "average") else None
    width = count if of_tree is None else 1
    if len(forest.leaves) * width > TABLE_LIMIT:
        raise UnsupportedError(f"a table of {len(forest.leaves)} leaves and {width} targets is too large")
    table = np.zeros((len(forest.leaves), width), weights.dtype)
    places = rows, targets if of_tree is None else np.zeros_like(targets)
    if aggregate in ("min", "max"):
        table[:] = ABSENT[aggregate]
        (np.minimum if aggregate == "min" else np.maximum).at(table, places, weights)
    else:
        np.add.at(table, places, weights)
    low = forest.low if (forest.low[: len(forest.low) - len(forest.leaves)] > -np.inf).any() else None
    missing = forest.missing if forest.missing.any() else None
    arrays = (forest.roots, forest.feature, forest.high, forest.yes, forest.no, table, low, missing, of_tree)
    return call.add(TreeEnsemble(count, forest.depth, aggregate), x, *(None if a is None else call.constant(a) for a in arrays))


def _tree_targets(forest: Forest, rows: np.ndarray, targets: np.ndarray, count: int) -> np.ndarray | None:
    """For each tree the only target that its leaves have weights for, int32; None if that is not so, or there is one target only."""
    if count == 1 or not len(forest.roots):
        return None
    label = np.full(len(forest.leaves), -1)
    label[rows] = targets
    if (label < 0).any() or (label[rows] != targets).any():
        return None
    found = forest.common(label)
    return None if found is None else found.astype(np.int32)


def _with_base(call: Call, scores: Value, count: int) -> Value:
    """Scores plus the base values: one for each, or one for all."""
    base = call.array("base_values_as_tensor") if call.has("base_values_as_tensor") else call.array("base_values")
    if base is None or not base.size:
        return scores
    if base.size not in (1, count) or (base.size == 1 and count > 1):
        raise UnsupportedError(f"{base.size} base values for {count} scores are not supported", hint="give one for each")
    return call.add(Add(), scores, call.constant(base.reshape(-1).astype(np.float32)))


def _features(x: Value) -> int | None:
    """The number of features, where it is known."""
    if x.type.rank != 2:
        raise ModelError(f"trees take features [N, F], not {x.type}")
    features = x.type.shape[1]
    return features if isinstance(features, int) else None


def _required(call: Call, name: str) -> np.ndarray:
    found = call.array(name)
    if found is None:
        raise ModelError(f"attribute '{name}' is missing")
    return found


def _column(call: Call, name: str) -> np.ndarray:
    """A required attribute of integers."""
    found = _required(call, name).reshape(-1)
    if found.dtype.kind not in "iu":
        raise ModelError(f"attribute '{name}' should be integers")
    return found.astype(np.int64)


def _either(call: Call, name: str) -> np.ndarray:
    """A required attribute of floats, or of float64 in a tensor."""
    wide = call.array(f"{name}_as_tensor")
    return _required(call, name).reshape(-1) if wide is None or not wide.size else wide.reshape(-1)


RULES = {
    "TreeEnsemble": tree_ensemble,
    "TreeEnsembleRegressor": tree_ensemble_regressor,
    "TreeEnsembleClassifier": tree_ensemble_classifier,
}
