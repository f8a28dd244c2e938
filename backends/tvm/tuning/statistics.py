"""Whether one thing is faster than another, from times that were taken in turns."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Comparison:
    """Times of a candidate against those of a reference, pair by pair.

    Attributes:
        ratio: median of the ratios; below 1 where the candidate is faster.
        chance: probability of so many pairs in the candidate's favour if both were equally fast (sign test, one-sided).
    """

    ratio: float
    chance: float

    def faster(self, margin: float, level: float) -> bool:
        """Whether the candidate is faster by the share `margin`, and not by chance at this level."""
        return self.ratio < 1 - margin and self.chance < level


def compare(candidate: np.ndarray, reference: np.ndarray) -> Comparison:
    """Compare seconds `[rounds]` that were taken in the same rounds; ties count for neither."""
    wins, losses = int(np.count_nonzero(candidate < reference)), int(np.count_nonzero(candidate > reference))
    ratio = float(np.median(candidate / np.maximum(reference, 1e-12))) if len(candidate) else 1.0
    return Comparison(ratio, sign_test(wins, wins + losses))


def sign_test(wins: int, count: int) -> float:
    """Probability that a fair coin shows at least `wins` heads in `count` throws."""
    return float(sum(math.comb(count, k) for k in range(wins, count + 1)) / 2**count)
