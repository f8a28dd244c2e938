"""Replacing composite operators by what they are made of, for backends that do not take them whole."""

from __future__ import annotations

from dataclasses import dataclass

from lepton_compiler.ir.graph import Graph
from lepton_compiler.ops.decompose import expand_where
from lepton_compiler.pipeline import Pass, PassContext


@dataclass(frozen=True)
class LegalizeDecompose(Pass):
    """HardSwish(x)  -->  Mul(x, HardSigmoid(x)), and so on for every operator that has a decomposition and is not supported.

    A node in a form that its operator's decomposition refuses stays as it is.

    Attributes:
        keep: names of operators that stay.
    """

    keep: tuple[str, ...] = ()

    def run(self, graph: Graph, ctx: PassContext) -> None:  # noqa: D102
        expand_where(graph, lambda node: node.op.name not in self.keep, leave=True)
