"""Batch normalisation with constant statistics, at no cost."""

from __future__ import annotations

from dataclasses import dataclass

from lepton_compiler.ir.graph import Graph
from lepton_compiler.passes.weights import INTO_WEIGHTS, batch_norm_to_mul_add
from lepton_compiler.pipeline import Pass, PassContext
from lepton_compiler.rewrite import rewrite


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """BatchNormalization(Conv(x, w))  -->  Conv(x, w', bias); alone, Add(Mul(x, scale), shift)

    Works after and before convolutions, after transposed convolutions and after matrix products.
    """

    def run(self, graph: Graph, ctx: PassContext) -> None:  # noqa: D102
        rewrite(graph, [batch_norm_to_mul_add, *INTO_WEIGHTS], ctx.tracer)
