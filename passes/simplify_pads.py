"""Padding that the next operator can do itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ops.builder import Builder
from lepton_compiler.pipeline import Pass, PassContext
from lepton_compiler.rewrite import rewrite, simplifies
from lepton_compiler.rewrite.rule import Replacement


@simplifies("Conv", "MaxPool", "AveragePool")
def pad_into_window(b: Builder, node: Node) -> Replacement:
    """Conv(Pad(x, zeros))  -->  Conv(x, pads=...); MaxPool with -inf, AveragePool that counts the padding"""
    op: Any = node.op
    pad = node.present_inputs[0].producer
    if pad is None or pad.op.name != "Pad" or getattr(op, "indices", False):
        return None
    spatial = _spatial_pads(pad, op.layout)
    if isinstance(spatial, str):
        return spatial
    fill = _fill(pad)
    neutral = {"Conv": 0.0, "AveragePool": 0.0, "MaxPool": -np.inf}[op.name]
    if fill != neutral:
        return f"it pads with {fill}, not {neutral}"
    if op.name == "AveragePool":
        if op.ceil_mode or (any(p != 0 for p in op.pads) and not op.count_include_pad):
            return "the pool counts its own padding differently"
        op = replace(op, count_include_pad=True)
    if op.name == "MaxPool" and op.ceil_mode:
        return "the pool rounds up"
    pads = tuple(a + c for a, c in zip(op.pads, spatial, strict=True))
    return b(replace(op, pads=pads), pad.inputs[0], *node.inputs[1:])


@simplifies("Pad")
def merge_pads(b: Builder, node: Node) -> Replacement:
    """Pad(Pad(x))  -->  Pad(x) with the same constant"""
    inner = node.present_inputs[0].producer
    outer_op: Any = node.op
    if inner is None or inner.op.name != "Pad" or _fill(inner) is None or _fill(inner) != _fill(node):
        return None
    inner_op: Any = inner.op
    if not all(isinstance(p, int) and p >= 0 for p in (*inner_op.pads, *outer_op.pads)):
        return "a padding is negative or not known"
    pads = tuple(a + c for a, c in zip(inner_op.pads, outer_op.pads, strict=True))
    return b(replace(outer_op, pads=pads), inner.inputs[0], *node.inputs[1:])


def _spatial_pads(pad: Node, layout: str) -> tuple[int, ...] | str:
    op: Any = pad.op
    rank = len(op.pads) // 2
    spatial = range(1, rank - 1) if layout == "NHWC" else range(2, rank)
    rest = [a for a in range(rank) if a not in spatial]
    if op.mode != "constant" or not all(isinstance(p, int) and p >= 0 for p in op.pads):
        return "it does not pad with a constant, or crops"
    if any(op.pads[a] or op.pads[rank + a] for a in rest):
        return "it pads the batch or the channels"
    return tuple(op.pads[a] for a in spatial) + tuple(op.pads[rank + a] for a in spatial)


def _fill(pad: Node) -> Any:
    """The number that a Pad fills with, where it is known."""
    value: Value | None = pad.inputs[1] if len(pad.inputs) > 1 else None
    if getattr(pad.op, "mode") != "constant" or (value is not None and value.tensor is None):  # noqa: B009
        return None
    if value is None:
        return 0.0
    number = value.numpy().reshape(-1)[0]
    return float(number) if value.type.dtype.is_float else number.item()  # an integer of 64 bits may not fit a float


@dataclass(frozen=True)
class SimplifyPads(Pass):
    """Lets convolutions and poolings pad."""

    def run(self, graph: Graph, ctx: PassContext) -> None:  # noqa: D102
        rewrite(graph, [pad_into_window, merge_pads], ctx.tracer)
