"""Which of several kernels is the fastest."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from lepton_compiler.backends.tvm.tuning.statistics import compare

MARGIN, LEVEL = 0.02, 0.01
"""By how much, and how surely, a candidate must be faster."""
ROUNDS, FINAL_ROUNDS, KEPT = 11, 41, 3
"""Rounds with all candidates, rounds with the best ones, and how many those are."""


def fastest(samples: Callable[[Sequence[int], int], np.ndarray], count: int) -> tuple[int, float]:
    """The fastest of some contenders, and its time over the first one's: another than that is only taken if it is clearly faster.

    Args:
        samples: gives seconds `[rounds, contender]` of some contenders, measured in turns, for about so many rounds.
        count: of contenders.

    Raises:
        LeptonError: as `samples` does.
    """
    if count < 2:
        return 0, 1.0
    every = samples(range(count), ROUNDS)
    ratios = {k: compare(every[:, k], every[:, 0]).ratio for k in range(1, count)}
    finalists = [k for k in sorted(ratios, key=lambda k: ratios[k]) if ratios[k] < 1.0][:KEPT]
    if not finalists:
        return 0, 1.0
    times = samples([0, *finalists], FINAL_ROUNDS)
    results = {k: compare(times[:, place], times[:, 0]) for place, k in enumerate(finalists, 1)}
    faster = [k for k, result in results.items() if result.faster(MARGIN, LEVEL / KEPT)]
    best = min(faster, key=lambda k: results[k].ratio, default=0)
    return best, results[best].ratio if best else 1.0
