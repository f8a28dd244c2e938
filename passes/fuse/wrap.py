"""Making a kernel of nodes: a `Fused` node in their place, with copies of them in its region."""

from __future__ import annotations

from collections.abc import Sequence

from lepton_compiler.ir.graph import Graph, Loc, Node, Value, copy_node
from lepton_compiler.ops.control import Fused


def wrap(graph: Graph, members: Sequence[Node], inline: int, kind: str = "") -> Node:
    """Replace nodes by one kernel, which stands where the last of them does.

    Args:
        graph: that they are in.
        members: in order; only the results of the last one are read by others.
        inline: constants of up to this many elements stay in the kernel as immediates; larger ones become operands.
        kind: what they are as a whole, if they are something (`Fused.kind`).
    """
    sink = members[-1]
    region = Graph(kind or kernel_label(members))
    mapped: dict[Value, Value] = {}
    operands: list[Value] = []
    inside = {out for node in members for out in node.outputs}
    for node in members:
        for value in node.present_inputs:
            if value not in inside and value not in mapped:
                if value.tensor is not None and value.type.size <= inline:
                    mapped[value] = region.constant(value.tensor, value.name)
                else:
                    mapped[value] = region.add_input(value.name, value.type)
                    operands.append(value)
        copy = copy_node(node, region, mapped)
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            new.type = old.type
    region.set_outputs(mapped[out] for out in sink.outputs)
    loc = Loc().merge(*(node.loc for node in members))
    kernel = graph.add(Fused(region.name, kind), operands, regions=[region], before=sink, loc=loc)
    names = [out.name for out in sink.outputs]
    for old, new in zip(sink.outputs, kernel.outputs, strict=True):
        new.type = old.type
        graph.replace_all_uses(old, new)
    for node in reversed(members):
        graph.remove(node)
    for new, name in zip(kernel.outputs, names, strict=True):
        graph.rename(new, name)
    return kernel


def kernel_label(nodes: Sequence[Node]) -> str:
    """A short name: the first operators, and how many more there are."""
    names = [node.op.name.lower() for node in nodes]
    return "_".join(names if len(names) <= 4 else [*names[:3], f"{len(names) - 3}more"])
