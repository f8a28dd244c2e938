"""What schedules ask of loops and blocks, and vectorisation with exact tails."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.analysis import undefined_vars

PARTITION = "pragma_loop_partition_hint"
"""Makes TVM's `LoopPartition` peel the iterations in which a condition on the loop can fail."""

PARALLEL_CHUNKS = 64
"""Iterations that are enough to share among threads."""

PARALLEL_WORK = 4 << 10
"""Elements below which a loop is not worth handing to several threads, whatever is computed."""


@dataclass(frozen=True)
class Nest:
    """The loops of a block that has not been scheduled, outermost first."""

    spatial: list[Any]
    reduced: list[Any]

    @staticmethod
    def of(sch: Any, name: str) -> Nest:
        """The loops of the block `name`, by what they bind."""
        kinds = [iv.iter_type for iv in sch.get(sch.get_sblock(name)).iter_vars]
        pairs = list(zip(sch.get_loops(name), kinds, strict=True))
        return Nest([at for at, kind in pairs if kind == tirx.IterVar.DataPar], [at for at, kind in pairs if kind != tirx.IterVar.DataPar])


def extent_of(sch: Any, loop: Any) -> int:
    """Trip count of a loop: shapes are static, so it is always known."""
    return int(sch.get(loop).extent)


def loops_inside(sch: Any, name: str, loop: Any) -> list[Any]:
    """The loops around the block `name` that are inside `loop`."""
    loops = sch.get_loops(name)
    variable = sch.get(loop).loop_var
    return list(loops[1 + next(k for k, at in enumerate(loops) if sch.get(at).loop_var.same_as(variable)) :])


def work_of(sch: Any, name: str) -> int:
    """How many times the body of the block `name` runs."""
    return math.prod(int(iv.dom.extent) for iv in sch.get(sch.get_sblock(name)).iter_vars)


def is_reduction(sch: Any, name: str) -> bool:
    """Whether the block `name` has reduction axes."""
    return any(iv.iter_type == tirx.IterVar.CommReduce for iv in sch.get(sch.get_sblock(name)).iter_vars)


def reduces_last_axis(sch: Any, name: str) -> bool:
    """Whether the innermost axis of what the reduction `name` reads is one that it reduces over."""
    block = sch.get(sch.get_sblock(name))
    reduced = [iv.var for iv in block.iter_vars if iv.iter_type == tirx.IterVar.CommReduce]
    written = {access.source.name for access in block.writes}
    sizes = [(math.prod(int(e) for e in a.source.shape), a) for a in block.reads if a.source.name not in written and len(a.region)]
    if not sizes:
        return True
    largest = max(sizes, key=lambda pair: pair[0])[1]
    used = undefined_vars(largest.region[-1].min)
    return any(var.same_as(other) for var in used for other in reduced)


def partition(sch: Any, *loops: Any) -> None:
    """Peel the tails of `loops`, which a split left with a condition: the main part and the tail become branch-free."""
    for loop in loops:
        sch.annotate(loop, PARTITION, True)


def vectorize(sch: Any, loop: Any, lanes: int) -> None:
    """`loop` of any extent as whole vectors followed by one shorter vector."""
    extent = extent_of(sch, loop)
    if extent > lanes:
        outer, loop = sch.split(loop, [None, lanes])
        if extent % lanes:
            partition(sch, outer)
        if extent % lanes > 1:
            partition(sch, loop)
    if extent > 1:
        sch.vectorize(loop)


def parallelize(sch: Any, loops: list[Any], work: int, otherwise: Sequence[Any] = ()) -> None:
    """Run `loops`, the outermost ones and all spatial, in parallel, where `work` makes it worth while.

    As many of the outer ones are joined as it takes to have chunks enough. A loop whose tail is peeled remains alone.
    Where they have one iteration only, it is the first of the loops inside that has more, `otherwise` included.
    """
    if work < PARALLEL_WORK:
        return
    taken: list[Any] = []
    for loop in loops:
        if PARTITION in sch.get(loop).annotations or math.prod(extent_of(sch, at) for at in taken) >= PARALLEL_CHUNKS:
            break
        taken.append(loop)
    if math.prod(extent_of(sch, at) for at in taken) == 1:
        rest = [loop for loop in [*loops[len(taken) :], *otherwise] if extent_of(sch, loop) > 1]
        taken = rest[:1]
    if taken:
        set_parallel(sch, sch.fuse(*taken) if len(taken) > 1 else taken[0])


def set_parallel(sch: Any, loop: Any) -> None:
    """Mark a loop whose iterations are independent: `Schedule.parallel` cannot tell once an accumulation was decomposed."""
    stmt = sch.get(loop)
    marked = tirx.For(stmt.loop_var, stmt.min, stmt.extent, tirx.ForKind.PARALLEL, stmt.body, annotations=stmt.annotations)
    sch.state.replace(sch.get_sref(loop), marked)


def element_bits(sch: Any, name: str) -> int:
    """Width of the widest element that the block reads or writes."""
    stmt = sch.get(sch.get_sblock(name))
    return max((bits_of(access.source.dtype) for access in [*stmt.reads, *stmt.writes]), default=32)


def lane_bits(sch: Any, name: str) -> int:
    """Width of the elements of which an element-wise block computes a vector at once.

    The widest, but of 32-bit numbers that end in bytes a whole vector of bytes: narrowed together they take half of the instructions.
    """
    stmt = sch.get(sch.get_sblock(name))
    written = max((bits_of(access.source.dtype) for access in stmt.writes), default=32)
    widest = element_bits(sch, name)
    return written if written == 8 and widest == 32 else widest


def bits_of(dtype: Any) -> int:
    """Bits in memory of an element: `bool` takes a byte."""
    digits = "".join(character for character in str(dtype) if character.isdigit())
    return max(8, int(digits or 8))


def writes_parameter(sch: Any, name: str) -> bool:
    """Whether the block `name` writes a parameter of the function, not an intermediate buffer."""
    parameters = sch.mod["main"].params
    return any(access.source.same_as(p) for access in sch.get(sch.get_sblock(name)).writes for p in parameters)
