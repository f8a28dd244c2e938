"""Schedules: from a `PrimFunc` as TE made it to loops that are tiled, vectorised, unrolled and parallel.

`schedule` inlines what can be inlined, hands the blocks that compute definitions marked (see `kinds`) to their
templates, and chooses by structure for the rest: chains of blocks that share rows, reductions, element-wise blocks.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import s_tir

from lepton_compiler.backends.tvm.choice import ANALYTIC, Choice
from lepton_compiler.backends.tvm.schedules.elementwise import schedule_elementwise
from lepton_compiler.backends.tvm.schedules.epilogue import canonical_epilogue, separate_heavy
from lepton_compiler.backends.tvm.schedules.kinds import KIND, TILE
from lepton_compiler.backends.tvm.schedules.lanes import schedule_lanes
from lepton_compiler.backends.tvm.schedules.loops import is_reduction, reduces_last_axis, writes_parameter
from lepton_compiler.backends.tvm.schedules.rows import schedule_rows, shared_rows
from lepton_compiler.backends.tvm.schedules.tile import schedule_tile
from lepton_compiler.backends.tvm.schedules.tiling import n_block, oc_block
from lepton_compiler.target import Target

__all__ = ["n_block", "oc_block", "schedule"]


def schedule(func: Any, target: Target, choice: Choice = ANALYTIC) -> Any:
    """Schedule a `PrimFunc` from `te.create_prim_func` for `target`; returns the scheduled `PrimFunc`.

    A lone procedure (`lower.procedure`) has its loops already.
    """
    if func.body.block.name_hint != "root":
        return func
    sch = _schedule_of(tvm.IRModule({"main": func}))
    anchors = {name: _kind(sch, name) for name in _blocks(sch) if _kind(sch, name)}
    procedures = {name for name in _blocks(sch) if _is_procedure(sch, name)}
    _inline(sch, anchors.keys() | procedures)
    epilogues: dict[str, list[str]] = {}
    for name in [name for name in _blocks(sch) if name in anchors or _keeps_last_axis(sch, name)]:
        lane = int(sch.get(sch.get_sblock(name)).writes[0].source.shape[-1]) if anchors.get(name) == TILE else None
        epilogues[name] = separate_heavy(sch, name, canonical_epilogue(sch, name, lane))
    sch = _schedule_of(tvm.ir.transform.Sequential([s_tir.transform.ConvertSSA(), s_tir.transform.StmtSimplify()])(sch.mod))
    names = _blocks(sch)
    taken = {follower for followers in epilogues.values() for follower in followers}
    for name in names:
        if name not in taken and not sch.get_loops(name):
            sch.add_unit_loop(sch.get_sblock(name))  # `rfactor` wants every block of its scope inside a loop
    shared = shared_rows(sch, names) if not anchors and not procedures and len(names) > 1 else 0
    if shared:
        schedule_rows(sch, names, shared, target)
        return sch.mod["main"]
    for name in names:
        if name in epilogues:
            template = schedule_tile if anchors.get(name) == TILE else schedule_lanes
            template(sch, name, epilogues[name], target, choice)
        elif name not in taken and is_reduction(sch, name):
            schedule_rows(sch, [name], shared_rows(sch, [name]), target)
        elif name not in taken and name not in procedures:
            schedule_elementwise(sch, name, target)
    return sch.mod["main"]


def _schedule_of(module: Any) -> Any:
    return s_tir.Schedule(module, debug_mask="none", error_render_level="detail")


def _blocks(sch: Any) -> list[str]:
    return [sch.get(b).name_hint for b in sch.get_child_blocks(sch.get_sblock("root"))]


def _kind(sch: Any, name: str) -> str:
    return str(sch.get(sch.get_sblock(name)).annotations.get(KIND, ""))


def _is_procedure(sch: Any, name: str) -> bool:
    """Whether the block is a procedure: TVM does not know what it reads and writes."""
    block = sch.get(sch.get_sblock(name))
    return not block.reads and not block.writes


def _keeps_last_axis(sch: Any, name: str) -> bool:
    """Whether the block is a reduction with a single result that is vectorised over an axis that it keeps."""
    writes = sch.get(sch.get_sblock(name)).writes
    return is_reduction(sch, name) and len(writes) == 1 and len(writes[0].source.shape) > 0 and not reduces_last_axis(sch, name)


def _inline(sch: Any, anchors: set[str]) -> None:
    """Inline the element-wise stages that are neither results nor follow an anchor, which inlines its own epilogue; no procedures."""
    for name in _blocks(sch):
        if name in anchors or writes_parameter(sch, name) or is_reduction(sch, name):
            continue
        if not _follows(sch, name, anchors):
            sch.compute_inline(name)


def _follows(sch: Any, name: str, anchors: set[str]) -> bool:
    pending = list(sch.get_producers(name))
    while pending:
        block = pending.pop()
        if sch.get(block).name_hint in anchors:
            return True
        pending += sch.get_producers(block)
    return False
