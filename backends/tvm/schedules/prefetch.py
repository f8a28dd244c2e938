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

from lepton_compiler.backends.tvm.schedules.loops import extent_of
from lepton_compiler.target import Target

LINE = 64
"""Bytes of a cache line, on all targets there are."""
FEWEST_PIXELS = 4
"""Pixels that a block of weights is multiplied with from which its successor is prefetched."""
INTO_LEVEL_2, READ, DATA = 2, 0, 1
"""Operands of LLVM's prefetch: locality, kind of access, cache."""


@dataclass(frozen=True)
class Ahead:
    """How the tiles that use a block of weights share the prefetching of the next one.

    Attributes:
        depth: steps of a tile.
        per_step: lines that are asked for at once.
        repeats: consecutive steps, a power of two, that ask for the same lines.
    """

    depth: int
    per_step: int
    repeats: int

    def lines_at(self, turn: Any, step: Any) -> list[Any]:
        """The lines of the next block that the tile number `turn` asks for in its step number `step`."""
        first = (turn * self.depth + step) // self.repeats * self.per_step
        return [first + k for k in range(self.per_step)]


def plan_prefetch(row_bytes: int, depth: int, tiles: int, pixels: int, blocks: int, target: Target) -> Ahead | None:
    """How tiles of so many pixels share the prefetching of a block of `depth` rows of `row_bytes`, one a step; None if they should not.

    A block that would drive its predecessor out of level 2 is not fetched ahead, nor are weights that level 1 holds. Where hardly anything
    is done with each element, loads alone keep the memory busy, and the hardware sees where they lead. Microcontrollers read flash.
    """
    if target.is_firmware:
        return None
    block = row_bytes * depth
    if tiles * pixels < FEWEST_PIXELS or blocks * block <= target.l1_bytes // 2 or 2 * block > target.l2_bytes:
        return None
    lines = -(-row_bytes // LINE)
    return Ahead(depth, -(-lines // tiles), 1 << max(0, (tiles // lines).bit_length() - 1))


def prefetch_next_block(sch: Any, name: str, reduction: Any, loops: Sequence[Any], pixels: int, target: Target) -> None:
    """Let the accumulation `name`, scheduled by the tile template, prefetch.

    Args:
        sch: the schedule.
        name: the update block of the accumulation, whose spatial axes end in (block of columns, lane).
        reduction: the innermost reduction loop, around the register tile.
        loops: those over register tiles that use the same block of weights, outermost first.
        pixels: of a register tile.
        target: the machine.
    """
    block = sch.get(sch.get_sblock(name))
    weights = _packed_weights(block)
    if weights is None:
        return
    reduced = [iv for iv in block.iter_vars if iv.iter_type != tirx.IterVar.DataPar]
    column, lane = [iv for iv in block.iter_vars if iv.iter_type == tirx.IterVar.DataPar][-2:]
    depth = math.prod(int(iv.dom.extent) for iv in reduced)
    tiles = math.prod(extent_of(sch, at) for at in loops)
    ahead = plan_prefetch(4 * int(lane.dom.extent), depth, tiles, pixels, int(column.dom.extent), target)
    if ahead is None:
        return
    realize = sch.get(sch.get_loops(name)[-1]).body
    values = {iv.var: value for iv, value in zip(block.iter_vars, realize.iter_values, strict=True)}
    step = _flat([(values[iv.var], int(iv.dom.extent)) for iv in reduced])
    turn = _flat([(sch.get(at).loop_var, extent_of(sch, at)) for at in loops])
    values.update({iv.var: tirx.const(0, "int32") for iv in (*reduced, lane)})
    values[column.var] = values[column.var] + 1
    *start, _ = tirx.IndexMap([*values], [r.min for r in weights.region], None).map_indices([*values.values()])
    calls = [tirx.Evaluate(prefetch(tirx.BufferLoad(weights.source, [*start, line * (LINE // 4)]))) for line in ahead.lines_at(turn, step)]
    loop = sch.get(reduction)
    body = tirx.SeqStmt([*calls, loop.body])
    replaced = tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, body, annotations=loop.annotations)
    sch.state.replace(sch.get_sref(reduction), replaced)


def _packed_weights(block: Any) -> Any:
    """The operand of 4-byte elements whose last axis is the lane axis of the accumulation `block`; None if there is none."""
    lane = [iv for iv in block.iter_vars if iv.iter_type == tirx.IterVar.DataPar][-1]
    written = {access.source.name for access in block.writes}
    for access in block.reads:
        if access.source.name in written or str(access.source.dtype) != "float32":
            continue
        if access.region[-1].min.same_as(lane.var) and int(access.source.shape[-1]) == int(lane.dom.extent):
            return access
    return None


def _flat(places: Sequence[tuple[Any, int]]) -> Any:
    """The row-major number of a place, from its index and the extent along each axis."""
    number: Any = tirx.const(0, "int32")
    for index, extent in places:
        number = number * extent + index
    return number


def prefetch(element: Any) -> Any:
    """The call that brings the line of an element, a load from a buffer, into level 2."""
    arguments = [tirx.const(value, "int32") for value in (READ, INTO_LEVEL_2, DATA)]
    return tirx.call_llvm_intrin("void", "llvm.prefetch", tirx.address_of(element), *arguments)
