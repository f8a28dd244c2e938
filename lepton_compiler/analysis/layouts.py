"""Where the elements of a tensor lie in memory when it is a view of another one: what reshapes, transposes, slices and the like come to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lepton_compiler.ir.graph import Node
from lepton_compiler.ir.op import Op
from lepton_compiler.ops.indexing import Gather, Slice

Factor = tuple[int, int]
"""Extent of a run of indices, and elements from one to the next."""

RESHAPES = frozenset({"Reshape", "Squeeze", "Unsqueeze"})
VIEWS = RESHAPES | {"Transpose", "Expand", "Slice", "Split", "Gather"}
"""Operators that a `Layout` can follow; `Gather` with a single known index."""


@dataclass(frozen=True)
class Layout:
    """The places of a tensor's elements among those of the tensor that it views.

    Attributes:
        axes: for each axis its factors, outermost first: an index counts through them as through digits. Extents of 1 have no factor.
        offset: place of the first element.
    """

    axes: tuple[tuple[Factor, ...], ...]
    offset: int = 0

    @staticmethod
    def dense(shape: Sequence[int]) -> Layout:
        """The layout of a tensor on its own, in row-major order."""
        return Layout(tuple(_merged([(size, math.prod(shape[k + 1 :]))]) for k, size in enumerate(shape)))

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of each axis."""
        return tuple(math.prod(extent for extent, _ in axis) for axis in self.axes)

    @property
    def factors(self) -> list[Factor]:
        """Those of all axes, outermost first."""
        return [factor for axis in self.axes for factor in axis]

    def reshaped(self, shape: Sequence[int]) -> Layout | None:
        """The same elements in row-major order under another shape; None where an axis would have no even steps."""
        rest, axes = self.factors[::-1], []
        for size in shape:
            axis: list[Factor] = []
            while size > 1:
                if not rest:
                    return None
                extent, step = rest.pop()
                if size % extent == 0:
                    axis.append((extent, step))
                    size //= extent
                elif extent % size == 0:
                    axis.append((size, step * (extent // size)))
                    rest.append((extent // size, step))
                    size = 1
                else:
                    return None
            axes.append(_merged(axis))
        return None if rest or 0 in shape else Layout(tuple(axes), self.offset)

    def transposed(self, perm: Sequence[int]) -> Layout:
        """Axis k of the result is axis `perm[k]`."""
        return Layout(tuple(self.axes[p] for p in perm), self.offset)

    def expanded(self, shape: Sequence[int]) -> Layout:
        """Numpy broadcasting to a shape."""
        missing = len(shape) - len(self.axes)
        axes = [()] * missing + list(self.axes)
        return Layout(tuple(axis if axis or size == 1 else ((size, 0),) for axis, size in zip(axes, shape, strict=True)), self.offset)

    def sliced(self, axis: int, start: int, step: int, count: int) -> Layout | None:
        """Every `step`-th index of an axis from `start` on; None where the axis has no even steps, or goes backwards."""
        factors = self.axes[axis]
        if step < 1 or len(factors) > 1:
            return self if (start, step, count) == (0, 1, self.shape[axis]) else None
        pace = factors[0][1] if factors else 0
        axes = (*self.axes[:axis], _merged([(count, pace * step)]), *self.axes[axis + 1 :])
        return Layout(axes, self.offset + start * pace)

    def without(self, axis: int) -> Layout:
        """The first index of an axis, which the result does not have."""
        return Layout((*self.axes[:axis], *self.axes[axis + 1 :]), self.offset)


def through(op: Op, layout: Layout, shape: Sequence[int], output: int = 0, index: int | None = None) -> Layout | None:
    """The layout of the result of an operator that only views its operand; None where there is none.

    Args:
        op: one of `VIEWS`.
        layout: of the operand.
        shape: of the result.
        output: which of the results.
        index: what `Gather` picks.
    """
    given: Any = op
    rank = len(layout.axes)
    match op.name:
        case name if name in RESHAPES:
            return layout.reshaped(shape)
        case "Transpose":
            return layout.transposed([p % rank for p in given.perm])
        case "Expand":
            return layout.expanded(shape)
        case "Split":
            axis = given.axis % rank
            return layout.sliced(axis, sum(given.sizes[:output]), 1, shape[axis])
        case "Gather" if index is not None:
            axis = given.axis % rank
            one = layout.sliced(axis, index % layout.shape[axis], 1, 1)
            return None if one is None else one.without(axis)
        case "Slice":
            return _sliced(given, layout, shape)
    return None


def _sliced(op: Any, layout: Layout, shape: Sequence[int]) -> Layout | None:
    found: Layout | None = layout
    axes, steps = op.axes or range(len(op.starts)), op.steps or (1,) * len(op.starts)
    for axis, start, step in zip(axes, op.starts, steps, strict=True):
        if found is None or not isinstance(start, int):
            return None
        size = found.shape[axis]
        first = min(max(start + size if start < 0 else start, 0), size)
        found = found.sliced(axis % len(shape), first, step, shape[axis])
    return found


def offset_of(node: Node) -> int | None:
    """Bytes before the part of memory that a node takes: a slice of neighbours along the outermost axis of which there are several, or one known
    index of that (`Gather`); None for another node.
    """
    if not isinstance(node.op, (Gather, Slice)) or not node.present_inputs[0].type.is_static or not node.output.type.is_static:
        return None
    old, new = node.present_inputs[0].type.static_shape, node.output.type.static_shape
    if 0 in old or 0 in new:
        return None
    axis, start = _picked(node) if isinstance(node.op, Gather) else _first(node.op, old, new)
    if axis is None or start is None or any(n != 1 for n in old[:axis]):
        return None
    return max(start + old[axis] if start < 0 else start, 0) * (node.present_inputs[0].type.nbytes // old[axis])


def _picked(gather: Node) -> tuple[int | None, int | None]:
    """The axis of a `Gather`, and the index if that is one known number."""
    x, index = gather.present_inputs
    known = index.tensor is not None and index.type.size == 1
    return vars(gather.op)["axis"] % x.type.rank, int(index.numpy().reshape(-1)[0]) if known else None


def _first(op: Slice, old: Sequence[int], new: Sequence[int]) -> tuple[int | None, int | None]:
    """The axis that a slice cuts, if it is one, and the first index if neighbours follow."""
    axes = [axis for axis, (m, n) in enumerate(zip(old, new, strict=True)) if m != n]
    if len(axes) != 1:
        return None, None
    starts = dict(zip(op.axes or range(len(old)), zip(op.starts, op.steps or (1,) * len(old), strict=False), strict=False))
    start, step = starts.get(axes[0]) or starts.get(axes[0] - len(old)) or (0, 1)
    return axes[0], start if step == 1 and isinstance(start, int) else None


def common(lists: Sequence[Sequence[Factor]]) -> list[tuple[int, tuple[int, ...]]] | None:
    """The fewest runs in which several views of as many elements can be walked together: extent and each one's step, outermost first.

    None where one's factors end within another's.
    """
    rest = [[f for f in factors if f[0] > 1][::-1] for factors in lists]
    runs: list[tuple[int, tuple[int, ...]]] = []
    while any(rest):
        if not all(rest):
            return None
        extent = min(factors[-1][0] for factors in rest)
        if any(factors[-1][0] % extent for factors in rest):
            return None
        steps = []
        for factors in rest:
            whole, step = factors.pop()
            if whole > extent:
                factors.append((whole // extent, step))
            steps.append(step * (whole // extent))
        if runs and all(outer == inner * extent for outer, inner in zip(runs[-1][1], steps, strict=True)):
            runs[-1] = (runs[-1][0] * extent, tuple(steps))
        else:
            runs.append((extent, tuple(steps)))
    return runs


def _merged(factors: Sequence[Factor]) -> tuple[Factor, ...]:
    """The same run of indices in as few factors as possible."""
    made: list[Factor] = []
    for extent, step in factors:
        if extent == 1:
            continue
        if made and made[-1][1] == extent * step:
            made[-1] = (made[-1][0] * extent, step)
        else:
            made.append((extent, step))
    return tuple(made)
