"""Computing equal things once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ir.traverse import bodies
from lepton_compiler.pipeline import Pass, PassContext
from lepton_compiler.rewrite.pattern import COMMUTATIVE

COMPARED_ELEMENTS = 4096
"""Constants of up to this many elements are compared by value, larger ones by identity."""


@dataclass(frozen=True)
class CSE(Pass):
    """a = Exp(x); b = Exp(x)  -->  a for both. Operators are values, so this is one dictionary."""

    def run(self, graph: Graph, ctx: PassContext) -> None:  # noqa: D102
        for part in list(bodies(graph)):
            seen: dict[Any, Node] = {}
            for node in part:
                if node.regions:
                    continue
                first = seen.setdefault(_key(node), node)
                if first is not node and _replaceable(node, first):
                    _replace(node, first)


def _key(node: Node) -> Any:
    operands = [_operand_key(v) for v in node.inputs]
    if node.op.name in COMMUTATIVE and len(operands) == 2:
        operands.sort(key=repr)
    return type(node.op), repr(node.op), tuple(operands)


def _operand_key(value: Value | None) -> Any:
    if value is None or value.tensor is None:
        return id(value)
    return value.tensor.digest if value.type.is_static and value.type.size <= COMPARED_ELEMENTS else ("tensor", id(value.tensor))


def _replaceable(node: Node, first: Node) -> bool:
    """Only one of two outputs of the whole model can have a value's name."""
    outermost = node.graph.owner is None
    return not (outermost and any(a.is_output and b.is_output for a, b in zip(node.outputs, first.outputs, strict=True)))


def _replace(node: Node, first: Node) -> None:
    graph, names = node.graph, list[tuple[Value, str]]()
    for old, new in zip(node.outputs, first.outputs, strict=True):
        if old.is_output and graph.owner is None:
            names.append((new, old.name))
        graph.replace_all_uses(old, new)
    graph.remove(node)
    for value, name in names:
        graph.rename(value, name)
    first.loc = first.loc.merge(node.loc).by(CSE.name)
