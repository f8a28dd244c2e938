"""Ensembles of decision trees, as arrays that all rows walk down together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_compiler.ir.dim import Dim
from lepton_compiler.ir.op import Cost, Op, Types, require, traffic
from lepton_compiler.ir.types import BOOL, INT32, TensorType
from lepton_compiler.ops.broadcasting import may_equal
from lepton_compiler.ops.precision import widen

AGGREGATES = ("average", "max", "min", "sum")


@dataclass(frozen=True)
class TreeEnsemble(Op):
    """What decision trees say about each row of `x` [N, F]: [N, targets].

    The nodes of all trees are numbered together, the leaves L of them last. A row that is at node i goes on to `yes[i]` if
    `low[i] <= x[feature[i]] <= high[i]`, or if that element is NaN and `missing[i]`, else to `no[i]`; a leaf leads to itself. `roots`
    says where each of the T trees begins. `weights` [L, targets] are what the leaves say; or [L, 1] where `tree_targets` [T] says which
    target each tree is about. Without `low` there is no lower bound, without `missing` NaN leads to `no`.

    Attributes:
        targets: the number of results per row.
        depth: the longest way from a root to a leaf.
        aggregate: how the trees are taken together: "sum", "average", "min" or "max"; for the last two a weight that is infinite does
            not take part, and where none does the result is zero.
    """

    targets: int
    depth: int
    aggregate: str = "sum"

    def infer(  # noqa: D102
        self,
        x: TensorType,
        roots: TensorType,
        feature: TensorType,
        high: TensorType,
        yes: TensorType,
        no: TensorType,
        weights: TensorType,
        low: TensorType | None = None,
        missing: TensorType | None = None,
        tree_targets: TensorType | None = None,
    ) -> tuple[TensorType, ...]:
        require(x.dtype.is_float and x.rank == 2, f"TreeEnsemble takes floats [N, F], not {x}")
        require(self.targets >= 1 and self.depth >= 0, f"TreeEnsemble of {self.targets} targets and depth {self.depth}")
        require(self.aggregate in AGGREGATES, f"TreeEnsemble: aggregate '{self.aggregate}' must be one of {', '.join(AGGREGATES)}")
        for name, t in (("roots", roots), ("feature", feature), ("yes", yes), ("no", no), ("tree_targets", tree_targets)):
            require(t is None or (t.dtype == INT32 and t.rank == 1), f"TreeEnsemble: {name} is {t}, not an int32 vector")
        for name, t in (("high", high), ("low", low)):
            require(t is None or (t.dtype == x.dtype and t.rank == 1), f"TreeEnsemble: {name} is {t}, not a vector of {x.dtype}")
        require(missing is None or (missing.dtype == BOOL and missing.rank == 1), f"TreeEnsemble: missing is {missing}, not a bool vector")
        same = [t for t in (yes, no, high, low, missing) if t is not None and not may_equal(t.shape[0], feature.shape[0])]
        require(not same, f"TreeEnsemble: {same[0] if same else ''} must have an element for each of {feature.shape[0]} nodes")
        width: Dim = self.targets if tree_targets is None else 1
        fits = weights.dtype == x.dtype and weights.rank == 2 and may_equal(weights.shape[1], width)
        require(fits, f"TreeEnsemble: weights {weights} must be {x.dtype}[leaves,{width}]")
        trees = tree_targets is None or (may_equal(tree_targets.shape[0], roots.shape[0]) and self.aggregate in ("sum", "average"))
        require(
            trees, f"TreeEnsemble: tree_targets {tree_targets} must name a target for each of the {roots.shape[0]} trees that are summed"
        )
        return (TensorType(x.dtype, (x.shape[0], self.targets)),)

    def evaluate(  # noqa: D102
        self,
        x: Any,
        roots: Any,
        feature: Any,
        high: Any,
        yes: Any,
        no: Any,
        weights: Any,
        low: Any = None,
        missing: Any = None,
        tree_targets: Any = None,
    ) -> tuple[np.ndarray, ...]:
        at = np.broadcast_to(roots, (len(x), len(roots)))
        for _ in range(self.depth):
            value = np.take_along_axis(x, feature[at].astype(np.int64), axis=1)
            taken = value <= high[at]
            if low is not None:
                taken &= low[at] <= value
            if missing is not None:
                taken |= np.isnan(value) & missing[at]
            at = np.where(taken, yes[at], no[at])
        said = widen(weights)[at - (len(feature) - len(weights))]
        if tree_targets is not None:
            said = said * (tree_targets[:, None] == np.arange(self.targets))
        return (self._together(said).astype(x.dtype),)

    def _together(self, said: np.ndarray) -> np.ndarray:
        """What the trees say [N, trees, targets], taken together."""
        if self.aggregate in ("sum", "average"):
            total: np.ndarray = said.sum(axis=1)
            return total / np.asarray(max(1, said.shape[1]), said.dtype) if self.aggregate == "average" else total
        if not said.shape[1]:
            return np.zeros((len(said), self.targets), said.dtype)
        best: np.ndarray = said.min(axis=1) if self.aggregate == "min" else said.max(axis=1)
        return np.where(np.isinf(best), np.asarray(0, best.dtype), best)

    def cost(self, inputs: Types, outputs: Types) -> Cost:  # noqa: D102
        x, roots, out = inputs[0], inputs[1], outputs[0]
        assert x is not None and roots is not None and out is not None
        rows = x.static_shape[0]
        return Cost(0, rows * roots.size * (3 * self.depth + self.targets), traffic(inputs, outputs))
