"""The generic schedule of a block without reduction: copies, transpositions, gathers, arithmetic."""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.tirx.analysis import undefined_vars

from lepton_compiler.backends.tvm.schedules.loops import lane_bits, parallelize, vectorize, work_of
from lepton_compiler.target import Target

GATHERED = 4
"""Elements at once where each is read from a place of its own: no processor reads many such bytes at once, and longer vectors are put
together one by one."""
MOST = 1 << 10
"""Elements at once in other blocks: no bound."""


def schedule_elementwise(sch: Any, name: str, target: Target) -> None:
    """Vectorise the innermost axes of the block `name`, with an exact tail, and run the outer ones in parallel if that pays."""
    loops = sch.get_loops(name)
    if not loops:
        return
    work, flat = work_of(sch, name), contiguous_axes(sch, name)
    outer, inner = loops[: len(loops) - flat], loops[len(loops) - flat :]
    lanes = min(target.lanes(lane_bits(sch, name)), GATHERED if _gathers(sch, name) else MOST)
    vectorize(sch, sch.fuse(*inner) if flat > 1 else inner[0], lanes)
    inside = sch.get_loops(name)[len(outer) :]
    parallelize(sch, outer, work, [loop for loop in inside if sch.get(loop).kind == tirx.ForKind.SERIAL])


def _gathers(sch: Any, name: str) -> bool:
    """Whether data decides which of its neighbours an element of the block reads."""
    return any(_loads(access.region[-1].min) for access in sch.get(sch.get_sblock(name)).reads if len(access.region))


def _loads(index: Any) -> bool:
    """Whether an index is read from a buffer."""
    if hasattr(index, "source"):
        return True
    parts = [getattr(index, name) for name in ("value", "a", "b", "condition", "true_value", "false_value") if hasattr(index, name)]
    return any(_loads(part) for part in [*parts, *getattr(index, "args", ())] if not isinstance(part, str | int | float))


def contiguous_axes(sch: Any, name: str) -> int:
    """How many innermost axes of the block can be one loop: each buffer is indexed by all of them in order, or by none."""
    stmt = sch.get(sch.get_sblock(name))
    axes = stmt.iter_vars
    accesses = [a for a in [*stmt.reads, *stmt.writes] if len(a.region)]
    fitting = 1
    while fitting < len(axes) and all(_covers(access, axes[-fitting - 1 :]) for access in accesses):
        fitting += 1
    return fitting


def _covers(access: Any, axes: Any) -> bool:
    """Whether the last indices of `access` are just `axes`, whole, or none of its indices depends on them."""
    indices = [r.min for r in access.region]
    used = [var for r in access.region for e in (r.min, r.extent) for var in undefined_vars(e)]
    if not any(var.same_as(iv.var) for var in used for iv in axes):
        return True
    extents = [int(e) for e in access.source.shape]
    if len(indices) < len(axes) or any(not isinstance(r.extent, tirx.IntImm) or int(r.extent) != 1 for r in access.region):
        return False
    outer = [var for index in indices[: len(indices) - len(axes)] for var in undefined_vars(index)]
    if any(var.same_as(iv.var) for var in outer for iv in axes):
        return False
    tail = zip(indices[-len(axes) :], extents[-len(axes) :], axes, strict=True)
    return all(int(iv.dom.extent) == extent and (extent == 1 or index.same_as(iv.var)) for index, extent, iv in tail)
