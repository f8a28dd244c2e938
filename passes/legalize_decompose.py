"""Replacing composite operators by what they are made of, for backends that do not take them whole."""

from __future__ import annotations

from dataclasses import dataclass

from lepton_compiler.ir.graph import Graph, Node
from lepton_compiler.ir.traverse import bodies
from lepton_compiler.ops.decompose import decomposition_of, expand
from lepton_compiler.pipeline import Pass, PassContext


@dataclass(frozen=True)
class LegalizeDecompose(Pass):
    """HardSwish(x)  -->  Mul(x, HardSigmoid(x)), and so on for every operator that has a decomposition and is not supported.

    A backend derives its own legalisation from this pass and says in `supported` what it takes whole.

    Attributes:
        keep: names of operators that stay.
    """

    keep: tuple[str, ...] = ()

    def supported(self, node: Node) -> bool:
        """Whether a node may stay as it is."""
        return node.op.name in self.keep

    def run(self, graph: Graph, ctx: PassContext) -> None:  # noqa: D102
        for part in list(bodies(graph)):
            pending = part.nodes[::-1]
            while pending:
                node = pending.pop()
                if not self.supported(node) and decomposition_of(node.op) is not None:
                    pending.extend(reversed(expand(node) or []))
