"""Prefetching of packed weights: while one block of them is multiplied, the next one comes from memory.

Weights of a layer are read once per run, in order, and mostly come from beyond the level-2 cache. A register tile takes too few loads from
them for the hardware to run ahead, which it does not do across pages anyway. So each step of a tile's reduction also asks for
a line or two of the block of weights that follows in memory. The tiles of a block share the work: in all, they ask for each line once.
Behind the last block lies what the artefact keeps next, as a rule the weights of the layer that runs next. A prefetch never faults.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.analysis import undefined_vars

from lepton_compiler.backends.tvm.schedules.loops import extent_of
from lepton_compiler.target import Target

LINE = 64
"""Bytes of a cache line, on all targets there are."""
INTO_LEVEL_2, READ, DATA = 2, 0, 1
"""Operands of LLVM's prefetch: locality, kind of access, cache."""


@dataclass(frozen=True)
class Ahead:
    """What to prefetch in each step of a reduction.

    Attributes:
        lines: cache lines of a step of the block.
        per_step: how many of them one tile asks for.
    """

    lines: int
    per_step: int

    def lines_at(self, turn: Any) -> list[Any]:
        """The lines, of those of a step, that the tile number `turn` of a block asks for."""
        if self.per_step == self.lines:
            return [tirx.const(k, "int32") for k in range(self.lines)]
        return [tirx.floormod(turn * self.per_step + k, self.lines) for k in range(self.per_step)]


def plan_prefetch(lane_bytes: int, depth: int, tiles: int, blocks: int, target: Target) -> Ahead | None:
    """How the `tiles` that use a block of weights, `depth` rows of `lane_bytes`, share the prefetching of the next; None if they should not.

    A block that would drive its predecessor out of level 2 is not fetched ahead, nor is a matrix that is level 1's concern.
    """
    block = lane_bytes * depth
    if blocks * block <= target.l1_bytes // 2 or 2 * block > target.l2_bytes:
        return None
    lines = -(-lane_bytes // LINE)
    return Ahead(lines, -(-lines // tiles))


def prefetch_next_block(sch: Any, name: str, reduction: Any, tile: Any, rows: Sequence[Any], target: Target) -> None:
    """Let the accumulation `name`, scheduled by the tile template, prefetch.

    Args:
        sch: the schedule.
        name: the update block of the accumulation, whose spatial axes end in (block of columns, lane).
        reduction: the innermost reduction loop, around the register tile.
        tile: the loop over register tiles.
        rows: loops around `tile` that use the same block of weights.
        target: the machine.
    """
    loop = sch.get(reduction)
    block = sch.get(sch.get_sblock(name))
    weights = _weights(block)
    if weights is None:
        return
    spatial = [iv for iv in block.iter_vars if iv.iter_type == tirx.IterVar.DataPar]
    depth = math.prod(int(iv.dom.extent) for iv in block.iter_vars if iv.iter_type != tirx.IterVar.DataPar)
    column, lane = spatial[-2], spatial[-1]
    tiles = math.prod(extent_of(sch, at) for at in (*rows, tile))
    ahead = plan_prefetch(4 * int(lane.dom.extent), depth, tiles, int(column.dom.extent), target)
    if ahead is None:
        return
    realize = sch.get(sch.get_loops(name)[-1]).body
    values = {iv.var: value for iv, value in zip(block.iter_vars, realize.iter_values, strict=True)}
    values[column.var] = values[column.var] + 1
    where = tirx.IndexMap(list(values), [r.min for r in weights.region], None)
    turn = _turn(sch, [*rows, tile])
    calls = []
    for line in ahead.lines_at(turn):
        values[lane.var] = line * (LINE // 4)
        calls.append(tirx.Evaluate(prefetch(tirx.BufferLoad(weights.source, list(where.map_indices(list(values.values())))))))
    body = tirx.SeqStmt([*calls, loop.body])
    replaced = tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, body, annotations=loop.annotations)
    sch.state.replace(sch.get_sref(reduction), replaced)


def _weights(block: Any) -> Any:
    """The operand that the lane axis runs along, of 4-byte elements; None if there is none."""
    lane = [iv for iv in block.iter_vars if iv.iter_type == tirx.IterVar.DataPar][-1].var
    written = {access.source.name for access in block.writes}
    for access in block.reads:
        if access.source.name not in written and any(v.same_as(lane) for v in undefined_vars(access.region[-1].min)):
            return access
    return None


def _turn(sch: Any, loops: Sequence[Any]) -> Any:
    """The number of the tile within its block."""
    number: Any = tirx.const(0, "int32")
    for at in loops:
        number = number * extent_of(sch, at) + sch.get(at).loop_var
    return number


def prefetch(element: Any) -> Any:
    """The call that brings the line of an element, a load from a buffer, into level 2."""
    arguments = [tirx.const(value, "int32") for value in (READ, INTO_LEVEL_2, DATA)]
    return tirx.call_llvm_intrin("void", "llvm.prefetch", tirx.address_of(element), *arguments)
