"""Reductions over the innermost axis, and chains of blocks that work row by row: softmax, normalisation, means.

A row's blocks share the outer loop, so that a row stays in the cache from the first block to the last and rows run in
parallel. A reduction keeps one partial result per vector lane and joins them at the end of the row.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.ir import Call

from lepton_compiler.backends.tvm.schedules.epilogue import parts
from lepton_compiler.backends.tvm.schedules.loops import (
    PARALLEL_WORK,
    Nest,
    element_bits,
    extent_of,
    is_reduction,
    partition,
    reduces_last_axis,
    set_parallel,
    vectorize,
    work_of,
)
from lepton_compiler.target import Target


def shared_rows(sch: Any, names: list[str]) -> int:
    """How many leading axes the blocks `names` have in common, each using its producers' results of the same row only.

    Where no block reduces along the rows, the innermost axis is left to be vectorised.
    """
    domains = [_spatial(sch, name) for name in names]
    produced = {access.source.name for name in names for access in sch.get(sch.get_sblock(name)).writes}
    shared = 0
    for axis in range(min(len(domain) for domain in domains)):
        extents = {int(domain[axis].dom.extent) for domain in domains}
        if len(extents) > 1 or not all(_same_row(sch, name, produced, axis) for name in names):
            break
        shared += 1
    if any(is_reduction(sch, name) and reduces_last_axis(sch, name) for name in names):
        return shared
    return min(shared, *(len(domain) - 1 for domain in domains))


def _spatial(sch: Any, name: str) -> list[Any]:
    return [iv for iv in sch.get(sch.get_sblock(name)).iter_vars if iv.iter_type == tirx.IterVar.DataPar]


def _same_row(sch: Any, name: str, produced: set[str], axis: int) -> bool:
    block = sch.get(sch.get_sblock(name))
    variable = block.iter_vars[axis].var
    extent = int(block.iter_vars[axis].dom.extent)
    for access in [*block.reads, *block.writes]:
        if access.source.name not in produced:
            continue
        if axis >= len(access.region) or not (extent == 1 or access.region[axis].min.same_as(variable)):
            return False
    return True


def schedule_rows(sch: Any, names: list[str], shared: int, target: Target) -> None:
    """Schedule the blocks `names`, in order, under one loop over their `shared` leading axes."""
    work = sum(work_of(sch, name) for name in names)
    rows = [loop for name in names for loop in _one(sch, name, shared, target)]
    loop = sch.merge(*rows) if len(rows) > 1 else rows[0]
    if work >= PARALLEL_WORK and extent_of(sch, loop) > 1:
        set_parallel(sch, loop)


def _one(sch: Any, name: str, shared: int, target: Target) -> list[Any]:
    """Schedule one block inside a loop over its rows; returns that loop, and before it those of blocks it was split into."""
    loops = sch.get_loops(name)
    if not sch.get(sch.get_sblock(name)).iter_vars:
        return [loops[0]]
    nest = Nest.of(sch, name)
    spatial, inner = nest.spatial[:shared], nest.spatial[shared:]
    row = sch.fuse(*spatial) if spatial else sch.add_unit_loop(loops[0])
    lanes = target.lanes(element_bits(sch, name))
    if not is_reduction(sch, name):
        if inner:
            vectorize(sch, inner[-1], lanes)
        return [row]
    if not reduces_last_axis(sch, name):
        _reduce_columns(sch, name, nest.reduced, inner, lanes)
        return [row]
    sch.reorder(*inner, *nest.reduced)
    if extent_of(sch, nest.reduced[-1]) >= 2 * lanes and _splits(sch, name):
        return _partial_results(sch, name, nest.reduced, lanes)
    sch.decompose_reduction(name, nest.reduced[0])
    return [row]


def _splits(sch: Any, name: str) -> bool:
    """Whether TVM can split the reduction by lane: one result, an operation that it knows, no condition on the loop."""
    block = sch.get(sch.get_sblock(name))
    if len(block.writes) != 1 or not isinstance(block.body.value, tirx.Add | tirx.Mul | tirx.Max | tirx.Min):
        return False
    pending = [block.body.value]
    while pending:
        node = pending.pop()
        if isinstance(node, Call) and str(node.op.name) == "prim.if_then_else":
            return False
        pending += parts(node)
    return True


def _partial_results(sch: Any, name: str, reduced: list[Any], lanes: int) -> list[Any]:
    """Split a reduction into one result per vector lane and their combination; returns the outermost loops of both."""
    total = extent_of(sch, reduced[-1])
    _, lane = sch.split(reduced[-1], [None, lanes])
    rank = len(sch.get(sch.get_sblock(name)).writes[0].source.shape)
    partials = sch.get(sch.rfactor(lane, rank)).name_hint
    loops = sch.get_loops(partials)
    tail = total % lanes
    if tail:
        partition(sch, loops[-2])
    if tail > 1:
        partition(sch, loops[-1])
    sch.vectorize(loops[-1])
    sch.decompose_reduction(partials, loops[-1 - len(reduced)])
    sch.decompose_reduction(name, sch.get_loops(name)[-1])
    return [sch.get_loops(partials + "_update")[0], sch.get_loops(name + "_update")[0]]


def _reduce_columns(sch: Any, name: str, reduced: list[Any], inner: list[Any], lanes: int) -> None:
    """The innermost kept axis is vectorised inside the reduction."""
    if inner:
        *outer, last = inner
        sch.reorder(*outer, *reduced, last)
        vectorize(sch, last, lanes)
    sch.decompose_reduction(name, reduced[0])
