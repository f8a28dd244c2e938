"""A pass in a package of its own: smooth activations become their piecewise approximations."""

from __future__ import annotations

from dataclasses import dataclass

from lepton_compiler.ir.graph import Graph, Value
from lepton_compiler.ops.builder import Builder
from lepton_compiler.pipeline import Pass, PassContext
from lepton_compiler.rewrite import Rule, rewrite


class HardenSwish(Rule):
    """Swish(x)  -->  HardSwish(x)"""

    def pattern(self, p, x):
        return p.Swish(x, alpha=1.0)

    def replace(self, b: Builder, x: Value) -> Value:
        return b.HardSwish(x)


@dataclass(frozen=True)
class SwishToHardSwish(Pass):
    """Swish(x)  -->  HardSwish(x): not the same function, so this belongs before training or calibration, not after."""

    def run(self, graph: Graph, ctx: PassContext) -> None:
        rewrite(graph, [HardenSwish()], ctx.tracer)
