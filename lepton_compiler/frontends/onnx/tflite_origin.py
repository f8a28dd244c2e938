"""Models that tf2onnx made from quantized TFLite files mean what TFLite computes, which ONNX's operators do not say in every detail.

TFLite averages the quantized numbers themselves and rounds ties away from zero. The converter writes that as an average of real
numbers, rounded to even: one step off for every tie, and twenty behind a softmax.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ir.types import FLOAT32, INT8, UINT8
from lepton_compiler.ops.builder import Builder
from lepton_compiler.rewrite import rewrite, simplifies
from lepton_compiler.rewrite.rule import Replacement


def is_converted_from_tflite(model: onnx.ModelProto) -> bool:
    """Whether tf2onnx made this model from a quantized TFLite file: it names what it puts around quantized operators so."""
    return model.producer_name == "tf2onnx" and any(
        node.op_type == "QuantizeLinear" and node.input and node.input[0].endswith("_prequant") for node in model.graph.node
    )


def restore_averages(graph: Graph) -> None:
    """Let averages of quantized numbers be what TFLite computes."""
    rewrite(graph, [average_of_codes], None)


@simplifies("QuantizeLinear")
def average_of_codes(b: Builder, node: Node) -> Replacement:
    """Q(AveragePool(DQ(x)))  -->  round half away from zero(AveragePool(x)), where nothing is scaled in between"""
    op: Any = node.op
    pool = node.present_inputs[0].producer
    source = pool.present_inputs[0].producer if pool is not None and pool.op.name in ("AveragePool", "ReduceMean") else None
    if pool is None or source is None or source.op.name != "DequantizeLinear" or op.dtype not in (INT8, UINT8):
        return "no average of quantized numbers"
    if len(pool.output.uses) != 1 or pool.output.is_output or getattr(pool.op, "count_include_pad", False):
        return "the average is used as a real number"
    if not _same(node, source) or source.present_inputs[0].type.dtype != op.dtype:
        return "the average is scaled"
    mean = b(pool.op, b.Cast(source.present_inputs[0], to=FLOAT32), *pool.inputs[1:])
    rounded = b.Mul(b.Sign(mean), b.Floor(b.Add(b.Abs(mean), b.constant(np.array(0.5, np.float32)))))
    return b.Cast(rounded, to=op.dtype)


def _same(first: Node, second: Node) -> bool:
    """Whether two quantizations have equal parameters, one of each."""
    pairs = list(zip(_parameters(first), _parameters(second), strict=True))
    return all(a.tensor is not None and c.tensor is not None and a.type.size == 1 and a.numpy() == c.numpy() for a, c in pairs)


def _parameters(node: Node) -> list[Value]:
    return node.present_inputs[1:]
