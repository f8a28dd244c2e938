"""The generic schedule: any block that no template claims."""

from __future__ import annotations

from typing import Any

from tvm import s_tir, tirx

from lepton_compiler.target import Target

PARALLEL_WORK = 32 << 10
"""Elements below which a loop is not worth handing to several threads."""


def extent_of(sch: Any, loop: Any) -> int:
    return int(sch.get(loop).extent)


def schedule_block(sch: Any, block: Any, target: Target, *, parallel: bool) -> None:
    """Vectorise the innermost contiguous axis of `block`, with an exact tail, and mark the outermost parallel."""
    if is_reduction(sch, block):
        _reduction(sch, block, target, parallel=parallel)
        return
    loops = sch.get_loops(block)
    if not loops:
        return
    lanes = target.lanes(element_bits(sch, block))
    inner = [sch.fuse(*loops)] if len(loops) > 1 and is_pointwise(sch, block) else loops
    work = 1
    for loop in inner:
        work *= extent_of(sch, loop)
    last = inner[-1]
    _vectorize_tail(sch, last, lanes)
    if parallel and work >= PARALLEL_WORK:
        _parallel_outer(sch, block)


def _vectorize_tail(sch: Any, loop: Any, lanes: int) -> None:
    """`loop` of any extent as whole vectors and one shorter vector."""
    extent = extent_of(sch, loop)
    if extent == 1:
        return
    if extent <= lanes:
        sch.vectorize(loop)
        return
    outer, vector = sch.split(loop, [None, lanes])
    sch.vectorize(vector)
    if extent % lanes:
        sch.annotate(outer, "pragma_loop_partition_hint", True)


def _parallel_outer(sch: Any, block: Any) -> None:
    loops = sch.get_loops(block)
    if sch.get(loops[0]).kind == tirx.ForKind.SERIAL and extent_of(sch, loops[0]) > 1:
        sch.parallel(loops[0])


def _reduction(sch: Any, block: Any, target: Target, *, parallel: bool) -> None:
    """Spatial loops outside, except the innermost, which is vectorised inside the reduction where it is contiguous."""
    kinds = [iv.iter_type for iv in sch.get(block).iter_vars]
    loops = sch.get_loops(block)
    if len(loops) != len(kinds):
        return
    spatial = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == tirx.IterVar.DataPar]
    reduced = [loop for loop, kind in zip(loops, kinds, strict=True) if kind != tirx.IterVar.DataPar]
    if spatial and extent_of(sch, spatial[-1]) > 1:
        lanes = target.lanes(element_bits(sch, block))
        last = spatial.pop()
        extent = extent_of(sch, last)
        if extent > lanes and extent % lanes == 0:
            outer, last = sch.split(last, [None, lanes])
            spatial.append(outer)
        sch.reorder(*spatial, *reduced, last)
        if extent <= lanes or extent % lanes == 0:
            sch.vectorize(last)
    else:
        sch.reorder(*spatial, *reduced)
    sch.decompose_reduction(block, reduced[0])
    if parallel and spatial and extent_of(sch, spatial[0]) > 1:
        sch.parallel(spatial[0])


def is_reduction(sch: Any, block: Any) -> bool:
    return any(iv.iter_type == tirx.IterVar.CommReduce for iv in sch.get(block).iter_vars)


def is_pointwise(sch: Any, block: Any) -> bool:
    """Whether every buffer that `block` touches is read and written at the same place, or is a single element."""
    stmt = sch.get(block)
    shape = [int(iv.dom.extent) for iv in stmt.iter_vars]
    variables = [iv.var for iv in stmt.iter_vars]
    for access in [*stmt.reads, *stmt.writes]:
        extents = [int(e) for e in access.source.shape]
        if all(e == 1 for e in extents):
            continue
        if extents != shape or not all(r.min.same_as(v) for r, v in zip(access.region, variables, strict=True)):
            return False
    return True


def element_bits(sch: Any, block: Any) -> int:
    """Width of the widest element that `block` reads or writes, at least 8."""
    stmt = sch.get(block)
    return max([tvm_bits(access.source.dtype) for access in [*stmt.reads, *stmt.writes]], default=32)


def tvm_bits(dtype: Any) -> int:
    name = str(dtype)
    digits = "".join(character for character in name if character.isdigit())
    return max(8, int(digits)) if digits else 8


__all__ = ["PARALLEL_WORK", "element_bits", "extent_of", "is_pointwise", "is_reduction", "s_tir", "schedule_block"]
