"""Which nodes of a quantized model compute with codes, in numbers of another type: what must keep their values exact."""

from __future__ import annotations

from lepton_compiler.ir.graph import Graph, Node, Value

PRODUCTS = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))
UNSCALED = frozenset(("ConvInteger", "DynamicQuantizeLinear", "MatMulInteger"))
"""Operators that give sums of products of codes, or scales that are as small as such sums are large."""
SCALING = frozenset(("Div", "Mul"))
QUANTIZING = frozenset(("DynamicQuantizeLinear", "QuantizeLinear"))


def quantized_nodes(graph: Graph) -> set[Node]:
    """Nodes that compute with unscaled sums of products of codes, and those on the way from codes to codes."""
    decoded: set[Value] = set()
    unscaled: set[Value] = set()
    near: set[Value] = set()  # computed from either, with no products of ordinary numbers in between
    kept: set[Node] = set()
    for node in graph.nodes:
        operands, is_product = [v for v in node.present_inputs if v.tensor is None], node.op.name in PRODUCTS
        if node.op.name == "DequantizeLinear" and operands:
            decoded.update(node.outputs)
        elif node.op.name in UNSCALED or (is_product and not decoded.isdisjoint(operands)):
            unscaled.update(node.outputs)
            kept.add(node)
        elif not unscaled.isdisjoint(operands):
            unscaled.update(node.outputs if node.op.name not in SCALING else ())
            kept.add(node)
        elif is_product or near.isdisjoint(operands):
            continue
        near.update(node.outputs)
    return kept | _before_codes(graph, near)


def _before_codes(graph: Graph, values: set[Value]) -> set[Node]:
    """The nodes that compute some of these values on the way to a node that makes codes of them."""
    awaited: set[Value] = set()
    found: set[Node] = set()
    for node in reversed(graph.nodes):
        if node.op.name in QUANTIZING:
            awaited.update(node.present_inputs)
        elif not awaited.isdisjoint(values.intersection(node.outputs)):
            found.add(node)
            awaited.update(node.present_inputs)
    return found
