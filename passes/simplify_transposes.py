"""Merging, cancelling and sinking transposes."""

from __future__ import annotations

from dataclasses import dataclass

from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ops.builder import Builder
from lepton_compiler.passes.layout import only_ones_move, transposed
from lepton_compiler.passes.permute import ELEMENTWISE_FAMILIES, RULES, Perm, compose, inverse, permute_op
from lepton_compiler.pipeline import Pass, PassContext
from lepton_compiler.rewrite import rewrite, simplifies
from lepton_compiler.rewrite.rule import Replacement


@simplifies("Transpose")
def merge_transposes(b: Builder, node: Node) -> Replacement:
    """Transpose(Transpose(x))  -->  Transpose(x), or x if they cancel"""
    producer = node.present_inputs[0].producer
    if producer is None or producer.op.name != "Transpose":
        return None
    perm = compose(_perm(node), _perm(producer))
    x = producer.inputs[0]
    return x if perm == tuple(range(len(perm))) else b.Transpose(x, perm=perm)


@simplifies("Transpose")
def transpose_to_reshape(b: Builder, node: Node) -> Replacement:
    """Transpose that moves only axes of size one  -->  Reshape"""
    x = node.present_inputs[0]
    if not x.type.is_static or not only_ones_move(x.type.shape, _perm(node)):
        return None
    return b.Reshape(x, shape=node.output.type.shape)


def _perm(node: Node) -> Perm:
    perm: Perm = getattr(node.op, "perm")  # noqa: B009
    return perm


def _sinkable() -> tuple[str, ...]:
    from lepton_compiler.ops import FAMILIES

    return tuple(name for family in sorted(ELEMENTWISE_FAMILIES) for name in FAMILIES[family].split() if name != "BitCast") + tuple(RULES)


@simplifies(*dict.fromkeys(_sinkable()))
def sink_transpose(b: Builder, node: Node) -> Replacement:
    """Relu(Transpose(x))  -->  Transpose(Relu(x)); Add(Transpose(x), Transpose(y))  -->  Transpose(Add(x, y)); so that they meet and cancel"""
    perms = {_perm(t) for v in node.present_inputs if (t := _transpose_of(v)) is not None}
    if len(perms) != 1:
        return None
    perm = perms.pop()
    how = permute_op(node, inverse(perm))
    if how is None or len(node.outputs) != 1:
        return "it does not work on transposed operands"
    operands: list[Value | None] = []
    for value, wanted in zip(node.inputs, how.operands, strict=True):
        if value is None or wanted is None:
            if value is not None and _transpose_of(value) is not None:
                return "a parameter is transposed"
            operands.append(value)
        elif (transpose := _transpose_of(value)) is not None:
            if any(user is not node for user in value.users) or value.is_output:
                return f"'{value.name}' is used elsewhere"
            operands.append(transpose.inputs[0])
        elif value.is_constant:
            operands.append(transposed(b, value, wanted))
        else:
            return f"'{value.name}' is not transposed"
    out = how.outputs[0]
    result = b(how.op, *operands)
    return result if out is None else b.Transpose(result, perm=inverse(out))


def _transpose_of(value: Value) -> Node | None:
    return value.producer if value.producer is not None and value.producer.op.name == "Transpose" else None


@dataclass(frozen=True)
class SimplifyTransposes(Pass):
    """Transposes sink through operators that do not care until they meet others; pairs merge, inverse ones vanish.

    Attributes:
        sink: whether they sink; without, only neighbours meet, and layouts that were chosen stay.
    """

    sink: bool = True

    def run(self, graph: Graph, ctx: PassContext) -> None:  # noqa: D102
        rewrite(graph, [merge_transposes, transpose_to_reshape, *([sink_transpose] if self.sink else [])], ctx.tracer)
