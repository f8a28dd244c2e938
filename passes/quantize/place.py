"""Static quantization: `QuantizeLinear` and `DequantizeLinear` around the chosen operators."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_compiler.calibration import Range
from lepton_compiler.errors import LeptonError
from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ir.types import DTYPES, DType
from lepton_compiler.ops.quantize import DequantizeLinear, QuantizeLinear
from lepton_compiler.passes.quantize import parameters
from lepton_compiler.passes.quantize.profile import Profile
from lepton_compiler.passes.quantize.recurrent import StateProduct, place_states
from lepton_compiler.passes.quantize.roles import bias_after, channel_axis, constant_operand, output_channels, weight_of
from lepton_compiler.passes.quantize.select import Selection, Unit, groups, select

WIDE = DTYPES["int16"]
"""Type of the codes of data of 16 bits."""
UNLIKE = 4.0
"""Joined values whose ranges differ by more than this factor keep scales of their own."""


@dataclass(eq=False)
class Layer:
    """A layer on codes.

    Attributes:
        name: of the value that the convolution or product gives.
        node: the convolution or product, which reads `DequantizeLinear` of data and weights.
        weights: the `DequantizeLinear` of the weights.
        bias: that of the bias, if there is one on codes.
        axis: of the weights, along which scales differ; None for one scale.
        float_weights: the weights before.
        data: the value that it reads, by its name in the float graph.
        scale: of the codes of its data.
        zero_point: of these.
        element: their type.
        unit: the operators that make up its kernel, in the graph that was quantized.
    """

    name: str
    node: Node
    weights: Node
    bias: Node | None
    axis: int | None
    float_weights: np.ndarray
    data: str
    scale: float
    zero_point: int
    element: DType
    unit: Unit


@dataclass(frozen=True)
class Placement:
    """What static quantization did.

    Attributes:
        layers: that multiply codes.
        ranges: of each value with codes, by its name in the float graph.
        parameters: scale and zero point of its codes.
        activations: the type of codes, except for the data of single layers.
        states: products in the bodies of recurrent layers.
    """

    layers: tuple[Layer, ...]
    ranges: Mapping[str, Range]
    parameters: Mapping[str, tuple[float, int]]
    activations: DType
    states: tuple[StateProduct, ...] = ()


def place(
    graph: Graph,
    ranges: Mapping[str, Range],
    profile: Profile,
    *,
    activations: DType | None = None,
    per_channel: bool = True,
    keep: Collection[str] = (),
    wide: Collection[str] = (),
) -> Placement:
    """Quantize the layers of `graph` statically, in place.

    Args:
        graph: an optimised float graph.
        ranges: by value name; see `needed` for which.
        profile: the rules of the target.
        activations: type of codes, instead of the profile's.
        per_channel: weights get a scale per output channel.
        keep: layers that stay in floating point.
        wide: layers whose data gets codes of 16 bits.

    Raises:
        LeptonError: a range is missing.
    """
    element = activations or profile.activations
    chosen = select(graph, profile, keep)
    covered, classes = _ranges(chosen, profile, ranges)
    names = {u: u.head.output.name for u in chosen.layers}
    original = {v: v.name for v in chosen.values}
    covered_by_name = {original[v]: r for v, r in covered.items()}
    computed, quantized = chosen.made_of_codes(), {n for u in chosen.units for n in u.nodes}
    broad = {u.head: WIDE for u in chosen.layers if names[u] in wide and element.bits < WIDE.bits}
    known: dict[tuple[Value, DType], Codes] = {}
    for members in classes:
        kinds = {
            kind: Codes(*parameters.activation_parameters(covered[members[0]], kind), kind) for kind in (element, *set(broad.values()))
        }
        for value in members:
            if (own := _codes_of(value, element)) is not None:
                known[value, element] = own
                continue
            uses = [(n, i) for n, i in value.uses if value in computed or n in quantized]
            for kind, codes in kinds.items():
                readers, returned = [use for use in uses if broad.get(use[0], element) == kind], value in computed and kind == element
                if readers or (returned and value.is_output):
                    known[value, kind] = codes
                    _place_value(value, codes, readers, returned)
    layers = []
    for unit in chosen.layers:
        (data,) = unit.inputs
        codes = known.get((data, broad.get(unit.head, element))) or known[data, element]
        layers.append(_place_layer(unit, names[unit], original[data], codes, per_channel))
    states = tuple(place_states(graph, ranges, element, keep))
    shared = {original[v]: (float(c.scale), int(c.zero)) for (v, kind), c in known.items() if kind == element}
    return Placement(tuple(layers), covered_by_name, shared, element, states)


@dataclass(frozen=True)
class Codes:
    """Scale (float32 scalar) and zero point of codes, and their type."""

    scale: np.ndarray
    zero: np.ndarray
    element: DType


def _codes_of(value: Value, element: DType) -> Codes | None:
    """The codes that a value of a model quantized in part is made of, if these are of the same width and have one scale."""
    source = value.producer
    if source is None or source.op.name != "DequantizeLinear" or source.op.block_size:  # type: ignore[attr-defined]
        return None
    codes, scale, zero = (*source.inputs, None)[:3]
    assert codes is not None and scale is not None
    kind = codes.type.dtype
    known = scale.tensor is not None and scale.type.size == 1 and (zero is None or zero.tensor is not None)
    if not known or not kind.is_integer or kind.bits != element.bits:
        return None
    point = np.zeros((), kind.numpy) if zero is None else zero.numpy().reshape(())
    return Codes(scale.numpy().astype(np.float32).reshape(()), point, kind)


def needed(graph: Graph, profile: Profile, keep: Collection[str] = ()) -> list[Value]:
    """The values whose ranges static quantization needs."""
    return list(select(graph, profile, keep).values)


def _ranges(chosen: Selection, profile: Profile, ranges: Mapping[str, Range]) -> tuple[dict[Value, Range], list[tuple[Value, ...]]]:
    """The range of each value with codes, and the values that share scales."""
    if missing := [v.name for v in chosen.values if v.name not in ranges]:
        raise LeptonError(f"the range of '{missing[0]}' is not known", hint="calibrate the graph that is quantized, at the same level")
    unlike = [u for u in chosen.units if u.role == "concat" and _spread({ranges[v.name].largest for v in u.inputs}) > UNLIKE]
    alike = Selection(tuple(u for u in chosen.units if u not in unlike), chosen.values)
    covered, classes = {}, groups(alike, profile)
    for members in classes:
        whole = ranges[members[0].name]
        for value in members[1:]:
            whole = whole.hull(ranges[value.name])
        covered.update(dict.fromkeys(members, whole))
    return covered, classes


def _spread(sizes: set[float]) -> float:
    present = [s for s in sizes if s]
    return max(present) / min(present) if present else 1.0


def _place_value(value: Value, codes: Codes, readers: Sequence[tuple[Node, int]], returned: bool) -> None:
    """Let some uses of a value read it through codes; the output of the model too, if it is one and that is `returned`."""
    graph = value.graph
    after = value.producer.next if value.producer is not None else next(iter(graph), None)
    s, z = graph.constant(codes.scale, f"{value.name}_scale"), graph.constant(codes.zero, f"{value.name}_zero")
    loc = (value.producer or readers[0][0]).loc.by("quantize")
    q = graph.add(QuantizeLinear(dtype=z.type.dtype), [value, s, z], names=[f"{value.name}_codes"], before=after, loc=loc)
    back = graph.add(DequantizeLinear(), [q.output, s, z], names=[f"{value.name}_real"], before=after, loc=loc)
    for node, index in readers:
        inputs = list(node.inputs)
        inputs[index] = back.output
        graph.set_inputs(node, inputs)
    if returned and value.is_output:
        name = value.name
        graph.set_outputs(back.output if v is value else v for v in graph.outputs)
        graph.rename(value, f"{name}_before")
        graph.rename(back.output, name)


def _place_layer(unit: Unit, name: str, data: str, codes_of_data: Codes, per_channel: bool) -> Layer:
    node = unit.head
    weight = weight_of(node)
    assert weight is not None
    axis = output_channels(node) if per_channel and not _groups(node) else None
    array = weight.numpy()
    holder, index = _bias_of(node)
    bias = None if holder is None else holder.inputs[index]
    bias_array = None if bias is None or bias.tensor is None else bias.numpy().reshape(-1)
    scales = parameters.weight_scales(array, axis, 8)
    scales = parameters.scales_with_bias(scales, codes_of_data.scale, bias_array)
    codes = parameters.weight_codes(array, parameters.spread(scales, array.shape, axis), 8)
    back = _dequantized(node, 1, codes, scales, axis, f"{name}_weights")
    on_codes = None
    if bias_array is not None and holder is not None and bias is not None and codes_of_data.element.bits == 8:
        unit_scale = (scales.astype(np.float64) * float(codes_of_data.scale)).astype(np.float32)
        whole = parameters.bias_codes(bias_array, unit_scale).reshape(bias.type.static_shape)
        per_index = axis is not None
        on_codes = _dequantized(holder, index, whole, unit_scale, bias.type.rank - 1 if per_index else None, f"{name}_bias")
    scale, zero = float(codes_of_data.scale), int(codes_of_data.zero)
    return Layer(name, node, back, on_codes, axis, array, data, scale, zero, codes_of_data.element, unit)


def _groups(node: Node) -> bool:
    """Whether channels of a transposed convolution come in groups, so that its weights have no axis of output channels."""
    op: Any = node.op
    return node.op.name == "ConvTranspose" and op.groups > 1


def _bias_of(node: Node) -> tuple[Node | None, int]:
    """The node that adds a layer's bias, and which of its operands that is."""
    if node.op.name == "MatMul":
        add = bias_after(node)
        return (None, 0) if add is None else (add, next(i for i, v in enumerate(add.inputs) if v is constant_operand(add)))
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    plain = bias is not None and bias.is_constant and bias.type.size == node.output.type.shape[channel_axis(node)]
    return (node, 2) if plain else (None, 0)


def _dequantized(node: Node, index: int, codes: np.ndarray, scales: np.ndarray, axis: int | None, name: str) -> Node:
    """Let an operand of `node` be codes times scales."""
    graph = node.graph
    c, s = graph.constant(codes, f"{name}_codes"), graph.constant(scales, f"{name}_scale")
    op = DequantizeLinear(axis=1 if axis is None else axis)
    back = graph.add(op, [c, s], names=[name], before=node, loc=node.loc.by("quantize"))
    inputs = list(node.inputs)
    inputs[index] = back.output
    graph.set_inputs(node, inputs)
    return back
