"""Merging, cancelling and sinking transposes."""

from __future__ import annotations

from dataclasses import dataclass

from lepton_compiler.analysis.layouts import RESHAPES, Factor, Layout, through
from lepton_compiler.ir.graph import Graph, Loc, Node, Value
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


@simplifies("Transpose")
def merge_through_reshapes(b: Builder, node: Node) -> Replacement:
    """Transpose(Reshape(Transpose(x)))  -->  Reshape(x), where that is the order in memory again; else Reshape(Transpose(Reshape(x)))"""
    chain, found = [node], list[tuple[int, list[Factor]]]()
    while (producer := chain[-1].present_inputs[0].producer) is not None and producer.op.name in (*RESHAPES, "Transpose"):
        chain.append(producer)
        alone = all(len(n.output.uses) == 1 and not n.output.is_output for n in chain[1:])
        if producer.op.name == "Transpose" and (runs := _runs(chain)) is not None and (alone or len(runs) <= 1):
            found.append((len(chain), runs))
    if not found:
        return "no other transpose comes before it, or somebody else reads what is in between"
    length, runs = found[-1]
    x, order = chain[length - 1].present_inputs[0], sorted(range(len(runs)), key=lambda k: -runs[k][1])
    b.loc = Loc().merge(*(n.loc for n in chain[length - 1 : 0 : -1]), b.loc)
    if len(runs) > 1:
        x = b.Transpose(_reshaped(b, x, tuple(runs[k][0] for k in order)), perm=inverse(tuple(order)))
    return _reshaped(b, x, node.output.type.static_shape)


def _reshaped(b: Builder, x: Value, shape: tuple[int, ...]) -> Value:
    return x if x.type.shape == shape else b.Reshape(x, shape=shape)


def _runs(chain: list[Node]) -> list[Factor] | None:
    """Runs of elements, outermost first, in which a chain of reshapes and transposes, the last one first, walks what it views; one if it is in order."""
    source = chain[-1].present_inputs[0].type
    if not source.is_static or source.size == 0 or not all(node.output.type.is_static for node in chain):
        return None
    layout: Layout | None = Layout.dense(source.static_shape)
    for node in reversed(chain):
        layout = None if layout is None else through(node.op, layout, node.output.type.static_shape)
    layout = None if layout is None else layout.reshaped((source.size,))
    return None if layout is None else list(layout.axes[0])


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
        rewrite(
            graph, [merge_transposes, transpose_to_reshape, merge_through_reshapes, *([sink_transpose] if self.sink else [])], ctx.tracer
        )
