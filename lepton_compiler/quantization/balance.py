"""Data of layers with channels about as wide as one another, so that one scale of codes suits all of them.

A layer multiplies each channel of its data by weights of this channel. So the channels can be divided by factors and the weights multiplied by
them, which leaves the model's results as they are. A depthwise convolution takes the factors up in the scales of its weights, one per channel,
and loses nothing by them; other layers trade the error of data for that of weights, as far as the sum gets smaller. The division costs
nothing: it goes into the layer or the constants before, or into the multiplication by the scale of the codes.

After M. Nagel et al., "Data-free quantization through weight equalization and bias correction", ICCV 2019, section 4.1, and G. Xiao et al.,
"SmoothQuant", ICML 2023; here the factors are those of the least error that is to be expected.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from lepton_compiler.calibration import Statistics
from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.passes.quantize.profile import Profile
from lepton_compiler.passes.quantize.roles import channel_axis, output_channels, weight_of
from lepton_compiler.quantization.division import Division, divide, division
from lepton_compiler.quantization.exchange import exchange

SMALLEST = 1 / 16
"""Bound on a factor, the largest one being 1: a channel may get this much wider on other data than on the samples without being cut off."""
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Powers of the factors that even out data, and of those that even out weights, that are tried."""
BALANCES = np.linspace(0.0, 1.0, 33)
"""Ratios of one end of the common range to the other that are tried."""
LOOSE = 1.25
"""How many times as wide as the range of one half of the samples that of the other half may be, by factors of the former.

More, and the samples are too few to tell the ranges of single channels: on other data, channels would be cut off.
"""
ROWS = 256
"""Outputs of a layer that the error of its weights is estimated by."""
WORTH = 0.8
"""The part of the error that may be left, or the factors are not worth their constants."""


@dataclass(frozen=True)
class Read:
    """A value that only layers read, and where its channels can be divided.

    Attributes:
        layers: that read it.
        axis: along which its channels lie.
        where: see `division`.
    """

    layers: tuple[Node, ...]
    axis: int
    where: Division


def readable(graph: Graph, profile: Profile, keep: Iterable[str] = ()) -> dict[Value, Read]:
    """The values whose channels can be divided for nothing, for a target of these rules; those that a layer in `keep` reads are left out."""
    layers: dict[Value, list[Node]] = {}
    for node in graph:
        if weight_of(node) is not None:
            layers.setdefault(node.present_inputs[0], []).append(node)
    found = {}
    for value, nodes in layers.items():
        axes = {_data_axis(node) for node in nodes}
        axis = axes.pop()
        whole = not value.is_output and {node for node, _ in value.uses} == set(nodes) and not any(n.output.name in keep for n in nodes)
        if whole and not axes and axis is not None and isinstance(value.type.shape[axis], int):
            where = division(value, axis, nodes[0], profile)
            if where is not None:
                found[value] = Read(tuple(nodes), axis, where)
    return found


def _data_axis(node: Node) -> int | None:
    """The axis of its data that a layer sums over; None for layers that cannot take factors."""
    if node.op.name == "Conv":
        return 1 if channel_axis(node) == 1 else None
    return -1 if node.op.name in ("MatMul", "Gemm") else None


def balance(reads: Mapping[Value, Read], halves: Sequence[Mapping[str, Statistics]]) -> set[str]:
    """Divide the channels of values and multiply the weights that they meet, where results of layers on codes get better by it.

    Args:
        reads: see `readable`.
        halves: of these values, with their channels, by name; on one half of the samples, and on the other.

    Returns:
        The names of the layers whose weights have changed.
    """
    changed = set()
    for value, read in reads.items():
        seen = [_seen(found[value.name]) for found in halves]
        factor = factors(seen, [weights_of(node) for node in read.layers])
        if factor is None:
            continue
        divide(value, read.where, factor, read.layers)
        for node in read.layers:
            exchange(node, 1, node.present_inputs[1].numpy() * _over_inputs(node, factor))
            changed.add(node.output.name)
    return changed


def _seen(found: Statistics) -> Channels:
    """The channels of a value; those that were zero throughout say nothing about other data, and count as wide as the widest."""
    assert found.channel_low is not None and found.channel_high is not None and found.channel_square is not None
    low, high = np.minimum(found.channel_low, 0).astype(np.float64), np.maximum(found.channel_high, 0).astype(np.float64)
    still = (low == 0) & (high == 0)
    return Channels(np.where(still, low.min(), low), np.where(still, high.max(), high), found.channel_square)


