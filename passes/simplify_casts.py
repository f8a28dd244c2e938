"""Chains of conversions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from lepton_compiler.ir.graph import Graph, Node
from lepton_compiler.ir.types import DType
from lepton_compiler.ops.builder import Builder
from lepton_compiler.pipeline import Pass, PassContext
from lepton_compiler.rewrite import rewrite, simplifies
from lepton_compiler.rewrite.rule import Replacement

MANTISSA = {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}
EXPONENT = {"float16": 5, "bfloat16": 8, "float32": 8, "float64": 11}


@simplifies("Cast")
def widened_and_back(b: Builder, node: Node) -> Replacement:
    """Cast(Cast(x, wider), t)  -->  Cast(x, t), or x if it is a t; `wider` holds every value of x's type"""
    inner = node.present_inputs[0].producer
    if inner is None or inner.op.name != "Cast":
        return None
    x, op = inner.present_inputs[0], node.op
    middle: Any = inner.op
    if not holds(middle.to, x.type.dtype):
        return f"{middle.to} does not hold every {x.type.dtype}"
    return x if x.type == node.output.type else b(replace(op), x)


def holds(wide: DType, narrow: DType) -> bool:
    """Whether every value of `narrow` is a value of `wide`."""
    if narrow.kind == "bool" and wide.name == "float8_e8m0fnu":
        return False  # it has no zero
    if wide == narrow or narrow.kind == "bool":
        return wide.kind != "complex"
    if narrow.is_integer and wide.is_integer:
        spare = wide.bits - narrow.bits
        return spare >= 0 if wide.kind == narrow.kind else wide.kind == "int" and spare > 0
    if narrow.is_integer and wide.is_float:
        return narrow.bits - (narrow.kind == "int") <= MANTISSA.get(wide.name, 0)
    if narrow.name in MANTISSA and wide.name in MANTISSA:
        return MANTISSA[narrow.name] <= MANTISSA[wide.name] and EXPONENT[narrow.name] <= EXPONENT[wide.name]
    return False


@dataclass(frozen=True)
class SimplifyCasts(Pass):
    """Drops conversions to a wider type and back."""

    def run(self, graph: Graph, ctx: PassContext) -> None:  # noqa: D102
        rewrite(graph, [widened_and_back], ctx.tracer)
