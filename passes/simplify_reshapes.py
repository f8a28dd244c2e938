"""Chains of reshapes, and broadcasting done by operators that broadcast anyway."""

from __future__ import annotations

from dataclasses import dataclass

from lepton_compiler.errors import InferenceError
from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ops.broadcasting import broadcast_shapes
from lepton_compiler.ops.builder import Builder
from lepton_compiler.pipeline import Pass, PassContext
from lepton_compiler.rewrite import rewrite, simplifies
from lepton_compiler.rewrite.rule import Replacement

VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze"})
BROADCASTING = ("Add", "Sub", "Mul", "Div", "Pow", "Where", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Xor")


@simplifies("Reshape")
def merge_reshapes(b: Builder, node: Node) -> Replacement:
    """Reshape(Reshape(x))  -->  Reshape(x); also after Squeeze and Unsqueeze"""
    x = node.present_inputs[0]
    producer = x.producer
    if producer is None or producer.op.name not in VIEWS:
        return None
    source = producer.present_inputs[0]
    if not node.output.type.is_static and -1 in getattr(node.op, "shape"):  # noqa: B009
        return "its shape depends on the shape in between"
    return source if source.type == node.output.type else b(node.op, source)


@simplifies("Reshape")
def reshape_around_unary(b: Builder, node: Node) -> Replacement:
    """Reshape(Relu(Reshape(x)))  -->  Relu(Reshape(x)) with one reshape; Relu stands for any function of one operand"""
    middle = node.present_inputs[0].producer
    if middle is None or not _plain_unary(middle) or len(middle.output.uses) != 1 or middle.output.is_output:
        return None
    inner = middle.present_inputs[0].producer
    if inner is None or inner.op.name != "Reshape" or not node.output.type.is_static:
        return None
    source, shape = inner.present_inputs[0], node.output.type.shape
    return b(middle.op, source if source.type.shape == shape else b.Reshape(source, shape=shape))


def _plain_unary(node: Node) -> bool:
    return (
        type(node.op).__module__.rpartition(".")[2] in ("unary", "activation", "cast")
        and len(node.inputs) == 1
        and node.op.name != "BitCast"
    )


@simplifies(*BROADCASTING)
def drop_expand(b: Builder, node: Node) -> Replacement:
    """Add(Expand(x), y)  -->  Add(x, y), where y's shape makes up for it"""
    operands: list[Value | None] = list(node.inputs)
    for i, value in enumerate(node.inputs):
        producer = value.producer if value is not None else None
        if producer is None or producer.op.name != "Expand":
            continue
        trial = [*operands[:i], producer.inputs[0], *operands[i + 1 :]]
        try:
            shape = broadcast_shapes(*(v.type.shape for v in trial if v is not None))
        except InferenceError:
            continue
        if shape == node.output.type.shape:
            operands = trial
    return b(node.op, *operands) if operands != list(node.inputs) else None


@simplifies("Expand")
def merge_expands(b: Builder, node: Node) -> Replacement:
    """Expand(Expand(x))  -->  Expand(x)"""
    producer = node.present_inputs[0].producer
    return b(node.op, producer.inputs[0]) if producer is not None and producer.op.name == "Expand" else None


@simplifies("Tile")
def tile_to_expand(b: Builder, node: Node) -> Replacement:
    """Tile of axes of size one  -->  Expand, which costs nothing in what broadcasts"""
    x, y = node.present_inputs[0].type, node.output.type
    if not y.is_static or not all(a == 1 or a == c for a, c in zip(x.shape, y.shape, strict=True)):
        return None
    return b.Expand(node.inputs[0], shape=y.shape)


@dataclass(frozen=True)
class SimplifyReshapes(Pass):
    """Merges reshapes and expansions, and drops expansions that broadcasting does anyway."""

    def run(self, graph: Graph, ctx: PassContext) -> None:  # noqa: D102
        rewrite(graph, [merge_reshapes, reshape_around_unary, drop_expand, merge_expands, tile_to_expand], ctx.tracer)
