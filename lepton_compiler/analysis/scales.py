"""What the integers of a quantized model's inputs and outputs stand for."""

from __future__ import annotations

from lepton_compiler.ir.graph import Graph, Node, Value

MOVES = frozenset({"Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators that only move elements."""


def scales_of(graph: Graph) -> dict[str, tuple[float, int]]:
    """Scale and zero point of each input that is dequantized and each output that is quantized as a whole, by name."""
    found = {}
    for value in graph.inputs:
        if (meaning := _read_as(value)) is not None:
            found[value.name] = meaning
    for value in graph.outputs:
        if (meaning := _written_as(value)) is not None:
            found[value.name] = meaning
    return found


def _read_as(value: Value) -> tuple[float, int] | None:
    for user, index in value.uses:
        if user.op.name == "DequantizeLinear" and index == 0:
            return _parameters(user)
        if user.op.name in MOVES and (meaning := _read_as(user.output)) is not None:
            return meaning
    return None


def _written_as(value: Value) -> tuple[float, int] | None:
    node = value.producer
    if node is not None and node.op.name in MOVES:
        return _written_as(node.present_inputs[0])
    return _parameters(node) if node is not None and node.op.name == "QuantizeLinear" else None


def _parameters(node: Node) -> tuple[float, int] | None:
    _, scale, *zero = node.present_inputs
    if not scale.is_constant or scale.type.size != 1 or any(not z.is_constant or z.type.size != 1 for z in zero):
        return None
    return float(scale.numpy().reshape(())), int(zero[0].numpy().reshape(())) if zero else 0
