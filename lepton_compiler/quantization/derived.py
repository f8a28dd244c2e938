"""Scales of biases as products of the scales of data and weights, which are there already, instead of constants of their own."""

from __future__ import annotations

import numpy as np

from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ir.types import FLOAT32, INT32
from lepton_compiler.ops.builder import Builder

LAYERS = frozenset({"Conv", "MatMul", "Gemm"})


def derive_bias_scales(graph: Graph) -> int:
    """DQ(bias, scale)  -->  DQ(bias, Mul(scale of weights, scale of data)), where that is the same to the last bit; returns how many.

    A bias per channel has four bytes of code and four of scale; the latter say nothing that is not known. `fold-constants`,
    `simplify-quantization` and the optimisers of runtimes compute the product before the model runs.
    """
    changed = 0
    for node in graph.nodes:
        bias = _dequantized(node) if node.op.name == "DequantizeLinear" and node.present_inputs[0].type.dtype == INT32 else None
        layer = None if bias is None else _layer_of(bias)
        if bias is None or layer is None:
            continue
        scales = [_scale(layer.present_inputs[k]) for k in (1, 0)]
        weights, data = scales
        if weights is None or data is None or data.type.size != 1:
            continue
        own = bias.present_inputs[1]
        product = weights.numpy() * data.numpy().reshape(())
        if own.type.size > 1 and np.array_equal(product.reshape(-1), own.numpy().reshape(-1)) and weights.type.shape == own.type.shape:
            derived = Builder(graph, before=bias, loc=bias.loc).Mul(weights, data)
            graph.set_inputs(bias, [bias.inputs[0], derived, *bias.inputs[2:]])
            changed += 1
    return changed


def _dequantized(node: Node) -> Node | None:
    """The node, if it gives float32 by a constant scale."""
    scale = node.present_inputs[1]
    return node if scale.tensor is not None and scale.type.dtype == FLOAT32 and node.output.type.dtype == FLOAT32 else None


def _layer_of(bias: Node) -> Node | None:
    """The convolution or product that a bias is added to, by itself or by the `Add` after it."""
    if len(bias.output.uses) != 1:
        return None
    (user,) = bias.output.users
    if user.op.name == "Add":
        others = [v.producer for v in user.present_inputs if v is not bias.output]
        user = others[0] if len(others) == 1 and others[0] is not None else user
    return user if user.op.name in LAYERS else None


def _scale(value: Value) -> Value | None:
    """The constant scale of a dequantized operand of one scale per channel at most."""
    node = value.producer
    found = None if node is None or node.op.name != "DequantizeLinear" else _dequantized(node)
    return None if found is None or getattr(found.op, "block_size", False) else found.present_inputs[1]
