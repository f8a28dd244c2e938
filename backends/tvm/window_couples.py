"""Which windows of weights (`window_packing`) go together: their 16-bit sums are added before they are widened to 32 bits.

Two windows are five instructions then in place of six, and exact as long as 16 bits hold what the four weights of a lane make of whatever data:
the positive ones add up to at most 128 and the negative ones to at least -128, as for a pair. All windows of a vector add up to the same sums,
so any two of them will do. Those with the fewest to choose from choose first, and take the one that has itself the fewest: nearly all of a
matrix of a few hundred rows find another. Numpy alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

MOST = 128
"""What the weights of one sign may add up to in 16 bits: 255 * 128 < 2^15."""
MOST_APART = 255
"""Likewise magnitudes, multiplied with signed data: 255 * 128 < 2^15."""
AMONG = 128
"""Windows among which couples are looked for."""
BATCH = 64
"""Such sets of windows at a time."""


def couple(weights: Array, counts: Array, apart: bool = False) -> tuple[Array, Array]:
    """The order of the windows `weights`, `[windows, bytes]`, so that each vector's couples come first, and the couples of each vector.

    Args:
        weights: signed, two bytes for each 16-bit sum, vector by vector.
        counts: windows of each vector.
        apart: whether magnitudes are multiplied with signed data.
    """
    vector, window = np.repeat(np.arange(len(counts)), counts), np.arange(len(weights))
    partner = np.full(len(weights), -1)
    pairs = weights.reshape(len(weights), -1, 2).astype(np.int16)
    parts = [np.abs(pairs)] if apart else [np.maximum(pairs, 0), np.maximum(-pairs, 0)]
    sums = [np.minimum(part.sum(-1), 255).astype(np.uint8) for part in parts]
    sets = _sets(counts)
    for begin in range(0, len(sets), BATCH):
        members = sets[begin : begin + BATCH]
        found = _partners([part[members] for part in sums], members >= 0, MOST_APART if apart else MOST)
        own, other = members[found >= 0], np.take_along_axis(members, found, 1)[found >= 0]
        partner[own] = other
    alone = partner < 0
    order = np.lexsort((window, np.where(alone, window, np.minimum(window, partner)), alone, vector))
    return order, np.bincount(vector[~alone], minlength=len(counts)) // 2


def _sets(counts: Array) -> Array:
    """The windows of each vector in about equal sets of up to `AMONG`, `[sets, size]`, filled up with -1."""
    parts = -(-counts // AMONG)
    bounds = [
        np.linspace(end - count, end, part + 1).astype(np.int64) for end, count, part in zip(np.cumsum(counts), counts, parts, strict=True)
    ]
    begins = np.concatenate([b[:-1] for b in bounds]) if bounds else np.zeros(0, np.int64)
    ends = np.concatenate([b[1:] for b in bounds]) if bounds else np.zeros(0, np.int64)
    members = begins[:, None] + np.arange(int((ends - begins).max(initial=0)))
    return np.where(members < ends[:, None], members, -1)


def _partners(sums: Sequence[Array], present: Array, most: int) -> Array:
    """The place of each window's partner in its set or -1, `[sets, size]`; `sums` `[sets, size, lanes]` that add up to `most` at most."""
    fits = _fits(sums, present, most)
    choices, every = fits.sum(2, dtype=np.int32), np.arange(len(fits))
    partner, none = np.full(present.shape, -1), np.iinfo(np.int32).max
    free = present.copy()
    for _ in range(present.shape[1] // 2):
        wanting = np.where(free & (choices > 0), choices, none)
        one = wanting.argmin(1)
        live = every[wanting[every, one] < none]
        if not len(live):
            break
        one = one[live]
        other = np.where(fits[live, one] & free[live], choices[live], none).argmin(1)
        partner[live, one], partner[live, other] = other, one
        free[live, one] = free[live, other] = False
        choices[live] -= fits[live, one].astype(np.int32) + fits[live, other]
    return partner


def _fits(sums: Sequence[Array], present: Array, most: int) -> Array:
    """Whether two windows of a set may go together, `[sets, size, size]`."""
    fits: Array = present[:, :, None] & present[:, None, :] & ~np.eye(present.shape[1], dtype=bool)
    for part in sums:
        room = (most - part.astype(np.int16)).clip(0).astype(np.uint8)
        for lane in range(part.shape[2]):
            fits &= part[:, :, None, lane] <= room[:, None, :, lane]
    return fits
