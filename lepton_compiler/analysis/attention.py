"""Attention as kernels without a matrix of scores walk it: which queries, keys and values there are, and where their elements lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lepton_compiler.analysis.layouts import Factor, Layout, common

Empty = Literal["nan", "zeros", "never_nan"]
"""What a query gets all of whose scores are minus infinity: NaN, as the softmax of such a row is; zeros; or zeros instead of any NaN."""
SEPARATE = "attention in separate kernels: "
"""What the origin of a softmax says, with the reason, where attention was found and could not become one kernel."""


@dataclass(frozen=True)
class Rows:
    """Vectors of neighbouring elements.

    Attributes:
        steps: elements from one to the next along each axis of the batch.
        row: elements from one vector to the next.
        offset: elements before the first one.
    """

    steps: tuple[int, ...]
    row: int
    offset: int = 0


@dataclass(frozen=True)
class Sizes:
    """softmax(query key^T) value for a batch of any number of axes.

    Attributes:
        batch: sizes of its axes; those that no key or value knows of are heads that share them.
        queries, keys: vectors of one of the batch.
        head, width: elements of a key, and of a value.
    """

    batch: tuple[int, ...]
    queries: int
    keys: int
    head: int
    width: int
    query: Rows
    key: Rows
    value: Rows


def sizes_of(q: Layout, k: Layout, v: Layout, scores: Sequence[int], result: Sequence[int], queries: int | None = None) -> Sizes | None:
    """Sizes and strides of an attention, or None where an operand does not lie in vectors with even steps between them.

    Args:
        q, k, v: operands as the two products take them: [..., queries, head], [..., head, keys], [..., keys, width].
        scores, result: shapes of the two products.
        queries: so many rows of scores at a time, rather than as many as possible.
    """
    head, keys, width = q.shape[-1], k.shape[-1], v.shape[-1]
    q, k = q.expanded((*scores[:-1], head)), k.expanded((*scores[:-2], head, keys))
    v = v.expanded((*result[:-2], keys, width))
    neighbours = all(axis in ((), ((size, 1),)) for axis, size in ((q.axes[-1], head), (k.axes[-2], head), (v.axes[-1], width)))
    if not neighbours or len(k.axes[-1]) > 1 or len(v.axes[-2]) > 1:
        return None
    walks = [
        [f for axis in q.axes[:-1] for f in axis],
        [*(f for axis in k.axes[:-2] for f in axis), (scores[-2], 0)],
        [*(f for axis in v.axes[:-2] for f in axis), (result[-2], 0)],
    ]
    if queries is not None:
        walks.append(_in_blocks(math.prod(scores[:-1]), queries))
    runs = common(walks)
    if runs is None:
        return None
    shares = bool(runs) and runs[-1][1][1:3] == (0, 0)
    outer, (count, inner) = (runs[:-1], runs[-1]) if shares else (runs, (1, (head, 0, 0)))
    if queries is not None and count != queries:
        return None

    def rows(which: int, layout: Layout, row: int) -> Rows:
        return Rows(tuple(steps[which] for _, steps in outer), row, layout.offset)

    key_row, value_row = (axis[0][1] if axis else 1 for axis in (k.axes[-1], v.axes[-2]))
    return Sizes(
        tuple(extent for extent, _ in outer), count, keys, head, width, rows(0, q, inner[0]), rows(1, k, key_row), rows(2, v, value_row)
    )  # fmt: skip


def _in_blocks(rows: int, size: int) -> list[Factor]:
    """A walk that no other one goes on across the borders of blocks of `size` rows."""
    return [(rows // size, 1), (size, 0)]
