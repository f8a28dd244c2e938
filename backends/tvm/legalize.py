"""Replacing operators that have no native kernel by what they are made of."""

from __future__ import annotations

from dataclasses import dataclass

from lepton_compiler.backends.tvm.capabilities import refusal
from lepton_compiler.backends.tvm.decode_weights import decode_as_narrow, scales_after_products
from lepton_compiler.backends.tvm.widen import convert_constants, widen
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ops.decompose import expand_where
from lepton_compiler.pipeline import Pass, PassContext


@dataclass(frozen=True)
class LegalizeNative(Pass):
    """GroupNormalization(x)  -->  Reshape, InstanceNormalization, ...  -->  ReduceMean, Sub, ...: down to what has a kernel."""

    def run(self, graph: Graph, ctx: PassContext) -> None:  # noqa: D102
        if ctx.target.gpus:
            decode_as_narrow(graph)
        scales_after_products(graph)
        widen(graph, ctx.target)
        expand_where(graph, lambda node: refusal(node, ctx.target) is not None)
        while widen(graph, ctx.target):
            expand_where(graph, lambda node: refusal(node, ctx.target) is not None)
        convert_constants(graph, small=ctx.level == "Os")
