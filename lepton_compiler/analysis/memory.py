"""The static memory plan: where in one arena each buffer lives, given when it is alive.

Buffers are placed one after another, each at the tightest gap between those that are alive at the same time
(best fit). Several orders are tried; in each, the buffers that end up on top are moved to the front and everything is placed
again, some times over. For small problems an exact search over orders follows. All this ends when the plan meets the lower bound
(the largest total of simultaneously live bytes) or its budget does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

ALIGNMENT = 64
"""Bytes to which every buffer, and the arena itself, is aligned."""

PLACEMENTS = 40_000
"""Placements of single buffers that moving buffers to the front may take, for each order; at least `LEAST_ROUNDS` times all of them."""

LEAST_ROUNDS = 4

EXACT_LIMIT = 24
"""Largest number of buffers for which the exact search runs."""

EXACT_BUDGET = 20_000
"""Placements that the exact search may try."""


@dataclass(frozen=True)
class Interval:
    """A buffer of `size` bytes that is alive from step `start` to step `end`, both included."""

    name: str
    size: int
    start: int
    end: int


@dataclass(frozen=True)
class Plan:
    """Offsets in bytes, in the order of the intervals; the arena's size and what no plan can go below."""

    offsets: tuple[int, ...]
    arena_bytes: int
    lower_bound: int
    peak: tuple[str, ...]
    """Names of the buffers that are alive where the lower bound is reached."""


