"""Grouping operators into kernels."""

from __future__ import annotations

from dataclasses import dataclass

from lepton_compiler.analysis.layouts import offset_of
from lepton_compiler.ir.graph import Graph, Node
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
        slices: slices that are parts of memory, and begin at multiples of so many bytes, stay outside as well, if they are alone; 0 for none. What
            they are taken from then lives as long as they do.
        moves: whether a kernel may have several operators that move elements, and what is element-wise between and before them.
    """

    depth: int = 32
    inline: int = 1
    singletons: bool = True
    slices: int = 0
    moves: bool = False

    def run(self, graph: Graph, ctx: PassContext) -> None:  # noqa: D102
        for part in list(bodies(graph)):
            for group in form_groups(part, self.depth, ctx.target.lanes(32), self.moves):
                alone = len(group.nodes) == 1
                if group.nodes[0].op.name != "Fused" and not (alone and self._stays(group.nodes[0])):
                    wrap(part, group.nodes[::-1], self.inline)

    def _stays(self, node: Node) -> bool:
        """Whether an operator without others to go with needs no kernel."""
        offset = offset_of(node) if self.slices else None
        return not self.singletons or (offset is not None and offset % self.slices == 0)
