"""A graph as a chain of segments: between two of them, one value is all that is alive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from lepton_compiler.analysis.memory import align
from lepton_compiler.backends.tvm.capabilities import CONTROL, is_view
from lepton_compiler.backends.tvm.patches.rows import Demand, Rows, demand, is_image, row_count
from lepton_compiler.backends.tvm.spec import spec_of
from lepton_compiler.ir.graph import Graph, Node, Value

CALL = 64
"""Multiply-accumulates for which a call of a kernel stands."""


@dataclass(frozen=True)
class Split:
    """A segment in patches of so many rows of its result (0: as a whole): bytes of arena, and work beyond that of the whole."""

    rows: int
    peak: int
    extra: int


@dataclass(frozen=True)
class Facts:
    """Of a node: what it costs in multiply-accumulates, whether it may overwrite an operand, and whether it is a view."""

    work: int
    shares: bool
    view: bool

    @staticmethod
    def of(node: Node) -> Facts:
        """An element of an operator without multiply-accumulates counts as one."""
        inner = list(node.regions[0]) if node.op.name == "Fused" else [node]
        costs = [n.op.cost([v.type if v else None for v in n.inputs], [o.type for o in n.outputs]) for n in inner]
        work = sum(c.macs or (n.output.type.size if n.outputs else 0) for n, c in zip(inner, costs, strict=True))
        view = is_view(node)
        return Facts(work, not view and node.op.name not in CONTROL and spec_of(node).shares, view)


@dataclass(eq=False)
class Segment:
    """Nodes from one cut of a graph to another.

    Attributes:
        nodes: in order of execution.
        facts: of all nodes.
        source: the value that is alive before them, if it lies in the arena.
        result: the value that is alive after them.
    """

    nodes: Sequence[Node]
    facts: Mapping[Node, Facts]
    source: Value | None
    result: Value | None
    _demands: dict[Rows, Demand | None] = field(default_factory=dict)

    @cached_property
    def whole(self) -> Split:
        """The segment as it is."""
        sizes = {out: align(out.type.nbytes) for node in self.nodes for out in node.outputs}
        return Split(0, self._peak(sizes, {v: align(v.type.nbytes) for v in (self.source,) if v is not None}, {}), 0)

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
        peak, total, patches = 0, 0.0, self.patches(rows)
        for patch in patches:
            found = self.needs(patch)
            if found is None:
                return None
            peak = max(peak, self._peak_of(found))
            total += sum(self.facts[node].work * _share(node, found) for node in self.nodes)
        extra = total - sum(self.facts[node].work for node in self.nodes) + CALL * len(self.nodes) * (len(patches) - 1)
        return Split(rows, peak, round(extra))

    def _peak_of(self, found: Demand) -> int:
        """Bytes of arena while one patch is computed: operand and result are there as a whole."""
        assert self.result is not None
        kept = {v: align(v.type.nbytes) for v in (self.source, self.result) if v is not None and not v.is_output}
        sizes = {v: align(v.type.nbytes // row_count(v) * (rows[1] - rows[0])) for v, rows in found.rows.items() if v is not self.result}
        return self._peak(sizes, {}, kept)

    def _peak(self, sizes: Mapping[Value, int], before: Mapping[Value, int], always: Mapping[Value, int]) -> int:
        """The largest total of bytes alive at a step: of what was there `before`, as everything until its last reader, and `always`."""
        fixed, live, most = sum(always.values()), dict(before), 0
        for k, node in enumerate(self.nodes):
            if not self.facts[node].view:
                live |= {v: sizes[v] for v in node.outputs if v in sizes and v not in always and not v.is_output}
            most = max(most, fixed + sum(live.values()) - self._overwritten(node, k, live))
            live = {v: size for v, size in live.items() if self._last.get(v, -1) > k or v is self.result}
        return most

    def _overwritten(self, node: Node, step: int, live: Mapping[Value, int]) -> int:
        """Bytes of an operand over which an element-wise kernel writes its result."""
        size = live.get(node.outputs[0], 0) if self.facts[node].shares else 0
        return size if any(live.get(v) == size and self._last[v] == step for v in node.present_inputs) else 0

    @cached_property
    def _last(self) -> dict[Value, int]:
        """The last node that reads a value or what is a view of it."""
        return {_root(v): k for k, node in enumerate(self.nodes) for v in node.present_inputs}


def _share(node: Node, found: Demand) -> float:
    first, end = found.rows[node.output]
    return (end - first) / row_count(node.output)


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
