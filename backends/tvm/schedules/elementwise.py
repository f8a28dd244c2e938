"""The generic schedule: any block that no template claims."""

from __future__ import annotations

import math
from typing import Any

from tvm import tirx

from lepton_compiler.backends.tvm.schedules.loops import element_bits, extent_of, is_reduction, partition, split_loops, vectorize
from lepton_compiler.target import Target

PARALLEL_WORK = 32 << 10
"""Elements below which a loop is not worth handing to several threads."""


def schedule_block(sch: Any, name: str, target: Target) -> None:
    """Vectorise the innermost axis of the block `name`, with an exact tail, and run the outermost in parallel if that pays."""
    if not sch.get_loops(name):
        return
    if is_reduction(sch, name):
        _reduction(sch, name, target)
        return
    loops = sch.get_loops(name)
    work = math.prod(extent_of(sch, loop) for loop in loops)
    if len(loops) > 1:
        loops = [sch.fuse(*loops)] if _is_pointwise(sch, name) else loops
    vectorize(sch, loops[-1], target.lanes(element_bits(sch, name)))
    _parallel(sch, name, work)


def _parallel(sch: Any, name: str, work: int) -> None:
    """Fuse the outer loops, down to the first that is not plain, and run them in parallel."""
    outer = []
    for loop in sch.get_loops(name):
        stmt = sch.get(loop)
        if stmt.kind != tirx.ForKind.SERIAL or stmt.annotations:
            break
        outer.append(loop)
    extents = [extent_of(sch, loop) for loop in outer]
    if work >= PARALLEL_WORK and math.prod(extents) > 1:
        sch.parallel(outer[0] if extents[0] >= 64 or len(outer) == 1 else sch.fuse(*outer))


def _reduction(sch: Any, name: str, target: Target) -> None:
    """Spatial loops outside, except the innermost, which is vectorised inside the reduction."""
    spatial, reduced = split_loops(sch, name)
    loops = sch.get_loops(name)
    work = math.prod(extent_of(sch, loop) for loop in loops)
    inner = []
    if spatial and extent_of(sch, spatial[-1]) > 1:
        lanes = target.lanes(element_bits(sch, name))
        last = spatial.pop()
        if extent_of(sch, last) > lanes:
            chunk, last = sch.split(last, [None, lanes])
            spatial.append(chunk)
            partition(sch, chunk, last)
        inner = [last]
    sch.reorder(*spatial, *reduced, *inner)
    if spatial:
        _parallel(sch, name, work)
    for loop in inner:
        sch.vectorize(loop)
    sch.decompose_reduction(name, reduced[0])


def _is_pointwise(sch: Any, name: str) -> bool:
    """Whether every buffer that the block touches is accessed at the block's own index, or is a single element."""
    stmt = sch.get(sch.get_sblock(name))
    shape = [int(iv.dom.extent) for iv in stmt.iter_vars]
    variables = [iv.var for iv in stmt.iter_vars]
    for access in [*stmt.reads, *stmt.writes]:
        extents = [int(e) for e in access.source.shape]
        if all(e == 1 for e in extents):
            continue
        if extents != shape or not all(_is_point(r, v) for r, v in zip(access.region, variables, strict=True)):
            return False
    return True


def _is_point(region: Any, variable: Any) -> bool:
    return bool(region.min.same_as(variable)) and int(region.extent) == 1 if _is_int(region.extent) else False


def _is_int(value: Any) -> bool:
    return isinstance(value, tirx.IntImm)
