"""A graph as a chain of segments: between two of them, one value is all that is alive."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from lepton_compiler.analysis.memory import align
from lepton_compiler.backends.tvm.capabilities import is_view
from lepton_compiler.backends.tvm.patches.rows import Demand, Rows, demand, is_image, row_count
from lepton_compiler.backends.tvm.spec import spec_of
from lepton_compiler.ir.graph import Graph, Node, Value


@dataclass(frozen=True)
class Split:
    """A segment in patches of so many rows of its result (0: as a whole): bytes of arena, and work beyond that of the whole."""

    rows: int
    peak: int
    extra: int


@dataclass(eq=False)
class Segment:
    """Nodes from one cut of a graph to another.

    Attributes:
        nodes: in order of execution.
        source: the value that is alive before them, if it lies in the arena.
        result: the value that is alive after them.
    """

    nodes: Sequence[Node]
    source: Value | None
    result: Value | None
    _demands: dict[Rows, Demand | None] = field(default_factory=dict)

    @cached_property
    def whole(self) -> Split:
        """The segment as it is."""
        peak = _peak(
            [(node.present_inputs, node.outputs, {out: align(out.type.nbytes) for out in node.outputs}) for node in self.nodes],
            [v for v in (self.source,) if v is not None],
            self.result,
        )
        return Split(0, peak, 0)

    @property
    def is_divisible(self) -> bool:
        """Whether its result can be computed a few rows at a time."""
        if self.result is None or not self.nodes or self.result is not self.nodes[-1].outputs[0] or not is_image(self.result):
            return False
        inside = {out for node in self.nodes for out in node.outputs} - {self.result}
        return not any(v.is_output for v in inside) and row_count(self.result) > 1 and self.needs((0, 1)) is not None

    def needs(self, rows: Rows) -> Demand | None:
        """What some rows of the result need."""
        assert self.result is not None
        if rows not in self._demands:
            self._demands[rows] = demand(self.nodes, self.result, rows)
        return self._demands[rows]

    def patches(self, rows: int) -> list[Rows]:
        """The result's rows, so many at a time; fewer in the last patch."""
        assert self.result is not None
        count = row_count(self.result)
        return [(first, min(first + rows, count)) for first in range(0, count, rows)]

    def split(self, rows: int) -> Split | None:
        """What patches of so many rows take; None where one of them cannot be computed."""
        peak, total, patches = 0, 0, self.patches(rows)
        for patch in patches:
            found = self.needs(patch)
            if found is None:
                return None
            peak = max(peak, self._peak_of(found))
            total += sum(work_of(node) * _share(node, found) for node in self.nodes)
        extra = total - sum(work_of(node) for node in self.nodes) + CALL * len(self.nodes) * (len(patches) - 1)
        return Split(rows, peak, round(extra))

    def _peak_of(self, found: Demand) -> int:
        """Bytes of arena while one patch is computed: operand and result are there as a whole."""
        assert self.result is not None
        kept = [v for v in (self.source, self.result) if v is not None and not v.is_output]
        sizes = {v: align(v.type.nbytes // row_count(v) * (rows[1] - rows[0])) for v, rows in found.rows.items() if v is not self.result}
        return _peak([(node.present_inputs, node.outputs, sizes) for node in self.nodes], kept, self.result)


CALL = 64
"""Multiply-accumulates for which a call of a kernel stands."""


def work_of(node: Node) -> int:
    """What a node costs, in multiply-accumulates; an element of another operator counts as one."""
    inner = list(node.regions[0]) if node.op.name == "Fused" else [node]
    costs = [n.op.cost([v.type if v else None for v in n.inputs], [o.type for o in n.outputs]) for n in inner]
    return sum(c.macs or n.output.type.size for n, c in zip(inner, costs, strict=True))


def _share(node: Node, found: Demand) -> float:
    first, end = found.rows[node.output]
    return (end - first) / row_count(node.output)


Step = tuple[Sequence[Value], Sequence[Value], dict[Value, int]]
"""What a node reads, what it writes, and the sizes of values in the arena."""


def _peak(steps: Sequence[Step], kept: Iterable[Value], result: Value | None) -> int:
    """The largest total of bytes alive at a step; `kept` stay to the end, what is written otherwise until its last reader."""
    always = list(dict.fromkeys(kept))
    last = {_root(v): k for k, (reads, _, _) in enumerate(steps) for v in reads}
    live: dict[Value, int] = {}
    most = 0
    for k, (reads, writes, sizes) in enumerate(steps):
        for value in writes:
            if value in sizes and value not in always and not value.is_output and (value.producer is None or not is_view(value.producer)):
                live[value] = sizes[value]
        shared = _shared(writes, reads, live, last, k)
        fixed = sum(align(v.type.nbytes) for v in always)
        most = max(most, fixed + sum(live.values()) - shared)
        live = {v: size for v, size in live.items() if last.get(v, -1) > k or v is result}
    return most


def _shared(writes: Sequence[Value], reads: Sequence[Value], live: dict[Value, int], last: dict[Value, int], step: int) -> int:
    """Bytes of an operand that an element-wise kernel overwrites."""
    node = writes[0].producer
    if node is None or writes[0] not in live or is_view(node) or not spec_of(node).shares:
        return 0
    size = live[writes[0]]
    return size if any(v in live and live[v] == size and last[v] == step for v in reads) else 0


def _root(value: Value) -> Value:
    while value.producer is not None and is_view(value.producer):
        value = value.producer.present_inputs[0]
    return value


def cuts(graph: Graph) -> list[tuple[int, Value | None]]:
    """Positions between nodes where one value at most is alive and nothing else: (nodes before it, that value)."""
    nodes = graph.nodes
    last: dict[Value, int] = {}
    for k, node in enumerate(nodes):
        for value in node.present_inputs:
            last[_root(value)] = k
    live: set[Value] = set()
    found: list[tuple[int, Value | None]] = [(0, None)]
    for k, node in enumerate(nodes):
        if not is_view(node):
            live |= set(node.outputs)
        live = {v for v in live if last.get(v, -1) > k}
        if len(live) <= 1 and not (is_view(node) and node.output.uses):
            found.append((k + 1, next(iter(live), None)))
    if found[-1][0] == len(nodes):
        found[-1] = (len(nodes), graph.outputs[0] if len(graph.outputs) == 1 else None)
    return found
