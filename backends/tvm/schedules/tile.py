"""The template of matrix-multiplication-like kernels: a register tile of pixels x vectors, epilogue included.

    for outer, row block:            parallel
      for channel block:
        for row, pixel tile:
          acc[pixels, vectors] = 0           unrolled, in registers
          for reduction axes:                rolled: unrolling makes LLVM spill
            acc[...] += broadcast(x) * w     unrolled
          y[...] = epilogue(acc[...])        unrolled
"""

from __future__ import annotations

import math
from typing import Any

import tvm
from tvm import s_tir, tirx

from lepton_compiler.backends.tvm.schedules import kinds, tiling
from lepton_compiler.backends.tvm.schedules.loops import extent_of, partition
from lepton_compiler.target import Target


def schedule_tile(sch: Any, name: str, epilogue: list[str], target: Target, *, parallel: bool) -> None:
    """Schedule the block `name` and the blocks of its `epilogue`, as `canonical_epilogue` found them."""
    block = sch.get_sblock(name)
    kinds = [iv.iter_type for iv in sch.get(block).iter_vars]
    loops = sch.get_loops(block)
    spatial = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == tirx.IterVar.DataPar]
    reduced = [loop for loop, kind in zip(loops, kinds, strict=True) if kind != tirx.IterVar.DataPar]
    *outer, pixel, channel, lane = spatial
    lanes = min(target.lanes(tiling.ACC_BITS), extent_of(sch, lane))
    vectors = extent_of(sch, lane) // lanes
    pixels = tiling.pixel_tile(extent_of(sch, pixel), vectors, target)
    rows, row_bytes, weight_bytes = _footprint(sch, block)
    per_block = tiling.row_block(rows, row_bytes, weight_bytes, target)
    tile, pixel_in = sch.split(pixel, [None, pixels])
    vector, lane_in = sch.split(lane, [None, lanes])
    if len(outer) > 1 and extent_of(sch, outer[-1]) > 1:
        row = outer.pop()
    else:
        row, tile = tile, None
        per_block = max(1, per_block // pixels)
    row_out, row_in = sch.split(row, [None, tiling.even_blocks(extent_of(sch, row), per_block)])
    inner = [loop for loop in (row_in, tile) if loop is not None]
    sch.reorder(*outer, row_out, channel, *inner, *reduced, pixel_in, vector, lane_in)
    for follower in epilogue:
        sch.reverse_compute_at(follower, inner[-1], preserve_unit_loops=True)
        _unroll_follower(sch, follower, lanes)
    if extent_of(sch, pixel_in) > 1:
        sch.annotate(inner[-1], "pragma_loop_partition_hint", True)
    fused = sch.fuse(*outer, row_out, channel)
    if parallel and extent_of(sch, fused) > 1:
        sch.parallel(fused)
    sch.vectorize(lane_in)
    sch.unroll(pixel_in)
    sch.unroll(vector)
    init = sch.decompose_reduction(block, reduced[0])
    skip_outside_rows(sch, name + "_update")
    init_loops = sch.get_loops(init)
    sch.vectorize(init_loops[-1])
    for loop in init_loops[-3:-1]:
        sch.unroll(loop)


def _unroll_follower(sch: Any, name: str, lanes: int) -> None:
    """Order an epilogue block as the tile is: pixels unrolled, channels vectorised."""
    *_, pixel, channel = sch.get_loops(name)
    if extent_of(sch, channel) > lanes:
        vector, channel = sch.split(channel, [None, lanes])
        sch.unroll(vector)
    sch.vectorize(channel)
    sch.unroll(pixel)


def _footprint(sch: Any, block: Any) -> tuple[int, int, int]:
    """(pixel rows, bytes of input per row, bytes of all weights) of the multiplication in `block`."""
    stmt = sch.get(block)
    spatial = [int(iv.dom.extent) for iv in stmt.iter_vars if iv.iter_type == tirx.IterVar.DataPar]
    depth = math.prod(int(iv.dom.extent) for iv in stmt.iter_vars if iv.iter_type != tirx.IterVar.DataPar)
    *outer, pixel, blocks, lane = spatial
    rows = outer[-1] if len(outer) > 1 and outer[-1] > 1 else pixel
    left = [a for a in stmt.reads if a.source.name != stmt.writes[0].source.name][0]
    size = math.prod(int(e) for e in left.source.shape)
    return rows, 4 * max(1, size // (rows * math.prod(outer[:-1]))), 4 * depth * blocks * lane


def canonical_epilogue(sch: Any, name: str) -> list[str]:
    """Inline the stages after `name` and give the blocks that remain the loops (outer..., pixel, channel)."""
    block = sch.get(sch.get_sblock(name))
    acc = block.writes[0].source
    lane = int(acc.shape[-1])
    maps: dict[str, Any] = {acc.name: None}
    taken: list[str] = []
    pending = [sch.get(b).name_hint for b in sch.get_consumers(name)]
    while pending:
        follower = pending.pop(0)
        consumers = [sch.get(b).name_hint for b in sch.get_consumers(follower)]
        if consumers and _is_intermediate(sch, follower):
            sch.compute_inline(follower)
            pending = [*pending, *(c for c in consumers if c not in pending)]
            continue
        maps[sch.get(sch.get_sblock(follower)).writes[0].source.name] = _to_canonical(sch, follower, maps, lane)
        taken.append(follower)
    return taken


def _to_canonical(sch: Any, name: str, maps: dict[str, Any], lane: int) -> Any:
    """Reorder and fuse the loops of the block `name` into the accumulator's order; returns its index map."""
    stmt = sch.get(sch.get_sblock(name))
    variables = [iv.var for iv in stmt.iter_vars]
    access = next(a for a in stmt.reads if a.source.name in maps)
    index = [r.min for r in access.region]
    before = maps[access.source.name]
    analyzer = tvm.sym.Analyzer()
    for iv in stmt.iter_vars:
        analyzer.bind(iv.var, iv.dom)
    final = [*index[:-2], index[-2] * lane + index[-1]] if before is None else before.map_indices(index)
    index_map = tirx.IndexMap(variables, [analyzer.simplify(e) for e in final], None)
    sch.transform_block_layout(name, index_map)
    return index_map


def _is_intermediate(sch: Any, name: str) -> bool:
    """Whether the block `name` writes a buffer that is not a parameter of the function."""
    func = sch.mod["main"]
    written = sch.get(sch.get_sblock(name)).writes[0].source
    return not any(written.same_as(p) for p in func.params)


def skip_outside_rows(sch: Any, name: str) -> None:
    """Run the update block `name` only for filter rows that meet the image, where the block says which those are.

    The body already reads zero outside; the condition, hoisted out of the inner loops, saves the work and the tests.
    """
    block = sch.get(sch.get_sblock(name))
    if kinds.ROWS_INSIDE not in block.annotations:
        return
    row, tap, stride, dilation, pad, extent = (int(v) for v in block.annotations[kinds.ROWS_INSIDE])
    loop = sch.get(sch.get_loops(name)[-1])
    realize = loop.body
    at = realize.iter_values[row] * stride + realize.iter_values[tap] * dilation - pad
    inside = tirx.all(realize.predicate, at >= 0, at < extent)
    guarded = s_tir.SBlockRealize(realize.iter_values, inside, block)
    body = tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, guarded, annotations=loop.annotations)
    sch.state.replace(sch.get_sref(sch.get_loops(name)[-1]), body, {block: block})
