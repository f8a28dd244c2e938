"""A histogram of values that come in parts, of bounded size, whose range is not known in advance."""

from __future__ import annotations

import math

import numpy as np

BINS = 8192
"""Bins of a histogram; they cover [-limit, limit), where the limit is a power of two."""
SAMPLE = 1 << 16
"""Elements of one tensor that are counted at most, evenly spread; the extremes are those of all elements."""
SMALLEST = -40
"""Binary exponent of the smallest limit."""


class Histogram:
    """Counts in `BINS` equal bins around zero. When a larger value comes, the limit doubles and pairs of bins are merged: no count is lost."""

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.float64)
        self.exponent = SMALLEST
        self.low, self.high = math.inf, -math.inf
        self.seen = 0

    @property
    def limit(self) -> float:
        """The bins cover values from minus to plus this."""
        return 2.0**self.exponent

    @property
    def width(self) -> float:
        """Of a bin."""
        return 2 * self.limit / BINS

    @property
    def centres(self) -> np.ndarray:
        """The middle of each bin, in float64; the outermost ones in use are moved to the extremes that were seen."""
        middles = (np.arange(BINS) + 0.5) * self.width - self.limit
        return np.clip(middles, self.low, self.high) if self.seen else middles

    def add(self, array: np.ndarray) -> bool:
        """Count the elements of a float array; False, and nothing is counted, if one of them is not finite."""
        flat = array.reshape(-1)
        if not flat.size:
            return True
        low, high = float(flat.min()), float(flat.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            return False
        self.low, self.high, self.seen = min(self.low, low), max(self.high, high), self.seen + flat.size
        while max(-low, high) >= self.limit:
            self._double()
        step = -(-flat.size // SAMPLE)
        if step > 1:
            step += 1 - step % 2  # an odd stride does not fall in step with an even number of channels
        chosen = flat[::step]
        places = ((chosen.astype(np.float64) + self.limit) / self.width).astype(np.int64)
        self.counts += np.bincount(np.minimum(places, BINS - 1), minlength=BINS) * (flat.size / chosen.size)
        return True

    def _double(self) -> None:
        quarter = BINS // 4
        merged = self.counts.reshape(-1, 2).sum(1)
        self.counts = np.zeros(BINS, np.float64)
        self.counts[quarter : BINS - quarter] = merged
        self.exponent += 1
