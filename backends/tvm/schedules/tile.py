"""The template of matrix-multiplication-like kernels: a register tile of pixels x vectors, epilogue included.

for outer, row block, channel block: parallel
for row, pixel tile:
acc[pixels, vectors] = 0             unrolled, in registers
for reduction axes:                  rolled: unrolling makes LLVM spill
acc[...] += broadcast(x) * w       unrolled
y[...] = epilogue(acc[...])          unrolled
"""

from __future__ import annotations

import math
from typing import Any

from tvm import s_tir, tirx

from lepton_compiler.backends.tvm.choice import Choice
from lepton_compiler.backends.tvm.schedules import kinds, tiling
from lepton_compiler.backends.tvm.schedules.epilogue import place_followers, ragged_tail
from lepton_compiler.backends.tvm.schedules.loops import Nest, extent_of, partition, set_parallel
from lepton_compiler.backends.tvm.schedules.prefetch import prefetch_next_block
from lepton_compiler.target import Target

PARALLEL_BLOCKS = 8
"""Blocks that every kernel has, so that threads get equal shares."""


def schedule_tile(sch: Any, name: str, epilogue: list[str], target: Target, choice: Choice) -> None:
    """Schedule the block `name` and the blocks of its `epilogue`, as `canonical_epilogue` found them."""
    nest = Nest.of(sch, name)
    *outer, pixel, channel, lane = nest.spatial
    lanes = min(target.lanes(tiling.ACC_BITS), extent_of(sch, lane))
    vectors = extent_of(sch, lane) // lanes
    rows, row_bytes, weight_bytes = _footprint(sch, name)
    others = math.prod(extent_of(sch, loop) for loop in [*outer[: -1 if len(outer) > 1 else None], channel])
    fitting = min(tiling.row_block(rows, row_bytes, weight_bytes, target), max(1, rows * others // PARALLEL_BLOCKS))
    per_block = min(choice.rows, rows) if choice.rows else fitting
    vector, lane_in = sch.split(lane, [None, lanes])
    if len(outer) > 1 and extent_of(sch, outer[-1]) > 1:
        width = extent_of(sch, pixel)
        pixels = min(choice.pixels, width) if choice.pixels else tiling.pixel_tile(width, vectors, target)
        tile, pixel_in = sch.split(pixel, [None, pixels])
        row_out, row_in = sch.split(outer.pop(), [None, tiling.even_blocks(rows, per_block)])
        inner = [row_in, tile]
    else:
        pixels, tiles = tiling.blocked_pixel_tile(rows, per_block, vectors, target, choice.pixels)
        row_out, tile, pixel_in = sch.split(pixel, [None, tiles, pixels])
        inner = [tile]
    # rows of all groups together: threads that write channels of the same pixels would contend for cache lines
    shared = [*outer[:-1], row_out, outer[-1]] if len(outer) > 1 else [*outer, row_out]
    sch.reorder(*shared, channel, *inner, *nest.reduced, pixel_in, vector, lane_in)
    tail = ragged_tail(sch, epilogue, lanes)
    place_followers(sch, epilogue, tile, lanes)
    partition(sch, tile)
    if tail and extent_of(sch, channel) > 1:
        partition(sch, channel)
        candidates = [sch.fuse(*shared), channel]
    else:
        candidates = [sch.fuse(*shared, channel), *inner]
    if wide := [loop for loop in candidates if extent_of(sch, loop) > 1]:
        set_parallel(sch, wide[0])
    unroll_tile(sch, name, nest.reduced[0], [pixel_in, vector], lane_in)
    if choice.prefetch != 0:
        prefetch_next_block(sch, name + "_update", nest.reduced[-1], inner, pixels, target)
    if choice.unroll and choice.unroll > 1:
        unroll_reduction(sch, nest.reduced[-1], choice.unroll)


def unroll_reduction(sch: Any, loop: Any, steps: int) -> None:
    """Do `steps` steps of the reduction `loop` in one iteration, where they divide its extent."""
    extent = extent_of(sch, loop)
    if extent % steps == 0 and extent > steps:
        _, step = sch.split(loop, [None, steps])
        sch.unroll(step)


def unroll_tile(sch: Any, name: str, reduction: Any, unrolled: list[Any], lane: Any) -> None:
    """Keep the tile of the accumulation `name` in registers: its loops unrolled and vectorised, set to zero before `reduction`."""
    if extent_of(sch, lane) > 1:
        sch.vectorize(lane)
    for loop in unrolled:
        sch.unroll(loop)
    init = sch.decompose_reduction(name, reduction)
    skip_outside_rows(sch, name + "_update")
    *_, vector = sch.get_loops(init)
    if extent_of(sch, vector) > 1:
        sch.vectorize(vector)
    for loop in sch.get_loops(init)[-1 - len(unrolled) : -1]:
        sch.unroll(loop)


def _footprint(sch: Any, name: str) -> tuple[int, int, int]:
    """(pixel rows, bytes of input per row, bytes of all weights) of the multiplication in the block `name`."""
    block = sch.get(sch.get_sblock(name))
    spatial = [int(iv.dom.extent) for iv in block.iter_vars if iv.iter_type == tirx.IterVar.DataPar]
    depth = math.prod(int(iv.dom.extent) for iv in block.iter_vars if iv.iter_type != tirx.IterVar.DataPar)
    *outer, pixel, blocks, lane = spatial
    rows = outer[-1] if len(outer) > 1 and outer[-1] > 1 else pixel
    written = block.writes[0].source.name
    left = next(access for access in block.reads if access.source.name != written)
    size = math.prod(int(e) for e in left.source.shape)
    return rows, 4 * max(1, size // (rows * math.prod(outer[:-1]))), 4 * depth * blocks * lane


def skip_outside_rows(sch: Any, name: str) -> None:
    """Run the update block `name` only for filter rows that meet the image, where the block says which those are.

    The body already reads zero outside; the condition, hoisted out of the inner loops, saves the work and the tests.
    """
    block = sch.get(sch.get_sblock(name))
    if kinds.ROWS_INSIDE not in block.annotations:
        return
    row, tap, stride, dilation, pad, extent = (int(v) for v in block.annotations[kinds.ROWS_INSIDE])
    innermost = sch.get_loops(name)[-1]
    loop = sch.get(innermost)
    realize = loop.body
    at = realize.iter_values[row] * stride + realize.iter_values[tap] * dilation - pad
    guarded = s_tir.SBlockRealize(realize.iter_values, tirx.all(realize.predicate, at >= 0, at < extent), block)
    body = tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, guarded, annotations=loop.annotations)
    sch.state.replace(sch.get_sref(innermost), body, {block: block})
