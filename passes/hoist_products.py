"""Products of loops that do not depend on the iteration before: all of them at once, outside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ops.builder import Builder
from lepton_compiler.pipeline import Pass, PassContext
from lepton_compiler.rewrite import rewrite, simplifies
from lepton_compiler.rewrite.rule import Replacement

SPARE = 2
"""Times as many rows as the loop has iterations that may be multiplied: some of them nobody may ask for."""


@simplifies("Loop")
def products_of_rows(b: Builder, node: Node) -> Replacement:
    """Loop { MatMul(Gather(x, i), w) }  -->  p = MatMul(x, w); Loop { Gather(p, i) }

    The weights are then read once instead of in each iteration: the input projections of recurrent layers that exporters write as loops.
    """
    op: Any = node.op
    if op.trips is None:
        return "the number of iterations is not known"
    region = node.regions[0].copy()
    constant = constant_inputs(region, op.carried)
    places = [p for p in _products(region, constant) if _rows(p[1]) <= SPARE * op.trips]
    if not places:
        return "no product is that of a row with weights"
    operands = list(node.inputs)
    for product, x, index, weights in places:
        whole = b.MatMul(*(operands[region.inputs.index(v)] for v in (x, weights)))
        operands.append(whole)
        row = Builder(region, product, product.loc.by(b.loc.rules[-1])).Gather(region.add_input(f"{x.name}_products", whole.type), index)
        region.replace_all_uses(product.output, row)
        region.remove(product)
    return b.node(op, operands, regions=[region]).outputs


def constant_inputs(region: Graph, carried: int) -> set[Value]:
    """Inputs of a loop's body that are the same in each iteration: captures, and carried values that it hands on as they are."""
    kept = [v for v, after in zip(region.inputs[2 : 2 + carried], region.outputs[1 : 1 + carried], strict=True) if v is after]
    return {*kept, *region.inputs[2 + carried :]}


def _products(region: Graph, constant: set[Value]) -> Iterator[tuple[Node, Value, Value, Value]]:
    """(product, tensor, index, weights) of each product of one row of a constant tensor with constant weights."""
    for node in region:
        if node.op.name != "MatMul" or node.inputs[1] not in constant or node.inputs[1].type.rank != 2:
            continue
        row = node.present_inputs[0].producer
        if row is None or row.op.name != "Gather" or getattr(row.op, "axis", 0) != 0:
            continue
        x, index = row.present_inputs
        if x in constant and index.type.rank == 0 and x.type.is_static:
            yield node, x, index, node.inputs[1]


def _rows(x: Value) -> int:
    return x.type.static_shape[0]


@dataclass(frozen=True)
class HoistProducts(Pass):
    """Takes products of the rows of a tensor with weights out of loops, as one product."""

    def run(self, graph: Graph, ctx: PassContext) -> None:  # noqa: D102
        rewrite(graph, [products_of_rows], ctx.tracer)
