"""Weights for `vpmaddubsw`, which adds products of unsigned and signed bytes in pairs and saturates at 16 bits.

A pair is exact for whatever data if its positive weights add up to at most 128 and its negative ones to at least -128: 255 * 128 < 2^15. Where
two weights that lie side by side break that, they must not be a pair. So the numbers of a run are not divided into groups of four, but covered
by windows of four bytes that begin anywhere, for each vector of output channels its own:

    run       a b c d e f g h i j k l
    windows   [a b c d]                   pairs a b, c d
                      [e f g .]           g h would saturate: h counts in the next window
                            [. h i j]     begins with g, whose weight is zero here
                                  ...

A weight counts in one window, so that the sums are exact for all weights; the worst ones take twice as many windows as groups, real ones 3 to
20 % more. Numpy alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_compiler.backends.tvm.integer_packing import runs_of, signed
from lepton_compiler.ir.op import Op
from lepton_compiler.ir.tensor import Tensor

Array = npt.NDArray[Any]

WINDOW = 4
"""Bytes in a window: two pairs for each 32-bit sum."""
LANES = (4, 8, 16)
"""32-bit sums in vectors of x86."""
MOST = 128
"""What the weights of one sign may add up to in a pair."""
FEW = 1.6
"""Windows to a group, up to which `vpmaddubsw` is faster than `vpmaddwd` on 16-bit numbers."""


@dataclass(frozen=True)
class Windows:
    """How runs are covered.

    Attributes:
        counts: windows of each row, `[rows]`.
        advances: bytes from where the window before begins, or the row for its first, to where each begins: `[sum of counts]`, row by row.
        weights: `[sum of counts, lanes * WINDOW]`.
    """

    counts: Array
    advances: Array
    weights: Array


def cover(rows: Array) -> Windows:
    """The windows of signed weights `[rows, lanes, run]`, whose runs are multiples of `WINDOW`; each row has windows for all of its lanes."""
    count, lanes, _ = rows.shape
    starts, ends = _places(rows)
    index = np.cumsum(starts >= 0, axis=1)
    counts = index[:, -1] if index.shape[1] else np.zeros(count, np.int64)
    row, step = np.nonzero(starts >= 0)
    at, end = starts[row, step], ends[row, step]
    before = np.where(step > 0, ends[row, np.maximum(step - 1, 0)], 0)
    columns = at[:, None] + np.arange(WINDOW)
    taken = (columns >= before[:, None]) & (columns < end[:, None])
    weights = np.where(taken[:, None, :], rows[row[:, None], :, columns].swapaxes(1, 2), np.int8(0))
    advances = at - np.where(step > 0, starts[row, np.maximum(step - 1, 0)], 0)
    return Windows(counts, advances.astype(np.uint8), np.ascontiguousarray(weights.reshape(len(row), lanes * WINDOW)))


def _places(rows: Array) -> tuple[Array, Array]:
    """Where windows begin and up to where the run is covered after each, `[rows, steps]`; -1 where a row has fewer."""
    count, _, run = rows.shape
    wide = np.pad(rows, ((0, 0), (0, 0), (0, 1))).astype(np.int16)
    high, low = np.maximum(wide, 0), np.minimum(wide, 0)
    too_much = (high[..., :-1] + high[..., 1:] > MOST) | (low[..., :-1] + low[..., 1:] < -MOST)
    clash: Array = np.asarray(too_much.any(axis=1))
    done, every = np.zeros(count, np.int64), np.arange(count)
    starts, ends = list[Array](), list[Array]()
    while (open_rows := done < run).any():
        best, best_end = np.full(count, -1), done.copy()
        for back in range(WINDOW):
            at = done - back
            fits = open_rows & (at >= 0) & (at + WINDOW <= run)
            end = _reached(clash, every, np.clip(at, 0, max(0, run - WINDOW)), done)
            better = fits & (end > best_end)
            best, best_end = np.where(better, at, best), np.where(better, end, best_end)
        starts.append(best)
        ends.append(best_end)
        done = best_end
    if not starts:
        return np.zeros((count, 0), np.int64), np.zeros((count, 0), np.int64)
    return np.stack(starts, 1), np.stack(ends, 1)


def _reached(clash: Array, row: Array, at: Array, done: Array) -> Array:
    """Up to where windows that begin at `at` take the run, of which what is before `done` counts already."""
    first, second = at, at + 2
    first_clash = clash[row, first] & (done <= first)
    second_clash = clash[row, second] & (done <= second)
    return np.where(first_clash, first + 1, np.where(second_clash, second + 1, at + WINDOW))


def weights_in_windows(w: Array, lanes: int, taps: int) -> Array:
    """`[OC, IC, KH, KW]`, `[OC, IC, KW]`, or for `taps` 0 `[K, N]`, to the windows' weights `[windows, lanes * WINDOW]`."""
    return cover(_rows(w, lanes, taps)).weights


