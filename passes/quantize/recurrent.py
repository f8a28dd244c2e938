"""Recurrent layers on codes: the state is quantized by one scale before each step multiplies it.

A layer is written as one product over all steps, which is quantized as any other, and a `Scan`; only the product in its body is left to
this module. States of these layers are bounded, so that one scale serves all steps.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_compiler.calibration import Range
from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ir.types import FLOAT32, DType
from lepton_compiler.ops.decompose import expand
from lepton_compiler.ops.quantize import DequantizeLinear, QuantizeLinear
from lepton_compiler.passes.quantize import parameters
from lepton_compiler.passes.quantize.roles import RECURRENT, layer_name, weight_of


@dataclass(eq=False)
class StateProduct:
    """A product of states on codes: its name, the node, the `DequantizeLinear` of its weights, these before; of the states range and codes."""

    name: str
    node: Node
    weights: Node
    float_weights: np.ndarray
    range: Range
    scale: float
    zero_point: int


RULES = frozenset(f"decompose-{name.lower()}" for name in RECURRENT)


def expand_recurrent(graph: Graph) -> None:
    """Write the recurrent layers with constant weights as products and `Scan`s."""
    for node in graph.nodes:
        weights = node.inputs[1:3]
        if node.op.name in RECURRENT and node.output.type.dtype == FLOAT32 and all(w is not None and w.is_constant for w in weights):
            expand(node)


def products(graph: Graph) -> Iterator[tuple[Node, Node]]:
    """The products of states by constant weights, each after the `Scan` that it is in."""
    for node in graph:
        if node.op.name == "Scan" and RULES.intersection(node.loc.rules):
            yield from ((node, inner) for inner in node.regions[0] if weight_of(inner) is not None)


def states(scan: Node) -> list[Value]:
    """The values that hold every hidden state of a layer: those of all steps, and the one before the first."""
    op: Any = scan.op
    return [v for v in (scan.outputs[op.carried], scan.inputs[0]) if v is not None and not v.is_constant]


def place_states(graph: Graph, ranges: Mapping[str, Range], element: DType, keep: Collection[str] = ()) -> list[StateProduct]:
    """Quantize the products in the bodies of recurrent layers, except those in `keep`."""
    placed = []
    for scan, node in list(products(graph)):
        covered = Range(0.0, 0.0)
        for value in states(scan):
            covered = covered.hull(ranges[value.name])
        name = layer_name(node)
        if name not in keep:
            placed.append(_place_product(name, node, covered, element))
    return placed


def _place_product(name: str, node: Node, covered: Range, element: DType) -> StateProduct:
    body, (data, weight) = node.graph, node.inputs
    assert data is not None and weight is not None
    array = weight.numpy()
    scale, zero = parameters.activation_parameters(covered, element)
    s, z = body.constant(scale, "state_scale"), body.constant(zero, "state_zero")
    loc = node.loc.by("quantize")
    codes = body.add(QuantizeLinear(dtype=element), [data, s, z], names=["state_codes"], before=node, loc=loc)
    real = body.add(DequantizeLinear(), [codes.output, s, z], names=["state_real"], before=node, loc=loc)
    scales = parameters.weight_scales(array, 1, 8)
    stored = body.constant(parameters.weight_codes(array, scales, 8), "weights_codes")
    back = body.add(DequantizeLinear(axis=1), [stored, body.constant(scales, "weights_scale")], names=["weights"], before=node, loc=loc)
    body.set_inputs(node, [real.output, back.output])
    return StateProduct(name, node, back, array, covered, float(scale), int(zero))
