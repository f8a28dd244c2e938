"""A range for each channel of what depthwise convolutions read, though its codes have one scale.

A depthwise convolution does not mix channels, so that a factor of a channel passes through it: data is divided by factors that make all
channels about as wide, and the weights are multiplied by them. Their scales, one per channel, take the factors up, and the model's results
stay as they are. The division costs nothing: it goes into the layer before, or into the multiplication by the scale of the codes.

After M. Nagel et al., "Data-free quantization through weight equalization and bias correction", ICCV 2019, section 4.1, with ranges of data
in place of those of weights.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_compiler.calibration import Statistics
from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.evaluator import evaluate
from lepton_compiler.passes.quantize.profile import Profile
from lepton_compiler.passes.quantize.roles import ACTIVATIONS, channel_axis, constant_operand, weight_of

SMALLEST = 2.0**-10
"""Bound on a factor; the largest one is 1."""
BALANCES = np.linspace(0.0, 1.0, 33)
"""Ratios of the negative to the positive end of the common range, and the inverse, that are tried."""


@dataclass(frozen=True)
class Place:
    """Where the channels of a value can be divided, seen from a depthwise convolution that alone reads it.

    Attributes:
        node: the convolution.
        between: sums with constants between the division and the value; these constants are divided too.
        maker: a layer or a multiplication by a constant that takes the division up; None where it becomes an operator of its own.
    """

    node: Node
    between: tuple[Node, ...]
    maker: Node | None


def places(graph: Graph, profile: Profile) -> dict[Value, Place]:
    """The values whose channels can be divided for nothing, for a target of these rules."""
    found = {}
    for node in graph:
        place = _place(node, profile) if _is_depthwise(node) else None
        if place is not None:
            found[node.present_inputs[0]] = place
    return found


def _is_depthwise(node: Node) -> bool:
    op: Any = node.op
    weight = weight_of(node) if node.op.name == "Conv" else None
    return weight is not None and op.groups > 1 and op.layout == "NCHW" and weight.type.shape[1] == 1


def _place(node: Node, profile: Profile) -> Place | None:
    value, between = node.present_inputs[0], list[Node]()
    while len(value.uses) == 1 and not value.is_output and value.producer is not None:
        maker = value.producer
        constant = constant_operand(maker)
        if maker.op.name == "Relu":
            value = maker.present_inputs[0]
        elif maker.op.name == "Add" and constant is not None and _is_per_channel(constant, value):
            between.append(maker)
            value = next(v for v in maker.present_inputs if v is not constant)
        elif maker.op.name == "Mul" and constant is not None and _is_per_channel(constant, value):
            return Place(node, tuple(between), maker)
        elif maker.op.name == "Conv" and weight_of(maker) is not None and channel_axis(maker) == 1:
            bias = maker.inputs[2] if len(maker.inputs) > 2 else None
            return Place(node, tuple(between), maker) if bias is None or bias.tensor is not None else None
        else:
            return Place(node, (), None) if profile.tails is None and _ends_kernel(node.present_inputs[0]) else None
    return None


def _ends_kernel(value: Value) -> bool:
    """Whether a multiplication right after this value rides along with the function that gives it."""
    maker = value.producer
    return maker is not None and (maker.op.name in ACTIVATIONS or constant_operand(maker) is not None)


def _is_per_channel(constant: Value, value: Value) -> bool:
    """Whether a constant differs between channels at most, of data [N, C, ...]."""
    shape, rank = constant.type.static_shape, value.type.rank
    padded = (1,) * (rank - len(shape)) + shape
    return constant.tensor is not None and all(n == 1 for axis, n in enumerate(padded) if axis != 1)


def channel_extremes(
    graph: Graph, values: Collection[Value], samples: Iterable[Mapping[str, np.ndarray]]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The smallest and largest element per channel of values, by name, over all samples."""
    found = {value.name: Statistics() for value in values}

    def watch(node: Node, results: Sequence[Any]) -> None:
        for value, array in zip(node.outputs, results, strict=True):
            if value in values and array.size:
                found[value.name].add_channels(array, 1)

    for feeds in samples:
        evaluate(graph, feeds, watch)
    return {name: (s.channel_low, s.channel_high) for name, s in found.items() if s.channel_low is not None and s.channel_high is not None}


def balance(found: Mapping[Value, Place], extremes: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> int:
    """Divide the channels of values and multiply the weights that they meet; gives the number of these values.

    Args:
        found: see `places`.
        extremes: smallest and largest element per channel, by name of the value.
    """
    for value, place in found.items():
        weight = place.node.present_inputs[1].numpy()
        low, high = (np.asarray(end, np.float64) for end in extremes[value.name])
        power = np.square(weight, dtype=np.float64).reshape(len(low), -1).sum(1)
        factor = factors(np.minimum(low, 0), np.maximum(high, 0), power)
        per_output = np.repeat(factor, len(weight) // len(factor)).reshape(-1, *[1] * (weight.ndim - 1))
        _exchange(place.node, 1, weight * per_output)
        _divide(place, factor)
    return len(found)


def factors(low: np.ndarray, high: np.ndarray, power: np.ndarray) -> np.ndarray:
    """What to divide channels by, so that rounding to codes changes results least; the largest is 1.

    A common range from -r to 1 has steps in proportion to 1 + r. Channel c fits into it when it is divided by max(-low / r, high), and adds
    an error of `power` times the square of step and divisor.

    Args:
        low: smallest element per channel, at most 0.
        high: largest one, at least 0.
        power: sum of the squares of the weights that a channel meets.
    """
    best, least = np.ones(len(low)), np.inf
    tried = [(below, 1.0) for below in BALANCES] + [(1.0, above) for above in BALANCES[:-1]]
    for below, above in tried:
        if (not below and low.any()) or (not above and high.any()):
            continue
        divisor = np.maximum(-low / (below or 1.0), high / (above or 1.0))
        error = float((power * np.square((below + above) * divisor)).sum())
        if error < least:
            best, least = divisor, error
    largest = best.max()
    return np.clip(best / largest, SMALLEST, 1.0) if largest > 0 else np.ones(len(low))


def _divide(place: Place, factor: np.ndarray) -> None:
    maker, node = place.maker, place.node
    column = factor.reshape(-1, *[1] * (node.output.type.rank - 2))
    for add in place.between:
        _divide_constant(add, column)
    if maker is None:
        value = node.present_inputs[0]
        b = Builder(node.graph, before=node, loc=node.loc.by("balance"))
        divided = b.Mul(value, b.constant((1 / column).astype(np.float32), name=f"{value.name}_balance"))
        node.graph.set_inputs(node, [divided, *node.inputs[1:]])
    elif maker.op.name == "Mul":
        _divide_constant(maker, column)
    else:
        weight = maker.present_inputs[1].numpy()
        _exchange(maker, 1, weight / factor.reshape(-1, *[1] * (weight.ndim - 1)))
        if len(maker.inputs) > 2:
            _exchange(maker, 2, maker.present_inputs[2].numpy() / factor)


def _divide_constant(node: Node, column: np.ndarray) -> None:
    constant = constant_operand(node)
    assert constant is not None
    _exchange(node, next(i for i, v in enumerate(node.inputs) if v is constant), constant.numpy() / column)


def _exchange(node: Node, index: int, array: np.ndarray) -> None:
    """Another constant as an operand."""
    graph, old = node.graph, node.present_inputs[index]
    new = graph.constant(array.astype(old.type.dtype.numpy), old.name)
    graph.set_inputs(node, [new if i == index else v for i, v in enumerate(node.inputs)])
