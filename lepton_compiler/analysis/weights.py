"""Weights that are stored in a shorter type than the one they are multiplied in."""

from __future__ import annotations

from lepton_compiler.ir.graph import Node

RANKS = {"MatMul": (2,), "Gemm": (2,), "Conv": (3, 4)}
"""Ranks of the weights, by operator, that are rearranged at compile time and read once."""


def product_of_converted(node: Node) -> Node | None:
    """The product for which alone `node` converts a constant, its right operand, and which can convert it as it reads it."""
    weight = node.present_inputs[0] if node.op.name == "Cast" else None
    if weight is None or weight.tensor is None or node.output.is_output or len(node.output.uses) != 1:
        return None
    ((product, index),) = node.output.uses
    if index != 1 or weight.type.rank not in RANKS.get(product.op.name, ()) or getattr(product.op, "trans_a", False):
        return None
    return product if product.present_inputs[0].type.rank >= 2 else None
