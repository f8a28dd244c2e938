"""Codes that do not leave a kernel: they are rounded to as numbers, without conversions there and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lepton_compiler.backends.tvm.value_ranges import is_bounded
from lepton_compiler.ir.graph import Graph, Node
from lepton_compiler.ir.types import FLOAT32, INT8, UINT8
from lepton_compiler.ops.builder import Builder
from lepton_compiler.pipeline import Pass, PassContext
from lepton_compiler.rewrite import rewrite, simplifies
from lepton_compiler.rewrite.rule import Replacement


@simplifies("DequantizeLinear")
def rounded_numbers(b: Builder, node: Node) -> Replacement:
    """DQ(Q(x, 1, zero), s, zero)  -->  Mul(Clip(Round(x), least - zero, most - zero), s), of 8 bits: no codes where nobody keeps them"""
    codes, scale = node.present_inputs[:2]
    source = codes.producer
    if source is None or source.op.name != "QuantizeLinear" or len(codes.uses) != 1 or codes.is_output or node.output.type.dtype != FLOAT32:
        return "its codes are kept, or made otherwise"
    x, one, *zeros = source.present_inputs
    numbers = [v.tensor is not None and v.type.size == 1 for v in (scale, one, *zeros, *node.present_inputs[2:])]
    if codes.type.dtype not in (INT8, UINT8) or not all(numbers) or float(one.numpy().reshape(())) != 1 or scale.type.dtype != FLOAT32:
        return "its codes are not those of numbers as they are"
    zero, other = (int(v[0].numpy().reshape(())) if v else 0 for v in (zeros, node.present_inputs[2:]))
    if zero != other or x.type.dtype != FLOAT32 or getattr(source.op, "precision", None) is not None or not is_bounded(x):
        return "its zero points differ, or there may be NaN"
    b.loc = b.loc.merge(source.loc)
    info = np.iinfo(codes.type.dtype.numpy)
    low, high = (b.constant(np.float32(bound - zero), name="bound") for bound in (info.min, info.max))
    return b.Mul(b.Clip(b.Round(x), low, high), b.constant(scale.numpy().reshape(()), name="scale"))


@dataclass(frozen=True)
class RoundInside(Pass):
    """Inside of kernels: DQ(Q(x, 1, zero), s, zero)  -->  Mul(Clip(Round(x), least - zero, most - zero), s), where x is known to be no NaN

    Not for firmware and GPUs.
    """

    def run(self, graph: Graph, ctx: PassContext) -> None:  # noqa: D102
        if ctx.target.is_firmware or ctx.target.gpus:
            return
        for node in list(graph.walk()):
            if node.op.name == "Fused":
                rewrite(node.regions[0], [rounded_numbers], ctx.tracer)
