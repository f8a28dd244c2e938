"""Epilogues: the element-wise stages after an accumulation, made to share its register tile.

The stages are inlined into each other, and the blocks that remain (one per result of the kernel) get their loops
in the order of the accumulator's axes, whatever reshape or transposition they end in. After that, a template only has to
place them with `reverse_compute_at`. Stages that are no rearrangement of the accumulator (a slice, an upsampling, another
reduction) are not part of the epilogue: what they read is stored first.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx
from tvm.sym.iter_affine_map import IterMapLevel, detect_iter_map

from lepton_compiler.backends.tvm import outline
from lepton_compiler.backends.tvm.schedules import kinds
from lepton_compiler.backends.tvm.schedules.loops import extent_of, is_reduction, loops_inside, partition, writes_parameter

HEAVY = 24
"""Operations per element from which an epilogue is a loop over the tile instead of straight code."""


def canonical_epilogue(sch: Any, name: str, lane: int | None) -> list[str]:
    """Inline the stages after the accumulation `name`, reorder the blocks that remain of them; returns their names.

    Args:
        sch: the schedule.
        name: the block that accumulates.
        lane: extent of the innermost axis where the last two axes of the accumulator are one axis in blocks.
    """
    _detach_results(sch, name, _conforming(sch, name, lane))
    maps = _conforming(sch, name, lane)
    taken = []
    for follower, index_map in maps.items():
        consumers = {sch.get(b).name_hint for b in sch.get_consumers(follower)}
        if consumers and consumers <= maps.keys() and not writes_parameter(sch, follower):
            sch.compute_inline(follower)
        else:
            sch.transform_block_layout(follower, index_map)
            taken.append(follower)
    return taken


def _detach_results(sch: Any, accumulation: str, maps: dict[str, Any]) -> None:
    """Let stages that follow a result of the kernel compute it again instead of reading it back: all depend on the accumulator."""
    for name in (accumulation, *maps):
        consumers = [b for b in sch.get_consumers(name) if sch.get(b).name_hint in maps]
        if writes_parameter(sch, name) and (consumers or name == accumulation):
            sch.cache_write(name, 0, "global", consumer_blocks=consumers or None)


def _conforming(sch: Any, name: str, lane: int | None) -> dict[str, Any]:
    """The blocks after `name` whose elements are those of the accumulator, rearranged; and their maps to its axes."""
    maps: dict[str, Any] = {}
    buffers: dict[str, Any] = {sch.get(sch.get_sblock(name)).writes[0].source.name: None}
    downstream = _downstream(sch, name)
    for follower in downstream:
        producers = {sch.get(b).name_hint for b in sch.get_producers(follower)} & {name, *downstream}
        index_map = _map_to_accumulator(sch, follower, buffers, lane)
        if index_map is None or not producers <= {name, *maps} or is_reduction(sch, follower):
            continue
        maps[follower] = index_map
        buffers[sch.get(sch.get_sblock(follower)).writes[0].source.name] = index_map
    return maps


def _downstream(sch: Any, name: str) -> list[str]:
    """The blocks that depend on the block `name`, in their order in the function."""
    found = {name}
    order = [sch.get(b).name_hint for b in sch.get_child_blocks(sch.get_sblock("root"))]
    for block in order[order.index(name) + 1 :]:
        if any(sch.get(p).name_hint in found for p in sch.get_producers(block)):
            found.add(block)
    return [block for block in order if block in found and block != name]


def _map_to_accumulator(sch: Any, name: str, buffers: dict[str, Any], lane: int | None) -> Any:
    """The map from the loops of the block `name` to the accumulator's axes; None if it is not one to one."""
    stmt = sch.get(sch.get_sblock(name))
    result: Any = None
    analyzer = tvm.sym.Analyzer()
    for iv in stmt.iter_vars:
        analyzer.bind(iv.var, iv.dom)
    for access in stmt.reads:
        if access.source.name not in buffers:
            continue
        if any(not isinstance(r.extent, tirx.IntImm) or int(r.extent) != 1 for r in access.region):
            return None
        index = [r.min for r in access.region]
        before = buffers[access.source.name]
        if before is not None:
            index = list(before.map_indices(index))
        elif lane is not None:
            index = [*index[:-2], index[-2] * lane + index[-1]]
        index = [analyzer.simplify(e) for e in index]
        if result is not None and not all(analyzer.can_prove_equal(a, b) for a, b in zip(result, index, strict=True)):
            return None
        result = index
    if result is None or not _is_rearrangement(result, stmt.iter_vars):
        return None
    return tirx.IndexMap([iv.var for iv in stmt.iter_vars], result, None)


