"""From the histogram of a tensor to the range that its codes shall cover."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from lepton_compiler.calibration.histogram import Histogram
from lepton_compiler.errors import UsageError

COARSE: tuple[float, ...] = tuple(256.0 ** (-k / 63) for k in range(64))
"""Parts of an end of a range that searches compare first: from all of it to 1/256."""
FINE: tuple[float, ...] = tuple(256.0 ** (k / 63 / 12) for k in range(-11, 12))
"""What the best of these is multiplied by afterwards."""


@dataclass(frozen=True)
class Range:
    """The real numbers from `low` to `high`, zero among them."""

    low: float
    high: float

    def hull(self, other: Range) -> Range:
        """The smallest range that holds both."""
        return Range(min(self.low, other.low), max(self.high, other.high))

    @property
    def largest(self) -> float:
        """The largest magnitude."""
        return max(-self.low, self.high)


def choose_range(found: Histogram, observer: str, bits: int = 8, symmetric: bool = False) -> Range:
    """The range for quantizing a tensor to `2**bits` codes.

    Args:
        found: the values that were seen, at least one.
        observer: a key of `OBSERVERS`, for percentile optionally with the percentage, as in `percentile99.99`.
        bits: of a code.
        symmetric: whether the codes will cover as much below zero as above.

    Raises:
        UsageError: no such observer.
    """
    whole = Range(min(found.low, 0.0), max(found.high, 0.0))
    if whole.largest == 0:
        return whole
    if observer.startswith("percentile") and observer != "percentile":
        return _percentile(found, whole, _percentage(observer))
    if observer not in OBSERVERS:
        raise UsageError(f"no observer '{observer}'", hint=f"known: {', '.join(OBSERVERS)}")
    if symmetric and observer in ("mse", "entropy"):
        whole = Range(-whole.largest, whole.largest)
    chosen = OBSERVERS[observer](found, whole, bits)
    return Range(-chosen.largest, chosen.largest) if symmetric and observer != "minmax" else chosen


def _percentage(observer: str) -> float:
    try:
        value = float(observer.removeprefix("percentile"))
    except ValueError:
        value = 0.0
    if not 50 < value <= 100:
        raise UsageError(f"'{observer}' is no observer", hint="write percentile99.99, a percentage above 50")
    return value


def _min_max(found: Histogram, whole: Range, bits: int) -> Range:
    return whole


def _percentile(found: Histogram, whole: Range, percentage: float) -> Range:
    """The values between which `percentage` of all elements lie, as many being cut off below as above."""
    share = (1 - percentage / 100) / 2
    cumulative = np.cumsum(found.counts) / found.counts.sum()
    edges = np.arange(1, len(cumulative) + 1) * found.width - found.limit
    low = edges[int(np.searchsorted(cumulative, share, "right"))] - found.width
    high = edges[min(int(np.searchsorted(cumulative, 1 - share)), len(edges) - 1)]
    return Range(max(whole.low, min(low, 0.0)), min(whole.high, max(high, 0.0)))


def _mse(found: Histogram, whole: Range, bits: int) -> Range:
    """The range of least mean squared error, rounding inside and clipping outside together: each end is shortened in turn."""
    used = np.flatnonzero(found.counts)
    values, weights = found.centres[used], found.counts[used]

    def error(low: float, high: float) -> float:
        return _error(values, weights, Range(low, high), bits)

    low, high = whole.low, whole.high
    for _ in range(2):
        if whole.high > 0:
            high = whole.high * _search(partial(_of_end, error, whole.high, low, False))
        if whole.low < 0:
            low = whole.low * _search(partial(_of_end, error, whole.low, high, True))
    return Range(low, high)


def _of_end(error: Callable[[float, float], float], end: float, other: float, lower: bool, part: float) -> float:
    """The error of a range of which one end is shortened to a part."""
    return error(end * part, other) if lower else error(other, end * part)


def _search(cost: Callable[[float], float]) -> float:
    """The part of an end, at most 1, of least cost."""
    best = min(COARSE, key=cost)
    return min((min(1.0, best * step) for step in FINE), key=cost)


def _error(values: np.ndarray, weights: np.ndarray, covered: Range, bits: int) -> float:
    scale = (covered.high - covered.low) / (2**bits - 1)
    zero = np.rint(-covered.low / scale)
    codes = np.clip(np.rint(values / scale) + zero, 0, 2**bits - 1)
    return float(np.dot(weights, ((codes - zero) * scale - values) ** 2))


def _entropy(found: Histogram, whole: Range, bits: int) -> Range:
    """The range of least Kullback-Leibler divergence between the values and their codes.

    After S. Migacz, "8-bit inference with TensorRT" (GTC 2017): the reference distribution has what lies outside in its last bins.
    """
    levels = 2**bits

    def cut(part: float) -> Range:
        return Range(max(whole.low, -whole.largest * part), min(whole.high, whole.largest * part))

    def cost(part: float) -> float:
        covered = cut(part)
        first = int((covered.low + found.limit) / found.width)
        last = min(int((covered.high + found.limit) / found.width) + 1, len(found.counts))
        return _divergence(found.counts, first, last, levels) if last - first >= levels // 2 else np.inf

    return cut(_search(cost)) if np.isfinite(cost(1.0)) else whole


def _divergence(counts: np.ndarray, first: int, last: int, levels: int) -> float:
    inside = counts[first:last]
    reference = inside.copy()
    reference[0] += counts[:first].sum()
    reference[-1] += counts[last:].sum()
    level = np.minimum(np.arange(len(inside)) * levels // len(inside), levels - 1)
    occupied = inside > 0
    totals = np.bincount(level, inside, levels)
    bins = np.bincount(level, occupied, levels)
    spread = np.where(occupied, (totals / np.maximum(bins, 1))[level], 0.0)
    p, q = reference / reference.sum(), (spread + 1e-12) / (spread.sum() + 1e-12 * len(spread))
    some = p > 0
    return float(np.sum(p[some] * np.log(p[some] / q[some])))


OBSERVERS: dict[str, Callable[[Histogram, Range, int], Range]] = {
    "minmax": _min_max,
    "percentile": lambda found, whole, bits: _percentile(found, whole, 99.999),
    "entropy": _entropy,
    "mse": _mse,
}
"""How a range is chosen, by name."""


def write_ranges(ranges: Mapping[str, Range], file: Path) -> None:
    """Write ranges as JSON: value name to `[low, high]`."""
    file.write_text(json.dumps({name: [r.low, r.high] for name, r in ranges.items()}, indent=1) + "\n")


def read_ranges(file: Path) -> dict[str, Range]:
    """Read what `write_ranges` wrote.

    Raises:
        UsageError: the file cannot be read, or does not hold ranges.
    """
    try:
        rows = json.loads(file.read_text())
        ranges = {str(name): Range(float(low), float(high)) for name, (low, high) in rows.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(
            f"cannot read ranges from '{file}': {error}", hint="--ranges FILE.json of an earlier calibration writes one"
        ) from error
    if wrong := [name for name, r in ranges.items() if not r.low <= 0 <= r.high or not np.isfinite(r.high - r.low)]:
        raise UsageError(f"'{file}': the range of '{wrong[0]}' does not hold zero")
    return ranges
