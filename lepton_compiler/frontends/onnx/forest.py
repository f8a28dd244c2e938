"""Decision trees on their way from ONNX's tables to the arrays of lepton's `TreeEnsemble`.

ONNX compares in seven ways; lepton asks whether an element lies between two bounds. Nodes are numbered level by level, leaves last.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lepton_compiler.errors import ModelError

MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "BRANCH_MEMBER", "LEAF")
"""The modes in the order of their numbers in operator version 5; LEAF was a mode before."""

LEQ, LT, GTE, GT, EQ, NEQ, MEMBER, LEAF = range(8)


@dataclass
class Nodes:
    """The nodes of all trees. Children are positions in the same arrays.

    Attributes:
        mode: one of the numbers of `MODES`.
        feature: the column that is compared.
        value: what it is compared with, of the type that the comparison is made in.
        yes: where to go if the comparison holds.
        no: where to go if not.
        missing: whether NaN goes where `yes` goes.
    """

    mode: np.ndarray
    feature: np.ndarray
    value: np.ndarray
    yes: np.ndarray
    no: np.ndarray
    missing: np.ndarray

    def __len__(self) -> int:
        return len(self.mode)

    def check(self, roots: np.ndarray, features: int | None) -> None:
        """Make sure that these are trees.

        Raises:
            ModelError: arrays of different lengths, children or features that do not exist, a node that two nodes lead to.
        """
        lengths = {len(a) for a in (self.mode, self.feature, self.value, self.yes, self.no, self.missing)}
        if len(lengths) != 1:
            raise ModelError(f"the attributes of the nodes have different lengths: {', '.join(map(str, sorted(lengths)))}")
        inner = self.mode != LEAF
        for what, numbers, limit in (
            ("a child", np.concatenate([self.yes[inner], self.no[inner]]), len(self)),
            ("a root", roots, len(self)),
            ("a feature", self.feature[inner], features),
        ):
            if len(numbers) and (numbers.min() < 0 or (limit is not None and numbers.max() >= limit)):
                bad = int(numbers.min() if numbers.min() < 0 else numbers.max())
                raise ModelError(f"{what} of a tree is number {bad}, which does not exist")
        if ((self.mode < 0) | (self.mode >= len(MODES))).any():
            raise ModelError("a node of a tree has an unknown mode")
        parents = np.bincount(np.concatenate([self.yes[inner], self.no[inner], roots]), minlength=len(self))
        if (parents[inner] > 1).any():
            raise ModelError(f"node {int(np.flatnonzero(inner & (parents > 1))[0])} of a tree is reached in two ways")

    def split_members(self, sets: list[np.ndarray]) -> None:
        """Replace each MEMBER node by a search in its sorted set: comparisons that halve it, at the end one for equality."""
        places = np.flatnonzero(self.mode == MEMBER)
        if len(places) != len(sets):
            raise ModelError(f"membership_values holds {len(sets)} sets for {len(places)} nodes")
        added: list[tuple[int, int, float, int, int, bool]] = []
        for place, members in zip(places.tolist(), sets, strict=True):
            self._search(place, np.unique(members), added)
        if not added:
            return
        columns = list(zip(*added, strict=True))
        for name, column in zip(("mode", "feature", "value", "yes", "no", "missing"), columns, strict=True):
            old: np.ndarray = getattr(self, name)
            setattr(self, name, np.concatenate([old, np.array(column, old.dtype)]))

    def _search(self, place: int, members: np.ndarray, added: list[tuple[int, int, float, int, int, bool]]) -> None:
        feature, yes, no, missing = int(self.feature[place]), int(self.yes[place]), int(self.no[place]), bool(self.missing[place])
        if not len(members):
            members = np.array([np.nan], self.value.dtype)  # nothing equals it
        pending = [(place, members)]
        while pending:
            here, rest = pending.pop()
            half = len(rest) // 2
            if half:
                children = len(self) + len(added), len(self) + len(added) + 1
                added += [(EQ, feature, 0.0, yes, no, missing)] * 2
                node = (LEQ, feature, float(rest[half - 1]), *children, False)
                pending += zip(children, (rest[:half], rest[half:]), strict=True)
            else:
                node = (EQ, feature, float(rest[0]), yes, no, missing)
            if here < len(self):
                self.mode[here], self.feature[here], self.value[here], self.yes[here], self.no[here], self.missing[here] = node
            else:
                added[here - len(self)] = node

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The comparisons as pairs of bounds, both included; the branches of NEQ change places."""
        mode, value, infinity = self.mode, self.value, np.asarray(np.inf, self.value.dtype)
        above, below = (mode == GTE) | (mode == GT), mode == LT
        equal = (mode == EQ) | (mode == NEQ)
        low = np.where(mode == GTE, value, np.where(mode == GT, np.nextafter(value, infinity), np.where(equal, value, -infinity)))
        high = np.where(below, np.nextafter(value, -infinity), np.where(above, infinity, value))
        never = (below & (value == -infinity)) | ((mode == GT) & (value == infinity)) | (above & np.isnan(value))
        swapped = mode == NEQ
        self.yes, self.no = np.where(swapped, self.no, self.yes), np.where(swapped, self.yes, self.no)
        self.missing = self.missing & ~swapped
        return np.where(never, infinity, low), np.where(never, -infinity, high)


