"""Factors that channels of data are divided by and weights multiplied by, and the error of a layer that is to be expected with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from lepton_compiler.calibration import Statistics
from lepton_compiler.ir.graph import Node
from lepton_compiler.passes.quantize.roles import output_channels

SMALLEST = 1 / 16
"""Bound on a factor, the largest one being 1: a channel may get this much wider on other data than on the samples without being cut off."""
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Powers of the factors that even out data, and of those that even out weights, that are tried."""
BALANCES = np.linspace(0.0, 1.0, 33)
"""Ratios of one end of the common range to the other that are tried."""
ROWS = 256
"""Outputs of a layer that the error of its weights is estimated by."""
WORTH = 0.7
"""The part of the error that may be left, or factors are not worth their constants."""
CAUTION = 4.0
"""How many times the error of what samples show to be cut off counts: other data goes further than a few hundred samples do."""
TRIED = 4
"""Ways of making factors that are tried on other samples than they are made with."""


@dataclass(frozen=True)
class Channels:
    """Of each channel of a value: the smallest and the largest element, zero being between them, and the mean of the squares."""

    low: np.ndarray
    high: np.ndarray
    square: np.ndarray

    @staticmethod
    def of(halves: Sequence[Statistics]) -> Channels:
        """What was seen on some samples; channels that were zero throughout say nothing about other data, and count as wide as the widest."""
        low = np.min([np.minimum(_present(some.channel_low), 0) for some in halves], 0).astype(np.float64)
        high = np.max([np.maximum(_present(some.channel_high), 0) for some in halves], 0).astype(np.float64)
        still = (low == 0) & (high == 0)
        square = np.asarray(np.mean([_present(some.channel_square) for some in halves], 0))
        return Channels(np.where(still, low.min(), low), np.where(still, high.max(), high), square)

    def span(self, factor: np.ndarray) -> tuple[float, float]:
        """The range that all channels need, divided by `factor`."""
        return float((self.low / factor).min()), float((self.high / factor).max())


def _present(array: np.ndarray | None) -> np.ndarray:
    assert array is not None, "the channels have been watched"
    return array


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

    @staticmethod
    def of(node: Node) -> Weights:
        """Of a convolution or a product by a matrix."""
        array = node.present_inputs[1].numpy()
        if node.op.name != "Conv":
            array = array.T if output_channels(node) else array
        groups = int(getattr(node.op, "groups", 1))
        flat = np.abs(array.reshape(len(array), array.shape[1], -1))
        power = np.square(flat, dtype=np.float64).sum(2).reshape(groups, -1, flat.shape[1]).sum(1).ravel()
        some = flat.max(2)[:: max(1, len(flat) // ROWS) if groups == 1 else 1].reshape(groups, -1, flat.shape[1])
        largest, taps = np.zeros((2, groups, some.shape[1], groups, flat.shape[1]))
        every = np.arange(groups)
        largest[every, :, every], taps[every, :, every] = some, flat.shape[2]
        shape = (-1, groups * flat.shape[1])
        return Weights(largest.reshape(shape), taps.reshape(shape), power, some.shape[0] * some.shape[1] / len(flat))


Powers = tuple[float, float]
"""How strongly data and weights are evened out."""


def make_factors(seen: Channels, weights: Sequence[Weights], powers: Powers) -> np.ndarray:
    """What to divide channels by; the largest is 1."""
    size = np.max([w.largest.max(0) for w in weights], 0)
    alike = np.where(size > 0, size.max() / np.where(size > 0, size, 1.0), 1.0)
    plain = np.ones(len(size))
    factor = common_range(seen.low, seen.high, total_power(weights) * _noise(plain, seen)) ** powers[0] * alike ** powers[1]
    return np.asarray(np.clip(factor / factor.max(), SMALLEST, 1.0))


def promising(seen: Channels, weights: Sequence[Weights]) -> list[Powers]:
    """Ways of making factors that are expected to reduce the error by as much as is worth it, the best first; no factors first of all."""
    least = WORTH * expected_error(np.ones(len(seen.low)), seen, weights)
    errors = {}
    for powers in product(STRENGTHS, STRENGTHS[:3]):
        error = expected_error(make_factors(seen, weights, powers), seen, weights)
        if error < least:
            errors[powers] = error
    return [(0.0, 0.0), *sorted(errors, key=lambda powers: errors[powers])[:TRIED]]


def total_power(weights: Sequence[Weights]) -> np.ndarray:
    """Sums of squares of the weights that each channel meets in all layers."""
    return np.asarray(np.sum([w.power for w in weights], 0))


def expected_error(factor: np.ndarray, seen: Channels, weights: Sequence[Weights]) -> float:
    """Twelve times the squared error of the results of layers, summed over outputs, if errors of roundings are independent."""
    error = float((_noise(factor, seen) * total_power(weights)).sum())
    squares = seen.square / np.square(factor)
    for some in weights:
        steps = (some.largest * factor).max(1) / 127
        error += float((np.square(steps) * (some.taps @ squares)).sum()) / some.part
    return float(error)


def _noise(factor: np.ndarray, seen: Channels) -> np.ndarray:
    """Twelve times the squared error of rounding, per channel: no more than the channel has, since zero is a code."""
    low, high = seen.span(factor)
    return np.asarray(np.minimum(np.square((high - low) / 255 * factor), 12 * seen.square))


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


class CutOff:
    """What is cut off of a value by ranges that other samples have shown.

    Args:
        factors: ways of dividing its channels, [ways, channels].
        seen: its channels on the other samples.
        axis: of its channels.
    """

    def __init__(self, factors: Sequence[np.ndarray], seen: Channels, axis: int) -> None:
        spans = [seen.span(factor) for factor in factors]
        self.lows, self.highs = (np.array([span[end] * f for span, f in zip(spans, factors, strict=True)]) for end in (0, 1))
        self.axis, self.count, self.sums = axis, 0, np.zeros_like(self.lows)

    def add(self, array: np.ndarray) -> None:
        """Take a sample into account."""
        rows = np.moveaxis(array, self.axis, -1).reshape(-1, self.lows.shape[1])
        self.count += len(rows)
        for k, (low, high) in enumerate(zip(self.lows, self.highs, strict=True)):
            self.sums[k] += np.square(rows - np.clip(rows, low, high)).sum(0)

    @property
    def squares(self) -> np.ndarray:
        """The mean square of what is cut off, [ways, channels]."""
        return self.sums / max(1, self.count)
