"""Weights as codes, data in floating point: smaller models whose kernels read weights as they are stored."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from lepton_compiler.ir.graph import Graph, Node
from lepton_compiler.ir.traverse import bodies
from lepton_compiler.ir.types import FLOAT32
from lepton_compiler.ops.quantize import DequantizeLinear
from lepton_compiler.passes.quantize import parameters
from lepton_compiler.passes.quantize.roles import layer_name, output_channels, weight_of

SMALLEST = 256
"""Weights of fewer elements stay as they are: their scales would take as much."""
FEW = 16
"""Products per output below which 4 bits would be spent on scales rather than on weights: these layers get 8."""


@dataclass(eq=False)
class Stored:
    """A layer whose weights are codes: its name, the node, the `DequantizeLinear` of the weights, what they were, and the bits of a code."""

    name: str
    node: Node
    weights: Node
    float_weights: np.ndarray
    bits: int


def place_weights(graph: Graph, bits: int, group: int, keep: Collection[str] = ()) -> list[Stored]:
    """Store the weights of layers as codes of 8 or 4 bits, in nested graphs too.

    Args:
        graph: an optimised float graph.
        bits: 8, or 4.
        group: of 4-bit weights of matrices, how many consecutive factors of a sum share a scale; other weights have a scale per channel.
        keep: layers that stay as they are, by the name of the value that the convolution or product gives.
    """
    placed = []
    for part in list(bodies(graph)):
        for node in part.nodes:
            weight = weight_of(node)
            if weight is not None and weight.type.dtype == FLOAT32 and weight.type.size >= SMALLEST and layer_name(node) not in keep:
                placed.append(_store(node, weight.numpy(), bits, group))
    return placed


def _store(node: Node, array: np.ndarray, bits: int, group: int) -> Stored:
    channels = output_channels(node)
    inner = 1 - channels
    factors = array.size // array.shape[channels]
    bits = 8 if factors < FEW else bits
    grouped = bits == 4 and group and array.ndim == 2 and array.shape[inner] > group
    if grouped:
        scales = parameters.group_scales(array, inner, group, bits)
        op = DequantizeLinear(axis=inner, block_size=group)
        factor = parameters.spread(scales, array.shape, inner, group)
    else:
        scales = parameters.weight_scales(array, channels, bits)
        op = DequantizeLinear(axis=channels)
        factor = parameters.spread(scales, array.shape, channels)
    graph, name = node.graph, layer_name(node)
    codes = graph.constant(parameters.weight_codes(array, factor, bits), f"{name}_codes")
    inputs = [codes, graph.constant(scales, f"{name}_scale")]
    back = graph.add(op, inputs, names=[f"{name}_weights"], before=node, loc=node.loc.by("quantize"))
    graph.set_inputs(node, [back.output if i == 1 else v for i, v in enumerate(node.inputs)])
    return Stored(name, node, back, array, bits)
