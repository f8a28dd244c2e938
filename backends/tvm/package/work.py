"""The work of a kernel as its operators define it: multiply-accumulates, and bytes that have to move."""

from __future__ import annotations

from lepton_compiler.ir.graph import Node, Value

PICKING = ("Gather", "GatherElements", "GatherND")
"""Operators that read of their first operand only what comes out."""


def work(node: Node) -> dict[str, int]:
    """`macs`, `bytes` of operands and results, and `constant_bytes`, the part of these that are weights."""
    inner = [n for region in node.regions for n in region] or [node]
    costs = [n.op.cost([v.type if v else None for v in n.inputs], [o.type for o in n.outputs]) for n in inner]
    inside = node.regions[0].inputs if len(node.regions) == 1 else node.present_inputs
    read = [(value, _bytes_read(known, inner)) for value, known in zip(node.present_inputs, inside, strict=True)]
    constant = sum(size for value, size in read if value.is_constant)
    moved = sum(size for _, size in read) + sum(v.type.nbytes for v in node.outputs)
    return {"macs": sum(c.macs for c in costs), "bytes": moved, "constant_bytes": constant}


def _bytes_read(value: Value, inner: list[Node]) -> int:
    """Bytes of an operand that the nodes of a kernel read: all, unless they only pick from it."""
    users = [n for n in inner if value in n.inputs]
    if users and all(n.op.name in PICKING and n.inputs[0] is value and value not in n.inputs[1:] for n in users):
        return min(value.type.nbytes, sum(o.type.nbytes for n in users for o in n.outputs))
    return value.type.nbytes
