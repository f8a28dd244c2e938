"""What fusion needs to know of each operator."""

from __future__ import annotations

from typing import Literal

from lepton_compiler.ir.graph import Node

Kind = Literal["elementwise", "view", "transpose", "reduction", "anchor", "opaque", "control"]

ARITHMETIC_FAMILIES = frozenset({"unary", "activation", "binary", "cast"})
ELEMENTWISE_FAMILIES = ARITHMETIC_FAMILIES | {"lookup"}
VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze"})
REDUCTION_FAMILIES = frozenset({"reduce"})
NOT_FUSED_REDUCTIONS = frozenset({"TopK", "CumSum", "CumProd", "ArgMax", "ArgMin"})
ANCHORS = frozenset(
    "Conv ConvTranspose MatMul Gemm MatMulInteger ConvInteger MaxPool AveragePool LpPool Softmax LogSoftmax LayerNormalization "
    "RMSNormalization InstanceNormalization GroupNormalization Resize Slice Concat Pad Gather Expand DepthToSpace SpaceToDepth Tile".split()
)
"""Operators, beside reductions, whose results element-wise operators may consume in the same kernel."""


def kind(node: Node) -> Kind:
    """How a node takes part in kernels: `opaque` ones stand alone, `control` ones are none."""
    op = node.op
    family = type(op).__module__.rpartition(".")[2]
    if node.regions or op.name in ("Fail", "Sized"):
        return "control"
    if len(node.outputs) != 1:
        return "opaque"
    if family in ELEMENTWISE_FAMILIES and op.name != "BitCast":
        return "elementwise"
    if family == "quantize" and not getattr(op, "block_size", 0) and op.name != "DynamicQuantizeLinear":
        return "elementwise"
    if op.name in VIEWS:
        return "view"
    if op.name == "Transpose":
        return "transpose"
    if family in REDUCTION_FAMILIES and op.name not in NOT_FUSED_REDUCTIONS:
        return "reduction"
    return "anchor" if op.name in ANCHORS else "opaque"


def is_arithmetic(node: Node) -> bool:
    """Whether a node is element-wise and reads neither tables nor the parameters of codes."""
    return kind(node) == "elementwise" and type(node.op).__module__.rpartition(".")[2] in ARITHMETIC_FAMILIES