def _is_rearrangement(index: list[Any], axes: Any) -> bool:
    """Whether `index` takes each value of a box at zero exactly once as `axes` run over their domains."""
    domains = {iv.var: iv.dom for iv in axes}
    found = detect_iter_map(index, domains, check_level=IterMapLevel.Bijective).indices
    return len(found) == len(index) and all(int(part.base) == 0 for part in found if isinstance(part.base, tirx.IntImm))


def ragged_tail(sch: Any, names: list[str], lanes: int) -> int:
    """Channels in the last, partly filled vector of the blocks `names`; 0 if all vectors are full."""
    return max((int(sch.get(sch.get_sblock(name)).iter_vars[-1].dom.extent) % lanes for name in names), default=0)


def separate_heavy(sch: Any, name: str, epilogue: list[str]) -> list[str]:
    """Put a copy of the tile between the accumulation `name` and a long epilogue; returns the epilogue with the copy.

    The long epilogue becomes a loop over the tile. The accumulator itself must not be indexed by a loop: LLVM would keep it
    in memory all the time.
    """
    if not any(_is_heavy(sch, follower) for follower in epilogue):
        return epilogue
    copy = sch.get(sch.cache_write(name, 0, "global")).name_hint
    sch.annotate(sch.get_sblock(copy), kinds.COPY, True)
    return [copy, *epilogue]


def _is_heavy(sch: Any, name: str) -> bool:
    return operations(sch.get(sch.get_sblock(name)).body.value, HEAVY) >= HEAVY


def place_followers(sch: Any, names: list[str], loop: Any, lanes: int) -> None:
    """Compute the blocks `names` at `loop`, the innermost around a register tile: pixels unrolled, channels vectorised."""
    for name in names:
        tail = ragged_tail(sch, [name], lanes)
        sch.reverse_compute_at(name, loop, preserve_unit_loops=True)
        copy = kinds.COPY in sch.get(sch.get_sblock(name)).annotations
        unroll = copy or not _is_heavy(sch, name)
        *outer, channel = loops_inside(sch, name, loop)
        if extent_of(sch, channel) > lanes:
            vector, channel = sch.split(channel, [None, lanes])
            sch.unroll(vector)
            if tail > 1:
                partition(sch, vector)
        if unroll:
            for at in outer:
                sch.unroll(at)
        if tail > 1:
            partition(sch, channel)
        if extent_of(sch, channel) > 1:
            sch.vectorize(channel)


def operations(expression: Any, limit: int) -> int:
    """Number of operations in an expression, counted up to `limit`."""
    count, pending = 0, [expression]
    while pending and count < limit:
        node = pending.pop()
        children = parts(node)
        count += outline.weight(node) if isinstance(node, tvm.ir.Call) and outline.is_outlined(node) else bool(children)
        pending += children
    return count


def parts(node: Any) -> list[Any]:
    """The operands of an expression."""
    if isinstance(node, tirx.Let):
        return [node.value, node.body]
    if isinstance(node, tirx.Select):
        return [node.condition, node.true_value, node.false_value]
    if isinstance(node, tvm.ir.Call):
        return list(node.args)
    if isinstance(node, tirx.Cast | tirx.Not):
        return [node.value if isinstance(node, tirx.Cast) else node.a]
    return [node.a, node.b] if hasattr(node, "a") and hasattr(node, "b") else []
