"""What is the same in each iteration of a loop: computed once, outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ops.builder import Builder
from lepton_compiler.passes.fuse.kinds import is_arithmetic, kind
from lepton_compiler.passes.hoist_products import constant_inputs
from lepton_compiler.pipeline import Pass, PassContext
from lepton_compiler.rewrite import rewrite, simplifies
from lepton_compiler.rewrite.rule import Replacement


@simplifies("Loop")
def hoist_invariants(b: Builder, node: Node) -> Replacement:
    """Loop { Cast(w) }  -->  c = Cast(w); Loop { c }

    Only what moves elements or computes each from few others, so that a loop that does not run costs nothing much.
    """
    op: Any = node.op
    region, operands = node.regions[0].copy(), list(node.inputs)
    outside: dict[Value, Value] = {}
    for value in constant_inputs(region, op.carried):
        operand = operands[region.inputs.index(value)]
        if operand is not None:
            outside[value] = operand
    moved: list[Node] = []
    for inner in region:
        if _leaves(inner, outside):
            moved.append(inner)
            outside[inner.output] = _computed(b, inner, outside)
    if not moved:
        return "nothing is computed anew that is the same in each iteration"
    for inner in moved:
        if any(user not in moved for user in inner.output.users):
            region.replace_all_uses(inner.output, region.add_input(inner.output.name, inner.output.type))
            operands.append(outside[inner.output])
    for inner in reversed(moved):
        region.remove(inner)
    return b.node(op, operands, regions=[region]).outputs


def _leaves(node: Node, outside: dict[Value, Value]) -> bool:
    """Whether a node depends on nothing but what is known outside, some of it data or weights there, and is read within the loop only."""
    if not (is_arithmetic(node) or kind(node) in ("transpose", "view")) or node.output.is_output:
        return False
    known = [v in outside for v in node.present_inputs if v.tensor is None]
    return bool(known) and all(known)


def _computed(b: Builder, node: Node, outside: dict[Value, Value]) -> Value:
    """The result of a node outside."""
    operands = [None if v is None else outside[v] if v.tensor is None else b.constant(v.tensor, name=v.name) for v in node.inputs]
    loc, b.loc = b.loc, node.loc.by(b.loc.rules[-1])
    result = b(node.op, *operands)
    b.loc = loc
    return result


@dataclass(frozen=True)
class HoistInvariants(Pass):
    """Takes conversions, element-wise operators and transposes of what a loop does not change out of it."""

    def run(self, graph: Graph, ctx: PassContext) -> None:  # noqa: D102
        rewrite(graph, [hoist_invariants], ctx.tracer)