def align(size: int) -> int:
    """`size` rounded up to a multiple of `ALIGNMENT`."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def plan_memory(intervals: Sequence[Interval]) -> Plan:
    """Offsets for all buffers such that no two that are alive at the same step overlap."""
    sizes = [align(i.size) for i in intervals]
    bound, peak = _lower_bound(intervals, sizes)
    neighbours = _conflicts(intervals)
    crowds = _crowds(intervals, sizes)
    best: list[int] | None = None
    best_size = -1
    orders: list[Callable[[int], tuple[int, ...]]] = [
        lambda i: (-sizes[i], intervals[i].start, i),
        lambda i: (-crowds[i], -sizes[i], i),
        lambda i: (-(intervals[i].end - intervals[i].start), -sizes[i], i),
        lambda i: (-sizes[i] * (intervals[i].end - intervals[i].start + 1), i),
        lambda i: (intervals[i].start, -sizes[i], i),
        lambda i: (-intervals[i].end, -sizes[i], i),
    ]
    for key in orders:
        offsets = _improved(sorted(range(len(intervals)), key=key), sizes, neighbours, bound)
        size = _extent(offsets, sizes)
        if best is None or size < best_size:
            best, best_size = offsets, size
        if best_size == bound:
            break
    assert best is not None
    if best_size > bound and len(intervals) <= EXACT_LIMIT:
        best, best_size = _search(sizes, neighbours, best, best_size, bound)
    return Plan(tuple(best), best_size, bound, peak)


def _lower_bound(intervals: Sequence[Interval], sizes: Sequence[int]) -> tuple[int, tuple[str, ...]]:
    changes: dict[int, int] = {}
    for interval, size in zip(intervals, sizes, strict=True):
        changes[interval.start] = changes.get(interval.start, 0) + size
        changes[interval.end + 1] = changes.get(interval.end + 1, 0) - size
    live = most = at = 0
    for step in sorted(changes):
        live += changes[step]
        if live > most:
            most, at = live, step
    return most, tuple(i.name for i in intervals if i.start <= at <= i.end and i.size)


def _crowds(intervals: Sequence[Interval], sizes: Sequence[int]) -> list[int]:
    """For each buffer, the largest total of live bytes during its life: a sweep, then a sparse table of maxima."""
    changes: dict[int, int] = {}
    for interval, size in zip(intervals, sizes, strict=True):
        changes[interval.start] = changes.get(interval.start, 0) + size
        changes[interval.end + 1] = changes.get(interval.end + 1, 0) - size
    steps = sorted(changes)
    table = [list(accumulate(changes[s] for s in steps))]
    while 2 << len(table) - 1 <= len(steps):
        half, last = 1 << len(table) - 1, table[-1]
        table.append([max(a, b) for a, b in zip(last, last[half:], strict=False)])
    place = {step: k for k, step in enumerate(steps)}
    crowds = []
    for interval in intervals:
        first, last_step = place[interval.start], place[interval.end + 1]
        level = (last_step - first).bit_length() - 1
        crowds.append(max(table[level][first], table[level][last_step - (1 << level)]))
    return crowds


def _conflicts(intervals: Sequence[Interval]) -> list[list[int]]:
    """For each buffer, those alive at the same time: a sweep in order of start."""
    neighbours: list[list[int]] = [[] for _ in intervals]
    active: list[int] = []
    for i in sorted(range(len(intervals)), key=lambda i: intervals[i].start):
        active = [j for j in active if intervals[j].end >= intervals[i].start]
        for j in active:
            neighbours[i].append(j)
            neighbours[j].append(i)
        active.append(i)
    return neighbours


def _fit(i: int, offsets: Sequence[int], sizes: Sequence[int], neighbours: Sequence[Sequence[int]]) -> int:
    """The offset of the smallest gap that holds buffer `i`, else the end of the last placed neighbour."""
    taken = sorted((offsets[j], offsets[j] + sizes[j]) for j in neighbours[i] if offsets[j] >= 0 and sizes[j])
    position, best, slack = 0, -1, -1
    for begin, end in taken:
        gap = begin - position
        if gap >= sizes[i] and (best < 0 or gap < slack):
            best, slack = position, gap
        position = max(position, end)
    return best if best >= 0 else position


def _place(order: Sequence[int], sizes: Sequence[int], neighbours: Sequence[Sequence[int]]) -> list[int]:
    offsets = [-1] * len(sizes)
    for i in order:
        offsets[i] = _fit(i, offsets, sizes, neighbours)
    return offsets


def _improved(order: list[int], sizes: Sequence[int], neighbours: Sequence[Sequence[int]], bound: int) -> list[int]:
    """The best of several placements: after each, what lies on top goes first in the next."""
    best = offsets = _place(order, sizes, neighbours)
    best_size = size = _extent(offsets, sizes)
    for _ in range(max(LEAST_ROUNDS, PLACEMENTS // max(1, len(order)))):
        if best_size <= bound:
            break
        top = {i for i in order if offsets[i] + sizes[i] == size}
        reordered = [*(i for i in order if i in top), *(i for i in order if i not in top)]
        if reordered == order:
            break
        order = reordered
        offsets = _place(order, sizes, neighbours)
        size = _extent(offsets, sizes)
        if size < best_size:
            best, best_size = offsets, size
    return best


def _extent(offsets: Sequence[int], sizes: Sequence[int]) -> int:
    return max((o + s for o, s in zip(offsets, sizes, strict=True)), default=0)


def _search(
    sizes: Sequence[int], neighbours: Sequence[Sequence[int]], best: list[int], best_size: int, bound: int
) -> tuple[list[int], int]:
    """Branch and bound over placement orders, lowest offset first; an order that grows past the best is cut."""
    offsets = [-1] * len(sizes)
    budget = EXACT_BUDGET

    def descend(left: frozenset[int]) -> None:
        nonlocal best, best_size, budget
        if not left:
            best, best_size = list(offsets), _extent(offsets, sizes)
            return
        for offset, i in sorted((_fit(i, offsets, sizes, neighbours), i) for i in left):
            budget -= 1
            if budget < 0 or best_size == bound:
                return
            if offset + sizes[i] < best_size:
                offsets[i] = offset
                descend(left - {i})
                offsets[i] = -1

    descend(frozenset(range(len(sizes))))
    return best, best_size
