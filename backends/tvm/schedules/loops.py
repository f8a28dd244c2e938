"""What schedules ask of loops and blocks, and vectorisation with exact tails."""

from __future__ import annotations

from typing import Any

from tvm import tirx

PARTITION = "pragma_loop_partition_hint"
"""Makes TVM's `LoopPartition` peel the iterations in which a condition on the loop can fail."""


def extent_of(sch: Any, loop: Any) -> int:
    """Trip count of a loop: shapes are static, so it is always known."""
    return int(sch.get(loop).extent)


def is_reduction(sch: Any, name: str) -> bool:
    """Whether the block `name` has reduction axes."""
    return any(iv.iter_type == tirx.IterVar.CommReduce for iv in sch.get(sch.get_sblock(name)).iter_vars)


def split_loops(sch: Any, name: str) -> tuple[list[Any], list[Any]]:
    """The (spatial, reduction) loops of an unscheduled block."""
    kinds = [iv.iter_type for iv in sch.get(sch.get_sblock(name)).iter_vars]
    loops = sch.get_loops(name)
    pairs = list(zip(loops, kinds, strict=True))
    return [at for at, kind in pairs if kind == tirx.IterVar.DataPar], [at for at, kind in pairs if kind != tirx.IterVar.DataPar]


def partition(sch: Any, *loops: Any) -> None:
    """Peel the tails of `loops`, which a split left with a condition: the main part and the tail become branch-free."""
    for loop in loops:
        sch.annotate(loop, PARTITION, True)


def vectorize(sch: Any, loop: Any, lanes: int) -> None:
    """`loop` of any extent as whole vectors followed by one shorter vector."""
    extent = extent_of(sch, loop)
    if extent <= lanes:
        sch.vectorize(loop)
        return
    outer, vector = sch.split(loop, [None, lanes])
    if extent % lanes:
        partition(sch, outer, vector)
    sch.vectorize(vector)


def element_bits(sch: Any, name: str) -> int:
    """Width of the widest element that the block reads or writes."""
    stmt = sch.get(sch.get_sblock(name))
    return max((bits_of(access.source.dtype) for access in [*stmt.reads, *stmt.writes]), default=32)


def bits_of(dtype: Any) -> int:
    """Bits in memory of an element: `bool` takes a byte."""
    digits = "".join(character for character in str(dtype) if character.isdigit())
    return max(8, int(digits or 8))
