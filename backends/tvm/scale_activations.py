"""Factors of activations that end in codes, taken into the constants of the activations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ir.types import FLOAT32
from lepton_compiler.ops.builder import Builder
from lepton_compiler.pipeline import Pass, PassContext
from lepton_compiler.rewrite import rewrite, simplifies
from lepton_compiler.rewrite.rule import Replacement

USUAL = (2.0**-60, 2.0**60)
"""Bounds of factors whose products with numbers are far from the ends of the range of float32."""


@simplifies("Mul")
def scaled_hard_swish(b: Builder, node: Node) -> Replacement:
    """Q(Mul(HardSwish(x), a))  -->  Q(Mul(x, Clip(Add(Mul(x, a / 6), a / 2), 0, a))): one addition and a product that are one instruction"""
    first, second = node.present_inputs
    factor, value = (first, second) if first.tensor is not None else (second, first)
    source = value.producer
    if source is None or source.op.name != "HardSwish" or len(value.uses) != 1 or value.is_output:
        return "no HardSwish that is only multiplied"
    if not _is_usual(factor) or value.type.dtype != FLOAT32 or node.output.type != value.type:
        return "its factor is not a usual number"
    if not _is_quantized(node.output):
        return "its result is not only quantized"
    (x,), a = source.present_inputs, float(factor.numpy().reshape(()))
    b.loc = b.loc.merge(source.loc)
    low, high, slope, middle = (b.constant(np.float32(number), name="hardswish") for number in (0.0, a, a / 6, a / 2))
    return b.Mul(x, b.Clip(b.Add(b.Mul(x, slope), middle), low, high))


def _is_usual(factor: Value) -> bool:
    """Whether a value is a positive number far from the ends of the range of float32."""
    return factor.tensor is not None and factor.type.size == 1 and USUAL[0] < float(factor.numpy().reshape(())) < USUAL[1]


def _is_quantized(value: Value) -> bool:
    """Whether a value ends in codes alone, perhaps after additions of constants and further factors: rounding there hides rounding here."""
    if len(value.uses) != 1 or value.is_output:
        return False
    (user,) = value.users
    if user.op.name in ("Add", "Mul"):
        return any(v.is_constant for v in user.present_inputs) and _is_quantized(user.output)
    return user.op.name == "QuantizeLinear"


@dataclass(frozen=True)
class ScaleActivations(Pass):
    """Q(Mul(HardSwish(x), a))  -->  Q(Mul(x, Clip(Add(Mul(x, a / 6), a / 2), 0, a))): fewer instructions between sums and codes"""

    def run(self, graph: Graph, ctx: PassContext) -> None:  # noqa: D102
        rewrite(graph, [scaled_hard_swish], ctx.tracer)
