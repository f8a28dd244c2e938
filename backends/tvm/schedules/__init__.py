"""Schedules: from a `PrimFunc` as TE made it to loops that are tiled, vectorised, unrolled and parallel.

`schedule` looks for the blocks that compute definitions marked (see `kinds`), hands each to its template, and
schedules whatever is left generically.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import s_tir

from lepton_compiler.backends.tvm.schedules import elementwise, kinds, tile
from lepton_compiler.backends.tvm.schedules.loops import is_reduction
from lepton_compiler.backends.tvm.schedules.tiling import n_block, oc_block
from lepton_compiler.target import Target

__all__ = ["n_block", "oc_block", "schedule"]


def schedule(func: Any, target: Target) -> Any:
    """Schedule a `PrimFunc` from `te.create_prim_func` for `target`; returns the scheduled `PrimFunc`."""
    sch = s_tir.Schedule(tvm.IRModule({"main": func}), debug_mask="none", error_render_level="detail")
    outputs = {p.name for p in func.params}
    names = [sch.get(b).name_hint for b in sch.get_child_blocks(sch.get_sblock("root"))]
    done: set[str] = set()
    anchors = [name for name in names if kinds.KIND in sch.get(sch.get_sblock(name)).annotations]
    for name in names:
        block = sch.get(sch.get_sblock(name))
        if name not in anchors and block.writes[0].source.name not in outputs and not is_reduction(sch, name):
            if not any(sch.get(p).name_hint in anchors for p in _ancestors(sch, name)):
                sch.compute_inline(name)
                done.add(name)
    epilogues = {name: tile.canonical_epilogue(sch, name) for name in anchors}
    sch = s_tir.Schedule(s_tir.transform.StmtSimplify()(sch.mod), debug_mask="none", error_render_level="detail")
    for name, epilogue in epilogues.items():
        tile.schedule_tile(sch, name, epilogue, target, parallel=len(anchors) == 1)
        done.update([name, *epilogue])
    left = [sch.get(b).name_hint for b in sch.get_child_blocks(sch.get_sblock("root"))]
    for name in left:
        if name not in done and name in names:
            elementwise.schedule_block(sch, name, target)
    return sch.mod["main"]


def _ancestors(sch: Any, name: str) -> list[Any]:
    found: list[Any] = []
    pending = list(sch.get_producers(name))
    while pending:
        block = pending.pop()
        found.append(block)
        pending += sch.get_producers(block)
    return found
