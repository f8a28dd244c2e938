"""Layers in half precision: for machines that compute with it many times faster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from lepton_compiler.analysis.magnitude import wide_nodes
from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ir.traverse import bodies
from lepton_compiler.ir.types import FLOAT32, DType, dtype
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.cast import Cast
from lepton_compiler.pipeline import Pass, PassContext

LOWERED = frozenset(
    (
        "Abs Add AveragePool BatchNormalization Clip Concat Conv ConvTranspose DepthToSpace Div Elu Erf Expand Gather Gelu Gemm GroupNormalization "
        "HardSigmoid HardSwish InstanceNormalization LayerNormalization LeakyRelu MatMul Max MaxPool Min Mish Mul Neg PRelu Pad ReduceMax ReduceMean "
        "ReduceMin Relu Reshape RMSNormalization Selu Sigmoid Slice Softmax Softplus SpaceToDepth Split Squeeze Sub Sum Swish Tanh Tile Transpose "
        "Unsqueeze Where"
    ).split()
)
"""Operators whose results stay near their operands in size, or are bounded. Sums over many elements inside of them are float32 in kernels."""
MOVES = frozenset("Concat DepthToSpace Expand Gather Pad Reshape Slice SpaceToDepth Split Squeeze Tile Transpose Unsqueeze".split())
"""Those of them that compute nothing."""
LARGEST = {"float16": 65504.0, "bfloat16": 3.3895313892515355e38}
"""Numbers beyond are infinite in a type: those of float32 that models hide keys with, too."""


@dataclass(frozen=True)
class LowerPrecision(Pass):
    """Conv(x, w)  -->  Cast(Conv(Cast(x, to=float16), float16 w), to=float32); conversions there and back then fall away

    Inputs and outputs of the graph keep their types. What sums without bound, powers, exponentials and recurrent layers stay in float32, and so does
    what reads them before they are scaled, as a mean does a sum. Quantized layers stay: a sum of products of codes is more than half precision
    holds, and what becomes a code must not be rounded before. What only moves numbers between such nodes stays, too.

    Attributes:
        to: the type, `float16` or `bfloat16`.
    """

    approximate: ClassVar[bool] = True

    to: Literal["float16", "bfloat16"] = "float16"

    def run(self, graph: Graph, ctx: PassContext) -> None:  # noqa: D102
        kind = dtype(self.to)
        for part in list(bodies(graph)):
            wide, lowered = wide_nodes(part), dict[Value, Value]()
            fitting = [n for n in part.nodes if n.op.name in LOWERED and n not in wide and _is_float32(n) and _fits(n, kind)]
            for node in _without_detours(fitting):
                _lower(node, kind, lowered)


def _without_detours(nodes: Sequence[Node]) -> list[Node]:
    """Nodes, in order, without those that only move numbers of others that are not among them, to others that are not: they would be converted twice."""
    kept = {node for node in nodes if node.op.name not in MOVES}
    for node in nodes:
        if any(v.producer in kept for v in node.present_inputs):
            kept.add(node)
    for node in reversed(nodes):
        if any(user in kept for v in node.outputs for user in v.users):
            kept.add(node)
    return [node for node in nodes if node in kept]


def _is_float32(node: Node) -> bool:
    """Whether all real operands and results are float32, and there are some."""
    real = [v.type.dtype for v in (*node.present_inputs, *node.outputs) if v.type.dtype.is_float]
    return (
        bool(real)
        and all(kind == FLOAT32 for kind in real)
        and any(v.type.dtype == FLOAT32 and not v.is_constant for v in node.present_inputs)
    )


def _fits(node: Node, kind: DType) -> bool:
    """Whether all constants among the operands can be told in the type, and single numbers other than zero as such."""
    constants = [v.numpy() for v in node.present_inputs if v.tensor is not None and v.type.dtype == FLOAT32]
    large = any(np.any(np.abs(a[np.isfinite(a)]) > LARGEST[kind.name]) for a in constants)
    return not large and not any(a.size == 1 and np.all(a != 0) and np.all(a.astype(kind.numpy) == 0) for a in constants)


def _lower(node: Node, kind: DType, lowered: dict[Value, Value]) -> None:
    """Compute a node in a type; `lowered` has what was converted to that before, once for all who read it."""
    graph = node.graph
    b = Builder(graph, before=node, loc=node.loc.by("lower-precision"))
    operands: list[Value | None] = []
    for value in node.inputs:
        if value is None or value.type.dtype != FLOAT32:
            operands.append(value)
        elif value.tensor is not None:
            operands.append(b.constant(value.numpy().astype(kind.numpy), name=value.name))
        else:
            if value not in lowered:
                lowered[value] = b(Cast(to=kind), value)
            operands.append(lowered[value])
    made: Any = b.node(node.op, operands)
    for old, new in zip(node.outputs, made.outputs, strict=True):
        result = b(Cast(to=FLOAT32), new) if new.type.dtype == kind else new
        name = old.name
        graph.replace_all_uses(old, result)
        graph.rename(old, graph.fresh_name(name))
        graph.rename(result, name)
    graph.remove(node)
