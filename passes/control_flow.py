"""Branches and loops whose course is known at compile time; part of `canonicalize`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from lepton_compiler.analysis.trip_count import known_number, trip_count
from lepton_compiler.ir.graph import Node, Value
from lepton_compiler.ir.traverse import inline_region
from lepton_compiler.ops.builder import Builder
from lepton_compiler.rewrite.rule import Replacement, simplifies


@simplifies("If")
def known_branch(b: Builder, node: Node) -> Replacement:
    """If(true) { a } { b }  -->  a"""
    chosen = _known(node.inputs[0])
    if chosen is None:
        return "the condition is not known"
    return _inlined(b, node, 0 if chosen else 1, node.present_inputs[1:])


@simplifies("Loop")
def short_loop(b: Builder, node: Node) -> Replacement:
    """Loop that runs never  -->  its first values; once  -->  its body"""
    carried = getattr(node.op, "carried")  # noqa: B009
    trips, going = _known(node.inputs[0]), True if node.inputs[1] is None else _known(node.inputs[1])
    values = [v for v in node.inputs[2:] if v is not None]
    if going is None or (trips is None and going):
        return "the number of iterations is not known"
    if not going or trips == 0:
        return values[:carried] if len(node.outputs) == carried else "scanned results of no iteration have no value to stand for them"
    if trips != 1:
        return "it runs more than once"
    first = [b.graph.constant(_scalar(0, node.regions[0].inputs[0])), b.graph.constant(_scalar(1, node.regions[0].inputs[1]))]
    outputs = _inlined(b, node, 0, [*first, *values])
    return [*outputs[1 : 1 + carried], *(b.Unsqueeze(v, axes=(0,)) for v in outputs[1 + carried :])]


@simplifies("Loop")
def counted_loop(b: Builder, node: Node) -> Replacement:
    """Loop(while i < 80)  -->  Loop(80 times): the count as an attribute, where known numbers alone decide when it ends"""
    op: Any = node.op
    trips = trip_count(node) if op.trips is None else None
    if trips is None:
        return "its count is an attribute already" if op.trips is not None else "the number of iterations depends on data"
    region = node.regions[0].copy()
    region.set_outputs([region.inputs[1], *region.outputs[1:]])
    count = node.inputs[0] if _known(node.inputs[0]) == trips else b.constant(np.array(trips, np.int64))
    operands = [count, None, *node.inputs[2:]]
    return b.node(replace(op, trips=trips), operands, regions=[region]).outputs


@simplifies("Scan")
def scan_first_axes(b: Builder, node: Node) -> Replacement:
    """Scan along other axes  -->  Transpose, Scan along the first axes, Transpose"""
    op: Any = node.op
    if not op.input_axes and not op.output_axes:
        return None
    operands = list(node.inputs)
    for k, axis in enumerate(op.axes_in(), op.carried):
        operands[k] = _moved(b, operands[k], axis, 0)
    results = list(b.node(replace(op, input_axes=(), output_axes=()), operands, regions=[node.regions[0].copy()]).outputs)
    for k, axis in enumerate(op.output_axes, op.carried):
        results[k] = _moved(b, results[k], 0, axis)
    return results


def _moved(b: Builder, value: Value | None, source: int, target: int) -> Any:
    """`value` with one axis at another place."""
    assert value is not None
    order = list(range(value.type.rank))
    order.insert(target % value.type.rank, order.pop(source % value.type.rank))
    return value if order == sorted(order) else b.Transpose(value, perm=tuple(order))


def _known(value: Value | None) -> Any:
    return None if value is None else known_number(value)


def _scalar(number: int, like: Value) -> Any:
    return like.type.dtype.numpy.type(number)


def _inlined(b: Builder, node: Node, index: int, arguments: list[Value]) -> list[Value]:
    before = set(node.graph)
    outputs = inline_region(node.regions[index], arguments, node)
    for added in node.graph:
        if added not in before:
            added.loc = added.loc.by(b.loc.rules[-1])
            b.created.append(added)
    return outputs


CONTROL_FLOW = [known_branch, short_loop, counted_loop, scan_first_axes]
