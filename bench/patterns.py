"""Numbers that look random, are the same on every machine, and compress: weights and inputs of nets that are carried to where they are measured.

Random weights do not compress, and a net of 100 million of them is too much to carry. Here the element at a row and a column is `s table[(r + c) mod
251]`, where the table has 251 normal numbers, `r` is one of 16 for each row, `c` one of 16 and `s` a sign for each column: a matrix has 16 kinds of rows
and 32 kinds of columns, whichever way it is laid out, and sums along rows are as those of normal numbers are.
"""

from __future__ import annotations

import math
import statistics
import zlib
from collections.abc import Sequence

import numpy as np

KINDS, ENTRIES = 16, 251
STEPS = 2003
"""Different values of an input."""


def scattered(count: int, salt: str) -> np.ndarray:
    """uint64 `[count]`, as if drawn at random, by the mixing function of SplitMix64 (Steele, Lea, Flood, 2014)."""
    with np.errstate(over="ignore"):
        z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(zlib.crc32(salt.encode()))
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def patterned(shape: Sequence[int], salt: str) -> np.ndarray:
    """float32 of a shape `[rows, ...]`: mean zero, deviation one."""
    normal = statistics.NormalDist()
    table = np.array([normal.inv_cdf((k + 0.5) / ENTRIES) for k in np.argsort(scattered(ENTRIES, "table"))], np.float32)
    table /= table.std()
    rows = scattered(shape[0], f"{salt} rows") % np.uint64(KINDS)
    columns = scattered(math.prod(shape[1:]), f"{salt} columns")
    signs = np.where(columns >> np.uint64(63), np.float32(-1), np.float32(1))
    places = (rows[:, None] * np.uint64(7) + columns % np.uint64(KINDS) * np.uint64(15)) % np.uint64(ENTRIES)
    return np.asarray((table[places] * signs).reshape(shape))


def patterned_input(shape: Sequence[int]) -> np.ndarray:
    """float32 of a shape, between -1 and 1."""
    numbers = scattered(math.prod(shape), "input") % np.uint64(STEPS)
    return np.asarray((numbers.astype(np.float32) / np.float32(STEPS // 2) - np.float32(1)).reshape(shape))
