"""Quantizing before elements are moved rather than after: codes are a quarter of the bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ops.builder import Builder
from lepton_compiler.pipeline import Pass, PassContext
from lepton_compiler.rewrite import rewrite, simplifies
from lepton_compiler.rewrite.rule import Replacement

MOVES = frozenset({"Concat", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators that move elements, of whatever type."""


@simplifies("QuantizeLinear")
def quantize_before_moving(b: Builder, node: Node) -> Replacement:
    """Q(Transpose(x))  -->  Transpose(Q(x)), likewise before Concat and others, by one scale"""
    x, *parameters = node.present_inputs
    move = x.producer
    if move is None or move.op.name not in MOVES or any(p.type.shape != () for p in parameters):
        return "its data is not moved before, or there are several scales"
    if len(x.uses) != 1 or x.is_output or not x.type.is_static or node.output.type.dtype.bits >= x.type.dtype.bits:
        return f"'{x.name}' is used elsewhere, or codes are not smaller"
    b.loc = b.loc.merge(move.loc)
    first, *rest = move.present_inputs
    data = [first, *rest] if move.op.name == "Concat" else [first]
    return b(move.op, *(b(node.op, v, *parameters) for v in data), *([] if move.op.name == "Concat" else rest))


@simplifies("Relu", "Mul")
def scale_before_moving(b: Builder, node: Node) -> Replacement:
    """Q(Mul(Relu(Transpose(x)), c))  -->  Q(Transpose(Mul(Relu(x), c))), with c one number or constant along a last axis that stays last"""
    x, *factors = node.present_inputs
    if not _is_quantized(node):
        return "its result is not only quantized"
    move = x.producer
    if move is None or move.op.name not in MOVES - {"Concat"} or len(x.uses) != 1 or x.is_output or not x.type.is_static:
        return "its data is not moved before"
    first, *rest = move.present_inputs
    scaled = [_along_last(factor, move) for factor in factors]
    if any(array is None for array in scaled) or node.output.type != x.type:
        return "its factor is no constant along a last axis that stays last"
    return b(move.op, b(node.op, first, *(b.constant(array, name="factor") for array in scaled if array is not None)), *rest)


def _is_quantized(node: Node) -> bool:
    """Whether the result ends in codes alone, perhaps after further multiplications."""
    users = list(node.output.users)
    if len(users) != 1 or node.output.is_output or len(node.output.uses) != 1:
        return False
    return users[0].op.name == "QuantizeLinear" or (users[0].op.name in ("Relu", "Mul") and _is_quantized(users[0]))


def _along_last(factor: Value, move: Node) -> np.ndarray | None:
    """A factor of what `move` gives, as one of what it takes."""
    x, y = move.present_inputs[0], move.output
    if factor.tensor is None or not x.type.is_static:
        return None
    array = factor.numpy()
    if array.size == 1:
        return array.reshape(())
    before, after = x.type.static_shape[-1:], y.type.static_shape[-1:]
    if array.size != array.shape[-1] or after != array.shape[-1:] or not before or before[0] % after[0]:
        return None
    if move.op.name == "Transpose" and getattr(move.op, "perm")[-1] != x.type.rank - 1:  # noqa: B009
        return None
    return np.tile(array.reshape(-1), before[0] // after[0])


@dataclass(frozen=True)
class QuantizeEarly(Pass):
    """Q(Concat(x, y))  -->  Concat(Q(x), Q(y)): the same codes, and less is moved"""

    def run(self, graph: Graph, ctx: PassContext) -> None:  # noqa: D102
        rewrite(graph, [quantize_before_moving, scale_before_moving], ctx.tracer)
