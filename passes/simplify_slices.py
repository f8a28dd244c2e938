"""Slices of slices and of joins, joins of joins and of the slices of one tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ops.builder import Builder
from lepton_compiler.pipeline import Pass, PassContext
from lepton_compiler.rewrite import rewrite, simplifies
from lepton_compiler.rewrite.rule import Replacement

Ranges = dict[int, tuple[int, int, int]]
"""Axis to start, end and step of what a Slice takes, within bounds; only positive steps."""


@simplifies("Slice")
def merge_slices(b: Builder, node: Node) -> Replacement:
    """Slice(Slice(x))  -->  Slice(x)"""
    inner = node.present_inputs[0].producer
    if inner is None or inner.op.name != "Slice":
        return None
    first, second = slice_ranges(inner), slice_ranges(node)
    if first is None or second is None:
        return "a bound is not known or a step is negative"
    merged = dict(first)
    for axis, (start, end, step) in second.items():
        begin, _, stride = first.get(axis, (0, 0, 1))
        merged[axis] = (begin + start * stride, begin + (end - 1) * stride + 1 if end > start else begin + start * stride, stride * step)
    return _slice(b, inner.present_inputs[0], merged)


@simplifies("Slice")
def slice_of_concat(b: Builder, node: Node) -> Replacement:
    """Slice(Concat(x, y))  -->  Slice(x), where it takes nothing of y"""
    concat, ranges = node.present_inputs[0].producer, slice_ranges(node)
    if concat is None or concat.op.name != "Concat" or ranges is None:
        return None
    axis = getattr(concat.op, "axis") % node.output.type.rank  # noqa: B009
    if axis not in ranges:
        return None
    (start, end, step), offset = ranges[axis], 0
    for value in concat.present_inputs:
        size = value.type.shape[axis]
        if not isinstance(size, int):
            return "the sizes of the parts are not known"
        if offset <= start and end <= offset + size and start < end:
            return _slice(b, value, {**ranges, axis: (start - offset, end - offset, step)})
        offset += size
    return "it takes of several parts"


@simplifies("Concat")
def merge_concats(b: Builder, node: Node) -> Replacement:
    """Concat(Concat(x, y), z)  -->  Concat(x, y, z) along one axis"""
    operands: list[Value] = []
    for value in node.present_inputs:
        producer = value.producer
        nested = producer is not None and producer.op == node.op and len(value.uses) == 1 and not value.is_output
        operands += producer.present_inputs if nested and producer is not None else [value]
    return b(node.op, *operands) if len(operands) > len(node.inputs) else None


@simplifies("Concat")
def concat_of_pieces(b: Builder, node: Node) -> Replacement:
    """Concat(x[:a], x[a:])  -->  x; also of all results of a Split"""
    axis = getattr(node.op, "axis")  # noqa: B009
    producers = [v.producer for v in node.present_inputs]
    split = producers[0]
    if split is None:
        return None
    if split.op.name == "Split" and getattr(split.op, "axis") == axis and node.inputs == split.outputs:  # noqa: B009
        return split.inputs[0]
    source, at = split.inputs[0] if split.inputs else None, 0
    if source is None:
        return None
    for producer in producers:
        ranges = slice_ranges(producer) if producer is not None and producer.op.name == "Slice" else None
        if producer is None or producer.inputs[0] is not source or ranges is None or set(ranges) != {axis} or ranges[axis][::2] != (at, 1):
            return None
        at = ranges[axis][1]
    return source if at == source.type.shape[axis] else None


def slice_ranges(node: Node) -> Ranges | None:
    """What a Slice takes along each axis that it cuts, where bounds and sizes are numbers and steps positive."""
    op: Any = node.op
    x = node.present_inputs[0].type
    axes = op.axes or tuple(range(len(op.starts)))
    ranges: Ranges = {}
    for axis, start, end, step in zip(axes, op.starts, op.ends, op.steps or (1,) * len(axes), strict=True):
        size = x.shape[axis]
        if not all(isinstance(n, int) for n in (size, start, end, step)) or step <= 0:
            return None
        begin, stop, _ = slice(start, end).indices(int(size))
        ranges[axis % x.rank] = (begin, max(begin, stop), step)
    return ranges


def _slice(b: Builder, x: Value, ranges: Ranges) -> Value:
    rows = sorted((a, r) for a, r in ranges.items() if r != (0, x.type.shape[a], 1))
    if not rows:
        return x
    starts, ends, steps = zip(*(r for _, r in rows), strict=True)
    return b.Slice(x, starts=starts, ends=ends, axes=tuple(a for a, _ in rows), steps=steps)


@dataclass(frozen=True)
class SimplifySlices(Pass):
    """Merges slices and joins, and lets a slice read the part of a join that it needs."""

    def run(self, graph: Graph, ctx: PassContext) -> None:  # noqa: D102
        rewrite(graph, [merge_slices, slice_of_concat, merge_concats, concat_of_pieces], ctx.tracer)