@dataclass(frozen=True)
class Forest:
    """The arrays of `TreeEnsemble`; `leaves` are the positions in `Nodes` of the leaves, in the order of their new numbers.

    Attributes:
        levels: where the nodes of each level end; a child is on a later level than its parents.
    """

    roots: np.ndarray
    feature: np.ndarray
    low: np.ndarray
    high: np.ndarray
    missing: np.ndarray
    yes: np.ndarray
    no: np.ndarray
    leaves: np.ndarray
    levels: tuple[int, ...]

    @property
    def depth(self) -> int:
        """The longest way from a root to a leaf."""
        return len(self.levels)

    def common(self, labels: np.ndarray) -> np.ndarray | None:
        """For each tree the label that all its leaves have; None if one has leaves of different labels."""
        least, most = (np.concatenate([np.zeros(len(self.feature) - len(labels), labels.dtype), labels]) for _ in range(2))
        for start, end in reversed(list(zip((0, *self.levels), self.levels, strict=False))):
            yes, no = self.yes[start:end], self.no[start:end]
            least[start:end], most[start:end] = np.minimum(least[yes], least[no]), np.maximum(most[yes], most[no])
        same = (least[self.roots] == most[self.roots]).all()
        return least[self.roots] if same else None


def forest_of(nodes: Nodes, roots: np.ndarray) -> Forest:
    """Number the nodes that the roots reach, level by level, leaves last; `nodes` are checked."""
    low, high = nodes.bounds()
    last_level = np.full(len(nodes), -1)
    level, depth = np.unique(roots), 0
    while len(level):
        last_level[level] = depth
        level = level[nodes.mode[level] != LEAF]
        level = np.unique(np.concatenate([nodes.yes[level], nodes.no[level]]))
        depth += 1
    inner = np.flatnonzero((last_level >= 0) & (nodes.mode != LEAF))
    inner = inner[np.argsort(last_level[inner], kind="stable")]
    leaves = np.flatnonzero((last_level >= 0) & (nodes.mode == LEAF))
    order = np.concatenate([inner, leaves])
    number = np.zeros(len(nodes), np.int32)
    number[order] = np.arange(len(order))
    own, branching = np.arange(len(order), dtype=np.int32), np.arange(len(order)) < len(inner)
    return Forest(
        roots=number[roots],
        feature=np.where(branching, nodes.feature[order], 0).astype(np.int32),
        low=np.where(branching, low[order], -np.inf).astype(low.dtype),
        high=np.where(branching, high[order], np.inf).astype(high.dtype),
        missing=branching & nodes.missing[order],
        yes=np.where(branching, number[np.where(branching, nodes.yes[order], 0)], own),
        no=np.where(branching, number[np.where(branching, nodes.no[order], 0)], own),
        leaves=leaves,
        levels=tuple(np.cumsum(np.bincount(last_level[inner])).tolist()) if len(inner) else (),
    )
