"""A pass in a package of its own: second powers become products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lepton_compiler.ir.graph import Graph, Value
from lepton_compiler.ops.builder import Builder
from lepton_compiler.pipeline import Pass, PassContext
from lepton_compiler.rewrite import Rule, rewrite


class PowerOfTwo(Rule):
    """Pow(x, 2)  -->  Mul(x, x)"""

    def pattern(self, p: Any, x: Any) -> Any:
        return p.Pow(x, 2)

    def replace(self, b: Builder, x: Value) -> Value:
        return b.Mul(x, x)


@dataclass(frozen=True)
class Square(Pass):
    """Pow(x, 2)  -->  Mul(x, x)"""

    def run(self, graph: Graph, ctx: PassContext) -> None:
        rewrite(graph, [PowerOfTwo()], ctx.tracer)
