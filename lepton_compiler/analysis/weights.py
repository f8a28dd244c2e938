"""Weights that are stored in a shorter type than the one they are multiplied in."""

from __future__ import annotations

import numpy as np

from lepton_compiler.ir.graph import Node, Value
from lepton_compiler.ops.evaluator import evaluate_node

RANKS = {"MatMul": (2,), "Gemm": (2,), "Conv": (3, 4)}
"""Ranks of the weights, by operator, that are rearranged at compile time and read once."""


def known_numbers(value: Value) -> np.ndarray | None:
    """The numbers of a constant, also of one that is stored as codes of a single scale per axis and dequantized at run time."""
    if value.tensor is not None:
        return value.numpy()
    node = value.producer
    if node is None or node.op.name != "DequantizeLinear" or any(v.tensor is None for v in node.present_inputs):
        return None
    result: np.ndarray = evaluate_node(node, [None if v is None else v.numpy() for v in node.inputs])[0]
    return result


GROUPED = frozenset({"int8", "uint8", "int4", "uint4"})
"""Types of codes that products decode by groups, each with a scale."""


def _is_grouped(node: Node) -> bool:
    """Whether a node multiplies groups of codes by scales, all constants, without zero points."""
    known = node.op.name == "DequantizeLinear" and len(node.present_inputs) == 2 and all(v.is_constant for v in node.present_inputs)
    several = known and bool(getattr(node.op, "block_size", 0)) and node.present_inputs[1].type.size > 1
    return several and node.present_inputs[0].type.dtype.name in GROUPED


def _sums_over_groups(node: Node, product: Node) -> bool:
    """Whether the groups lie along the axis that a matrix product sums over."""
    inner = 1 if getattr(product.op, "trans_b", False) else 0
    return product.op.name in ("MatMul", "Gemm") and getattr(node.op, "axis") % 2 == inner  # noqa: B009


def product_of_converted(node: Node) -> Node | None:
    """The product for which alone `node` converts a constant, its right operand, and which can convert it as it reads it."""
    weight = node.present_inputs[0] if node.op.name == "Cast" or _is_grouped(node) else None
    if weight is None or weight.tensor is None or node.output.is_output or len(node.output.uses) != 1:
        return None
    ((product, index),) = node.output.uses
    if _is_grouped(node) and not _sums_over_groups(node, product):
        return None
    if index != 1 or weight.type.rank not in RANKS.get(product.op.name, ()) or getattr(product.op, "trans_a", False):
        return None
    return product if product.present_inputs[0].type.rank >= 2 else None
