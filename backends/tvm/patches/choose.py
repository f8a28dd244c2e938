"""Which segments of a graph to run in patches, and how many rows at a time: the least work for which the arena is small enough.

A shortest path over the cuts of the graph, whose edges are segments as a whole, or in patches of some number of rows.
Patches of first layers are MCUNetV2's idea (Lin et al. 2021); here any segment, and several of them, can be in patches.
"""

from __future__ import annotations

from dataclasses import dataclass

from lepton_compiler.backends.tvm.patches.chain import Facts, Segment, Split, cuts
from lepton_compiler.backends.tvm.patches.rows import row_count
from lepton_compiler.ir.graph import Graph

LONGEST = 32
"""Most nodes of a segment in patches."""

SEARCH_STEPS = 12
"""Halvings of the interval in which the smallest possible arena lies."""


@dataclass(frozen=True)
class Choice:
    """Segments to run in patches of so many rows, the arena's size that follows, and the work that is done twice."""

    segments: tuple[tuple[Segment, Split], ...]
    peak: int
    extra: int


class Chain:
    """The segments of a graph of static shapes."""

    def __init__(self, graph: Graph) -> None:
        self.nodes, self.cuts = graph.nodes, cuts(graph)
        self.facts = {node: Facts.of(node) for node in self.nodes}
        self._segments: dict[tuple[int, int], Segment] = {}
        self._splits: dict[tuple[int, int, int], Split | None] = {}

    @property
    def peak(self) -> int:
        """The arena without patches."""
        return max((self.segment(k, k + 1).whole.peak for k in range(len(self.cuts) - 1)), default=0)

    def segment(self, first: int, end: int) -> Segment:
        """The nodes between two cuts."""
        if (first, end) not in self._segments:
            (begin, source), (stop, result) = self.cuts[first], self.cuts[end]
            inside = source if source is not None and not source.is_output else None
            self._segments[first, end] = Segment(self.nodes[begin:stop], self.facts, inside, result)
        return self._segments[first, end]

    def choose(self, budget: int) -> Choice | None:
        """The cheapest segments whose arena takes no more than `budget` bytes, or None."""
        best: list[Choice | None] = [Choice((), 0, 0)]
        for end in range(1, len(self.cuts)):
            found = [c for first in range(end) if (c := self._extended(best[first], first, end, budget)) is not None]
            best.append(min(found, key=lambda c: (c.extra, len(c.segments), c.peak), default=None))
        return best[-1]

    def smallest(self, budget: int) -> Choice | None:
        """A choice whose arena is hardly larger than the smallest that patches can reach, where that is more than `budget`."""
        low, high, found = budget, self.peak, None
        for _ in range(SEARCH_STEPS):
            middle = (low + high) // 2
            choice = self.choose(middle)
            if choice is None:
                low = middle
            else:
                found, high = choice, choice.peak
        return found

    def _extended(self, before: Choice | None, first: int, end: int, budget: int) -> Choice | None:
        if before is None:
            return None
        segment = self.segment(first, end)
        if end == first + 1 and segment.whole.peak <= budget:
            return Choice(before.segments, max(before.peak, segment.whole.peak), before.extra)
        split = self._split(first, end, budget)
        if split is None:
            return None
        return Choice((*before.segments, (segment, split)), max(before.peak, split.peak), before.extra + split.extra)

    def _split(self, first: int, end: int, budget: int) -> Split | None:
        """The largest patches of a segment that fit. Only what does not fit as a whole is worth it."""
        segment = self.segment(first, end)
        if len(segment.nodes) > LONGEST or all(self.segment(k, k + 1).whole.peak <= budget for k in range(first, end)):
            return None
        ends = [v for v in (segment.source, segment.result) if v is not None and not v.is_output]
        if sum(v.type.nbytes for v in ends) > budget or not segment.is_divisible:
            return None
        assert segment.result is not None
        count = row_count(segment.result)
        for rows in sorted({-(-count // parts) for parts in range(2, count + 1)}, reverse=True):
            if (first, end, rows) not in self._splits:
                self._splits[first, end, rows] = segment.split(rows)
            split = self._splits[first, end, rows]
            if split is not None and split.peak <= budget:
                return split
        return None
