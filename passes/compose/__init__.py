"""Recognising operators that models spell out in simpler ones."""

from __future__ import annotations

from dataclasses import dataclass

from lepton_compiler.ir.graph import Graph
from lepton_compiler.passes.compose.activations import ACTIVATIONS
from lepton_compiler.passes.compose.normalizations import NORMALIZATIONS
from lepton_compiler.pipeline import Pass, PassContext
from lepton_compiler.rewrite import rewrite

__all__ = ["Compose"]


@dataclass(frozen=True)
class Compose(Pass):
    """Mul(x, Sigmoid(x))  -->  Swish(x), and likewise Gelu, HardSwish, Mish, Softmax, LayerNormalization, RMSNormalization, ...

    One operator is one kernel that the backend writes well, and backends that cannot take it whole decompose it again.
    """

    def run(self, graph: Graph, ctx: PassContext) -> None:  # noqa: D102
        rewrite(graph, [*ACTIVATIONS, *NORMALIZATIONS], ctx.tracer)
