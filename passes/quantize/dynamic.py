"""Dynamic quantization: data gets the scale of its own range as the model runs, weights are int8; for nets of matrix products."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ir.traverse import bodies
from lepton_compiler.ir.types import FLOAT32
from lepton_compiler.ops.binary import Add, Mul
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.cast import Cast
from lepton_compiler.ops.matmul import MatMulInteger
from lepton_compiler.ops.quantize import DynamicQuantizeLinear
from lepton_compiler.passes.quantize import parameters
from lepton_compiler.passes.quantize.roles import layer_name, output_channels, weight_of


@dataclass(frozen=True)
class Dynamic:
    """A product on codes: its name, its weights before and their scales per column."""

    name: str
    float_weights: np.ndarray
    scales: np.ndarray


def place_dynamic(graph: Graph, keep: Collection[str] = ()) -> list[Dynamic]:
    """MatMul(x, w)  -->  Cast(MatMulInteger(DynamicQuantizeLinear(x), codes of w)) * (scale of x * scales of w), in nested graphs too."""
    placed = []
    for part in list(bodies(graph)):
        known: dict[Value, tuple[Value, ...]] = {}
        for node in part.nodes:
            if node.op.name in ("MatMul", "Gemm") and weight_of(node) is not None and layer_name(node) not in keep:
                data = node.inputs[0]
                if data is not None and data.type.dtype == FLOAT32 and data.type.rank >= 2:
                    placed.append(_place(node, data, known))
    return placed


def _place(node: Node, data: Value, known: dict[Value, tuple[Value, ...]]) -> Dynamic:
    graph, name, label = node.graph, node.output.name, layer_name(node)
    weight = weight_of(node)
    assert weight is not None
    array = np.ascontiguousarray(weight.numpy() if output_channels(node) else weight.numpy().T)
    scales = parameters.weight_scales(array, 1, 8)
    b = Builder(graph, before=node, loc=node.loc.by("quantize-dynamic"))
    if data not in known:
        known[data] = b.node(DynamicQuantizeLinear(), [data], names=[f"{data.name}_codes"]).outputs
    codes, scale, zero = known[data]
    stored = b.constant(parameters.weight_codes(array, scales, 8), name=f"{name}_weights")
    sums = b(Cast(to=FLOAT32), b(MatMulInteger(), codes, stored, zero))
    result = b(Mul(), sums, b(Mul(), b.constant(scales, name=f"{name}_scale"), scale))
    if node.op.name == "Gemm" and len(node.inputs) > 2 and node.inputs[2] is not None:
        result = b(Add(), result, node.inputs[2])
    graph.replace_all_uses(node.output, result)
    graph.remove(node)
    graph.rename(result, name)
    return Dynamic(label, array, scales)
