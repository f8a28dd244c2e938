"""Two classifiers on the same samples: where only one of them is right, and whether that is chance."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np


@dataclass(frozen=True)
class Pairs:
    """Samples on which only the first, or only the second, of two does what is asked."""

    first: int
    second: int

    @staticmethod
    def of(first: np.ndarray, second: np.ndarray) -> Pairs:
        """From two arrays of booleans, sample by sample."""
        return Pairs(int((first & ~second).sum()), int((second & ~first).sum()))

    @property
    def chance(self) -> float:
        """The probability of a difference at least as large, either way, between two that are equally good: McNemar's exact test."""
        total, few = self.first + self.second, min(self.first, self.second)
        return min(1.0, 2 * sum(comb(total, k) for k in range(few + 1)) / (1 << total))
