"""Branches and loops whose course is known at compile time; part of `canonicalize`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lepton_compiler.ir.graph import Node, Value
from lepton_compiler.ir.traverse import inline_region
from lepton_compiler.ops.builder import Builder
from lepton_compiler.rewrite.rule import Replacement, simplifies


@simplifies("If")
def known_branch(b: Builder, node: Node) -> Replacement:
    """If(true) { a } { b }  -->  a"""
    chosen = known(node.inputs[0])
    if chosen is None:
        return "the condition is not known"
    return _inlined(b, node, 0 if chosen else 1, node.present_inputs[1:])


@simplifies("Loop")
def short_loop(b: Builder, node: Node) -> Replacement:
    """Loop that runs never  -->  its first values; once  -->  its body"""
    carried = getattr(node.op, "carried")  # noqa: B009
    trips, going = known(node.inputs[0]), True if node.inputs[1] is None else known(node.inputs[1])
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
    """A loop with a known trip count that never stops early  -->  the same with the count as an attribute"""
    op: Any = node.op
    trips, going = known(node.inputs[0]), True if node.inputs[1] is None else known(node.inputs[1])
    region = node.regions[0]
    endless = known(region.outputs[0]) or region.outputs[0] is region.inputs[1]
    if op.trips is not None or trips is None or not going or not endless:
        return None
    return b.node(replace(op, trips=int(trips)), node.inputs, regions=[region.copy()]).outputs


def known(value: Value | None) -> Any:
    """The number that a one-element value is at compile time, or None."""
    if value is None:
        return None
    if value.tensor is not None and value.type.size == 1:
        return value.numpy().reshape(-1)[0].item()
    content = value.content
    return int(content.flat[0]) if content is not None and content.size == 1 and isinstance(content.flat[0], (int, bool)) else None


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


CONTROL_FLOW = [known_branch, short_loop, counted_loop]