def advances_of_windows(w: Array, lanes: int, taps: int, line_step: int, tap_step: int, longest: int) -> Array:
    """Likewise the bytes from the beginning of one window to that of the next, or from that of the pixel's data to the first, `[windows]`.

    Args:
        w: the weights.
        lanes: output channels in a vector.
        taps: runs in a row of the filter; 0 for a matrix.
        line_step: bytes from a run to the one below it.
        tap_step: bytes from a run to the one beside it.
        longest: the largest step that there may be, which decides the type.
    """
    found, kh, each = cover(_rows(w, lanes, taps)), 1 if taps == 0 or w.ndim == 3 else w.shape[2], max(taps, 1)
    run = np.repeat(np.arange(len(found.counts)) % (kh * each), found.counts)
    row = np.repeat(np.arange(len(found.counts)) // (kh * each), found.counts)
    total = np.cumsum(found.advances.astype(np.int64))
    first = np.concatenate([[0], np.cumsum(found.counts)])[:-1]
    start = np.where(first > 0, total[np.maximum(first - 1, 0)], 0)
    places = total - np.repeat(start, found.counts) + run // each * line_step + run % each * tap_step
    new = np.concatenate([[True], row[1:] != row[:-1]]) if len(row) else np.zeros(0, bool)
    steps = np.where(new, places, places - np.concatenate([[0], places[:-1]]))
    return np.asarray(steps, type_of_advances(longest))


def type_of_advances(longest: int) -> type[np.unsignedinteger[Any]]:
    """The shortest type of steps up to `longest` bytes."""
    return np.uint8 if longest < 1 << 8 else np.uint16 if longest < 1 << 16 else np.uint32


def first_windows(w: Array, lanes: int, taps: int) -> Array:
    """Likewise the number of the first window of each vector, and of all: int32 `[ceil(OC / lanes) + 1]`."""
    rows = _rows(w, lanes, taps)
    vectors = -(-(w.shape[1] if taps == 0 else w.shape[0]) // lanes)
    return np.concatenate([[0], np.cumsum(cover(rows).counts.reshape(vectors, -1).sum(1))]).astype(np.int32)


WINDOW_PACKINGS: dict[str, Callable[..., Array]] = {
    "windows": weights_in_windows,
    "window_advances": advances_of_windows,
    "window_firsts": first_windows,
}


def lanes_of_few_windows(op: Op, tensor: Tensor) -> tuple[int, ...]:
    """For vectors of how many sums the windows of weights of a `ConvInteger` or `MatMulInteger` are few enough to be worth it."""
    if not tensor.type.size:
        return ()
    taps = 0 if op.name == "MatMulInteger" else 1 if set(op.dilations[-1:]) == {1} else tensor.type.static_shape[-1]  # type: ignore[attr-defined]
    return tuple(lanes for lanes in LANES if _share(tensor, lanes, taps) <= FEW)


def _share(tensor: Tensor, lanes: int, taps: int) -> float:
    """Windows to a group of `WINDOW` numbers."""
    key = (tensor.digest, lanes, taps)
    if key not in _SHARES:
        rows = _rows(tensor.numpy(), lanes, taps)
        _SHARES[key] = len(cover(rows).advances) * WINDOW / (rows.shape[0] * rows.shape[2])
    return _SHARES[key]


_SHARES: dict[tuple[str, int, int], float] = {}
"""By digest of the weights, lanes, and taps."""


def _rows(w: Array, lanes: int, taps: int) -> Array:
    """`[vectors * KH * taps, lanes, run]`, filled up with zeros to whole vectors and windows."""
    runs = signed(w).T[:, None, None, :] if taps == 0 else runs_of(w, taps)
    outputs, kh, each, run = runs.shape
    filled = np.pad(runs, ((0, -outputs % lanes), (0, 0), (0, 0), (0, -run % WINDOW)))
    return filled.reshape(-1, lanes, kh * each, filled.shape[-1]).swapaxes(1, 2).reshape(-1, lanes, filled.shape[-1])
