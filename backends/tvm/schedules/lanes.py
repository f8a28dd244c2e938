"""The template of reductions that keep the innermost axis: pooling, depthwise convolution, sums over rows.

for outer, channel chunk:                parallel
for pixel tile:
acc[pixels, vectors] = identity      unrolled, in registers
for reduction axes:
acc[...] = combine(acc, x[...])    vectorised over the channels
y[...] = epilogue(acc[...])
"""

from __future__ import annotations

from typing import Any

from lepton_compiler.backends.tvm.choice import Choice
from lepton_compiler.backends.tvm.schedules import kinds, tiling
from lepton_compiler.backends.tvm.schedules.epilogue import place_followers
from lepton_compiler.backends.tvm.schedules.loops import Nest, element_bits, extent_of, parallelize, partition, work_of
from lepton_compiler.backends.tvm.schedules.tile import unroll_tile
from lepton_compiler.target import Target

CHAINS = 8
"""Accumulators per tile: they hide latency, and neighbouring pixels of a depthwise convolution share loads."""
UNROLLED_TAPS = 7
"""Filter columns up to which they are unrolled, so that neighbouring pixels share the elements that they load."""


def schedule_lanes(sch: Any, name: str, epilogue: list[str], target: Target, choice: Choice) -> None:
    """Schedule the reduction `name` and the blocks of its `epilogue`, as `canonical_epilogue` found them."""
    nest = Nest.of(sch, name)
    depthwise = kinds.KIND in sch.get(sch.get_sblock(name)).annotations
    lanes = target.lanes(element_bits(sch, name))
    work = work_of(sch, name)
    *outer, channel = nest.spatial
    channels = extent_of(sch, channel)
    vectors = choice.vectors or next(v for v in ((2, 1) if depthwise else (4, 2, 1)) if v == 1 or channels % (v * lanes) == 0)
    chunk, vector, lane = sch.split(channel, [None, vectors, min(lanes, channels)])
    if channels > lanes and channels % lanes:
        partition(sch, chunk, lane)
    pixel = outer.pop() if outer else sch.add_unit_loop(chunk)
    most = (2 if target.small else CHAINS) // vectors if depthwise else 1
    pixels = min(choice.pixels, extent_of(sch, pixel)) if choice.pixels else tiling.even_blocks(extent_of(sch, pixel), most)
    tile, pixel_in = sch.split(pixel, [None, pixels])
    sch.reorder(*outer, chunk, tile, *nest.reduced, pixel_in, vector, lane)
    if extent_of(sch, tile) > 1:
        partition(sch, tile)
    place_followers(sch, epilogue, tile, lanes)
    parallelize(sch, [*outer, chunk], work, [tile])
    if depthwise and extent_of(sch, nest.reduced[-1]) <= UNROLLED_TAPS:
        sch.unroll(nest.reduced[-1])
    unroll_tile(sch, name, nest.reduced[0], [pixel_in, vector], lane)
