"""Activations that end in codes: factors taken into their constants, and bounds left to the rounding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ir.types import FLOAT32, INT8, UINT8
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


@simplifies("Relu")
def relu_by_saturation(b: Builder, node: Node) -> Replacement:
    """Q(Mul(Relu(x), c), s, least)  -->  Q(Mul(x, c), s, least), c not below zero: codes below the one of zero do not exist"""
    if not _saturates_at_zero(node.output):
        return "its result is not only quantized, with the least code for zero"
    return node.present_inputs[0]


def _saturates_at_zero(value: Value) -> bool:
    """Whether a value ends in codes alone, perhaps after factors that are not below zero, whose least one stands for zero."""
    if len(value.uses) != 1 or value.is_output or value.type.dtype != FLOAT32:
        return False
    (user,) = value.users
    if user.op.name == "Mul":
        factors = [v for v in user.present_inputs if v is not value]
        return all(_not_below_zero(factor) for factor in factors) and _saturates_at_zero(user.output)
    if user.op.name != "QuantizeLinear" or user.present_inputs[0] is not value or getattr(user.op, "precision", None) is not None:
        return False
    kind = user.output.type.dtype
    zero = user.present_inputs[2] if len(user.present_inputs) > 2 else None
    if kind not in (INT8, UINT8) or not _not_below_zero(user.present_inputs[1]):
        return False
    least = np.iinfo(kind.numpy).min
    return least == 0 if zero is None else zero.tensor is not None and bool(np.all(zero.numpy() == least))


def _not_below_zero(value: Value) -> bool:
    """Whether a value is constant, finite, and nowhere below zero."""
    return value.tensor is not None and bool(np.all(np.isfinite(value.numpy()) & (value.numpy() >= 0)))


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
    """Q(Mul(HardSwish(x), a))  -->  Q(Mul(x, Clip(Add(Mul(x, a / 6), a / 2), 0, a))): fewer instructions between sums and codes

    And, except for firmware and GPUs, whose kernels know `Relu`: Q(Relu(x), s, least)  -->  Q(x, s, least)
    """

    def run(self, graph: Graph, ctx: PassContext) -> None:  # noqa: D102
        known = ctx.target.is_firmware or bool(ctx.target.gpus)
        rewrite(graph, [scaled_hard_swish, *([] if known else [relu_by_saturation])], ctx.tracer)