def _over_inputs(node: Node, factor: np.ndarray) -> np.ndarray:
    """Factors of the channels of data in a shape that multiplies the weights."""
    if node.op.name != "Conv":
        return factor[:, None] if output_channels(node) else factor[None, :]
    op: Any = node.op
    shape = node.present_inputs[1].type.static_shape
    rows = np.repeat(factor.reshape(op.groups, -1), shape[0] // op.groups, 0)
    return rows.reshape(*shape[:2], *[1] * (len(shape) - 2))


@dataclass(frozen=True)
class Channels:
    """Of each channel of a value: the smallest and the largest element, zero being between them, and the mean of the squares."""

    low: np.ndarray
    high: np.ndarray
    square: np.ndarray


@dataclass(frozen=True)
class Weights:
    """Of the weights of a layer.

    Attributes:
        largest: magnitudes, [outputs, channels of data], the largest of all taps; some outputs only.
        taps: how many weights an output has for a channel, [outputs, channels].
        power: sum of squares per channel.
        part: the part of the outputs that is in `largest`.
    """

    largest: np.ndarray
    taps: np.ndarray
    power: np.ndarray
    part: float


def weights_of(node: Node) -> Weights:
    """What the error of a layer depends on."""
    array = node.present_inputs[1].numpy()
    if node.op.name != "Conv":
        array = array.T if output_channels(node) else array
    groups = int(getattr(node.op, "groups", 1))
    flat = np.abs(array.reshape(len(array), array.shape[1], -1))
    rows = slice(None, None, max(1, len(flat) // ROWS) if groups == 1 else 1)
    power = np.square(flat, dtype=np.float64).sum(2).reshape(groups, -1, flat.shape[1]).sum(1).ravel()
    here = flat.max(2)[rows].reshape(groups, -1, flat.shape[1])
    largest, taps = np.zeros((groups, here.shape[1], groups, flat.shape[1])), np.zeros((groups, here.shape[1], groups, flat.shape[1]))
    every = np.arange(groups)
    largest[every, :, every], taps[every, :, every] = here, flat.shape[2]
    shape = (-1, groups * flat.shape[1])
    return Weights(largest.reshape(shape), taps.reshape(shape), power, here.shape[0] * here.shape[1] / len(flat))


def factors(halves: Sequence[Channels], weights: Sequence[Weights]) -> np.ndarray | None:
    """What to divide channels by, so that the results of layers are expected to change least; the largest is 1.

    Args:
        halves: the channels, on one half of the samples and on the other.
        weights: of the layers that read them.

    Returns:
        None where it is not worth it, or where the samples do not tell.
    """
    power = np.sum([w.power for w in weights], 0)
    size = np.max([w.largest.max(0) for w in weights], 0)
    alike = np.where(size > 0, size.max() / np.where(size > 0, size, 1.0), 1.0)
    whole = Channels(
        np.min([h.low for h in halves], 0), np.max([h.high for h in halves], 0), np.asarray(np.mean([h.square for h in halves], 0))
    )
    even = [common_range(some.low, some.high, power) for some in (whole, *halves)]
    plain = np.ones(len(power))
    loose = LOOSE * max(1.0, _growth(halves, [plain, plain]))
    best, least = None, WORTH * expected_error(plain, whole, weights, power)
    for strength, other in product(STRENGTHS, STRENGTHS[:3]):
        tried, *apart = (_bounded(some**strength * alike**other) for some in even)
        error = expected_error(tried, whole, weights, power)
        if error < least and _growth(halves, apart) <= loose:
            best, least = tried, error
    return best


def _bounded(factor: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip(factor / factor.max(), SMALLEST, 1.0))


def _growth(halves: Sequence[Channels], by_half: Sequence[np.ndarray]) -> float:
    """How many times as wide as the range of one half that of the other half is, by the factors of the former; the larger of both ways."""
    a, b = halves
    return max(_span(other, factor) / (_span(own, factor) or 1.0) for own, other, factor in zip((a, b), (b, a), by_half, strict=True))


def _span(seen: Channels, factor: np.ndarray) -> float:
    """The width of the range that all channels need."""
    return float((seen.high / factor).max() - (seen.low / factor).min())


def expected_error(factor: np.ndarray, seen: Channels, weights: Sequence[Weights], power: np.ndarray) -> float:
    """The squared error of the results of layers, summed over outputs, but for a constant factor, if errors of roundings are independent."""
    step = _span(seen, factor) / 255
    error = step**2 * float((np.square(factor) * power).sum())
    squares = seen.square / np.square(factor)
    for some in weights:
        steps = (some.largest * factor).max(1) / 127
        error += float((np.square(steps) * (some.taps @ squares)).sum()) / some.part
    return float(error)


def common_range(low: np.ndarray, high: np.ndarray, power: np.ndarray) -> np.ndarray:
    """What to divide channels by for the least error of data; the largest is 1.

    A common range from -r to 1 has steps in proportion to 1 + r. Channel c fits into it when it is divided by max(-low / r, high), and then adds
    an error of `power` times the square of step and divisor.
    """
    best, least = np.ones(len(low)), np.inf
    for below, above in [*((below, 1.0) for below in BALANCES), *((1.0, above) for above in BALANCES[:-1])]:
        if (not below and low.any()) or (not above and high.any()):
            continue
        divisor = np.maximum(-low / (below or 1.0), high / (above or 1.0))
        error = float((power * np.square((below + above) * divisor)).sum())
        if error < least:
            best, least = divisor, error
    largest = best.max()
    return np.clip(best / largest, SMALLEST, 1.0) if largest > 0 else np.ones(len(low))
