"""Layers in patches: a few rows of an image go through several layers before the next ones do, so that no layer's result is there as a whole."""

from __future__ import annotations

from dataclasses import dataclass

from lepton_compiler.backends.tvm.patches.chain import Segment
from lepton_compiler.backends.tvm.patches.choose import Chain
from lepton_compiler.backends.tvm.patches.rows import AXIS, Rows, copy_rows, row_count, sliced
from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ops.builder import Builder
from lepton_compiler.pipeline import Pass, PassContext


@dataclass(frozen=True)
class Patches(Pass):
    """y = g(f(x))  -->  y = Concat(g(f(x[0:10])), g(f(x[6:16])), ...), where the arena would be too large

    Runs on kernels, after `fuse`. Slices and the concatenation are along the rows of images with the channels last, where they are views:
    each patch writes its part of the result. Rows that two patches need are computed twice. Where no patches make the arena small enough,
    it becomes about as small as they can make it.

    Attributes:
        arena: bytes that it may take; with 0, as few as patches can make it.
    """

    arena: int = 0

    def run(self, graph: Graph, ctx: PassContext) -> None:  # noqa: D102
        if any(not v.type.is_static for node in graph for v in node.outputs):
            return
        chain = Chain(graph)
        if chain.peak <= self.arena:
            return
        choice = chain.choose(self.arena) or chain.smallest(self.arena)
        for segment, split in choice.segments if choice is not None else ():
            _apply(graph, segment, split.rows)


def _apply(graph: Graph, segment: Segment, rows: int) -> None:
    result, last = segment.result, segment.nodes[-1]
    assert result is not None
    parts = [_patch(graph, segment, patch, last) for patch in segment.patches(rows)]
    whole = Builder(graph, last, last.loc.by("patches")).Concat(*parts, axis=AXIS)
    name = result.name
    graph.replace_all_uses(result, whole)
    for node in reversed(segment.nodes):
        graph.remove(node)
    graph.rename(whole, name)


def _patch(graph: Graph, segment: Segment, rows: Rows, before: Node) -> Value:
    """The nodes of one patch; its result."""
    into, found = Builder(graph, before), segment.needs(rows)
    assert found is not None and segment.result is not None
    slices: dict[tuple[Value, Rows], Value] = {}

    def outside(value: Value, need: Rows | None) -> Value:
        if need is None or need == (0, row_count(value)):
            return value
        if value.tensor is not None:
            return graph.constant(value.numpy()[:, need[0] : need[1]], value.name)
        if (value, need) not in slices:
            slices[value, need] = sliced(into, value, need)
        return slices[value, need]

    return copy_rows(segment.nodes, found, into, outside)[segment.result]
