"""Grouping operators into kernels."""

from __future__ import annotations

from dataclasses import dataclass

from lepton_compiler.ir.graph import Graph, Loc, Node, Value, copy_node
from lepton_compiler.ir.traverse import bodies
from lepton_compiler.ops.control import Fused
from lepton_compiler.passes.fuse.groups import Group, form_groups
from lepton_compiler.pipeline import Pass, PassContext

__all__ = ["Fuse"]


@dataclass(frozen=True)
class Fuse(Pass):
    """Conv, Add, Relu  -->  Fused { Conv, Add, Relu }

    A kernel has at most one operator that is not element-wise, its anchor: a convolution, product, pool, reduction, normalisation or
    data movement. Element-wise operators that read its result, or each other's, at full size join it where nobody else needs the
    values in between; a reduction also takes element-wise operators before it. Views stay outside: they are free there.

    Attributes:
        depth: most operators in a kernel.
        inline: constants of up to this many elements stay in the kernel as immediates; larger ones become operands.
        singletons: also wrap operators that stay alone.
    """

    depth: int = 32
    inline: int = 1
    singletons: bool = True

    def run(self, graph: Graph, ctx: PassContext) -> None:  # noqa: D102
        for part in list(bodies(graph)):
            for group in form_groups(part, self.depth, ctx.target.lanes(32)):
                alone = len(group.nodes) == 1
                if group.nodes[0].op.name != "Fused" and (not alone or self.singletons):
                    self._wrap(part, group)

    def _wrap(self, graph: Graph, group: Group) -> None:
        members = group.nodes[::-1]
        sink = members[-1]
        region = Graph(kernel_label(members))
        mapped: dict[Value, Value] = {}
        operands: list[Value] = []
        inside = {out for node in members for out in node.outputs}
        for node in members:
            for value in node.present_inputs:
                if value not in inside and value not in mapped:
                    if value.tensor is not None and value.type.size <= self.inline:
                        mapped[value] = region.constant(value.tensor, value.name)
                    else:
                        mapped[value] = region.add_input(value.name, value.type)
                        operands.append(value)
            copy = copy_node(node, region, mapped)
            for old, new in zip(node.outputs, copy.outputs, strict=True):
                new.type = old.type
        region.set_outputs(mapped[out] for out in sink.outputs)
        loc = Loc().merge(*(node.loc for node in members))
        kernel = graph.add(Fused(region.name), operands, regions=[region], before=sink, loc=loc)
        names = [out.name for out in sink.outputs]
        for old, new in zip(sink.outputs, kernel.outputs, strict=True):
            new.type = old.type
            graph.replace_all_uses(old, new)
        for node in reversed(members):
            graph.remove(node)
        for new, name in zip(kernel.outputs, names, strict=True):
            graph.rename(new, name)


def kernel_label(nodes: list[Node]) -> str:
    """A short name: the first operators, and how many more there are."""
    names = [node.op.name.lower() for node in nodes]
    return "_".join(names if len(names) <= 4 else [*names[:3], f"{len(names) - 3}more"])
