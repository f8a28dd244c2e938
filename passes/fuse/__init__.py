"""Grouping operators into kernels."""

from __future__ import annotations

from dataclasses import dataclass

from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.traverse import bodies
from lepton_compiler.passes.fuse.groups import form_groups
from lepton_compiler.passes.fuse.wrap import wrap
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
                    wrap(part, group.nodes[::-1], self.inline)
