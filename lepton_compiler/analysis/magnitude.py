"""Which nodes handle numbers that need the range or the digits of single precision: sums, powers, and what quantized layers compute with."""

from __future__ import annotations

from lepton_compiler.ir.graph import Graph, Node, Value

PRODUCTS = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))
UNSCALED = frozenset(("ConvInteger", "DynamicQuantizeLinear", "MatMulInteger"))
"""Operators that give sums of products of codes, or scales that are as small as such sums are large."""
UNBOUNDED = frozenset("CumSum Exp Pow ReduceL1 ReduceL2 ReduceProd ReduceSum ReduceSumSquare".split())
"""Operators whose results may be far larger than their operands."""
RETURNING = frozenset(
    "Clip Div GroupNormalization InstanceNormalization LayerNormalization Log Mul RMSNormalization Reciprocal Sigmoid Softmax Sqrt Tanh".split()
)
"""Operators that bring large numbers back to the size of others: a sum becomes a mean, its square root a norm."""
QUANTIZING = frozenset(("DynamicQuantizeLinear", "QuantizeLinear"))


def wide_nodes(graph: Graph) -> set[Node]:
    """Nodes with operands that may be too large or too small for half precision, and those on the way from codes to codes.

    Large are sums, powers, and sums of products of codes, up to the first operator that scales them, or multiplies matrices of them.
    """
    decoded: set[Value] = set()
    large: set[Value] = set()
    near: set[Value] = set()  # computed from codes, with no products of ordinary numbers in between
    kept: set[Node] = set()
    for node in graph.nodes:
        operands, name = [v for v in node.present_inputs if v.tensor is None], node.op.name
        from_large, from_codes = not large.isdisjoint(operands), not decoded.isdisjoint(operands)
        enlarges = name in UNSCALED or name in UNBOUNDED or _is_square(node) or (name in PRODUCTS and from_codes)
        if enlarges or (from_large and name not in RETURNING and name not in PRODUCTS):
            large.update(node.outputs)
        if from_large or not large.isdisjoint(node.outputs):
            kept.add(node)
        if name == "DequantizeLinear" and operands:
            decoded.update(node.outputs)
            near.update(node.outputs)
        elif name in UNSCALED or from_codes or (name not in PRODUCTS and not near.isdisjoint(operands)):
            near.update(node.outputs)
    return kept | _before_codes(graph, near)


def _is_square(node: Node) -> bool:
    return node.op.name == "Mul" and node.inputs[0] is node.inputs[1]


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
