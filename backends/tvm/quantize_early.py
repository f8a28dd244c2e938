"""Quantizing before elements are moved rather than after: codes are a quarter of the bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ir.types import FLOAT32, INT8, UINT8
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.resize import Resize
from lepton_compiler.pipeline import Pass, PassContext
from lepton_compiler.rewrite import rewrite, simplifies
from lepton_compiler.rewrite.rule import Replacement

USUAL = (2.0**-60, 2.0**60)
"""Bounds of scales whose products with codes are far from the ends of the range of float32."""
MOVES = frozenset({"Concat", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators that move elements, of whatever type."""


@simplifies("QuantizeLinear")
def quantize_before_moving(b: Builder, node: Node) -> Replacement:
    """Q(Transpose(x))  -->  Transpose(Q(x)), likewise before Concat and others, by one scale"""
    x, *parameters = node.present_inputs
    move = x.producer
    if move is None or not (move.op.name in MOVES or _repeats(move)) or any(p.type.shape != () for p in parameters):
        return "its data is not moved before, or there are several scales"
    if len(x.uses) != 1 or x.is_output or not x.type.is_static or node.output.type.dtype.bits >= x.type.dtype.bits:
        return f"'{x.name}' is used elsewhere, or codes are not smaller"
    b.loc = b.loc.merge(move.loc)
    first, *rest = move.present_inputs
    data = [first, *rest] if move.op.name == "Concat" else [first]
    return b(move.op, *(b(node.op, v, *parameters) for v in data), *([] if move.op.name == "Concat" else rest))


def _repeats(node: Node) -> bool:
    """Whether a node only repeats elements of its operand: what is done with each is done before with fewer of them."""
    op = node.op
    if not isinstance(op, Resize) or op.mode != "nearest" or op.coordinate_transformation_mode == "tf_crop_and_resize":
        return False
    x, y = node.present_inputs[0].type, node.output.type
    return len(node.present_inputs) == 1 and x.is_static and y.is_static and y.size >= x.size


@simplifies("QuantizeLinear")
def codes_as_they_are(b: Builder, node: Node) -> Replacement:
    """Q(DQ(x, s, zero), s, zero)  -->  x, of 8 bits: the quotient is a whole number but for a few units in the last place"""
    value, *parameters = node.present_inputs
    source = value.producer
    if source is None or source.op.name != "DequantizeLinear" or value.type.dtype != FLOAT32:
        return "its data is no dequantized numbers"
    data, *others = source.present_inputs
    if data.type.dtype != node.output.type.dtype or data.type.dtype not in (INT8, UINT8) or not _one_usual_scale(node, source):
        return "its codes are others, or there are several scales"
    alike = len(others) == len(parameters) and all(_equal(a, c) for a, c in zip(others, parameters, strict=True))
    return data if alike else "its scale or zero point is another"


def _one_usual_scale(*nodes: Node) -> bool:
    """Whether each node has one scale, far from the ends of the range of float32, and no blocks or precision of its own."""
    scales = [node.present_inputs[1] for node in nodes]
    plain = all(not getattr(n.op, "block_size", 0) and getattr(n.op, "precision", None) is None for n in nodes)
    known = plain and all(s.tensor is not None and s.type.size == 1 and s.type.dtype == FLOAT32 for s in scales)
    return known and all(USUAL[0] < float(s.numpy().reshape(())) < USUAL[1] for s in scales)


def _equal(a: Value, c: Value) -> bool:
    return a.tensor is not None and c.tensor is not None and a.type.size == c.type.size == 1 and a.numpy().item() == c.numpy().item()


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
    """Q(Concat(x, y))  -->  Concat(Q(x), Q(y)): the same codes, and less is moved; codes that do not change are not decoded"""

    def run(self, graph: Graph, ctx: PassContext) -> None:  # noqa: D102
        rewrite(graph, [quantize_before_moving, scale_before_moving, codes_as_they_are], ctx.tracer)
