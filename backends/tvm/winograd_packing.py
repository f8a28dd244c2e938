"""Weights of `compute.integer_winograd`, and the bound of their sums: numpy alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_compiler.backends.tvm.integer_packing import signed

Array = npt.NDArray[Any]

FILTER: dict[int, Sequence[Sequence[int]]] = {
    2: ((2, 0, 0), (1, 1, 1), (1, -1, 1), (0, 0, 2)),
    4: ((6, 0, 0), (-4, -4, -4), (-4, 4, -4), (1, 2, 4), (1, -2, 4), (0, 0, 12)),
}
"""G of F(m x m, 3 x 3), by m, times 2 or times 24; half of that in the last row of m = 4, so that products of two rows fit 16 bits."""
LARGEST_WEIGHT = {m: 32767 // max(sum(map(abs, row)) for row in rows) ** 2 for m, rows in FILTER.items()}
"""Magnitude of weights up to which transformed ones fit 16 bits, by m."""


def pack_integer_winograd(w: Array, m: int, block: int, zero: int) -> Array:
    """`[OC, IC, 3, 3]` to `[(m + 2)^2, ceil(OC / block), ceil(IC / 2), block * 2]` of int16: G (w - zero) G^T, filled up with zeros."""
    g = np.asarray(FILTER[m], np.int64)
    both = np.kron(g, g)
    oc, ic = w.shape[:2]
    points, blocks, pairs = len(both), -(-oc // block), -(-ic // 2)
    filled = np.zeros((points, blocks * block, pairs * 2), np.int16)
    for first in range(0, oc, block):
        part = signed(w[first : first + block]).astype(np.int64) - zero
        filled[:, first : first + len(part), :ic] = (both @ part.reshape(-1, 9).T).reshape(points, len(part), ic)
    split = filled.reshape(points, blocks, block, pairs, 2)
    return np.ascontiguousarray(split.transpose(0, 1, 3, 2, 4)).reshape(points, blocks, pairs, block * 2)


def sum_bits(w: Array, low: int, high: int) -> int:
    """The bits, with the sign, that hold all sums of weights `[OC, ...]` times data from `low` to `high`, of which zero is one."""
    flat = w.reshape(len(w), -1)
    positive, negative = np.maximum(flat, 0).sum(1), np.minimum(flat, 0).sum(1)
    most = int((positive * high + negative * low).max(initial=0))
    least = int((positive * low + negative * high).min(initial=0))
    return 1 + max(most.bit_length(), (-1 - least).bit_length() if least else 0)
