"""Weights for `vpmaddubsw`, which adds products of unsigned and signed bytes in pairs and saturates at 16 bits.

A pair is exact for whatever data if its positive weights add up to at most 128 and its negative ones to at least -128: 255 * 128 < 2^15. Where
two weights that lie side by side break that, they must not be a pair. So the numbers of a run are not divided into groups of four, but covered
by windows of four bytes that begin anywhere, for each vector of output channels its own:

    run       a b c d e f g h i j k l
    windows   [a b c d]                   pairs a b, c d
                      [e f g h]           g h would saturate in a channel: there h counts in the next window
                            [. h i j]     begins with g, whose weight is zero here, as h's is in the other channels
                                  ...

A weight counts in one window, so that the sums are exact for all weights; the worst ones take twice as many windows as groups, real ones of
many channels 3 to 20 % more.

Where that would take more instructions, signs and magnitudes of weights are apart: magnitudes are multiplied with signed data, x - 128 for
weights that are not negative and 127 - x for others, each of which is one exclusive or of the data x. 16 bits hold every pair then, and nearly
every couple. What that makes of the sums is known from the weights. Only weights of -128 cannot be written so. Numpy alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_compiler.backends.tvm.integer_packing import runs_of, signed
from lepton_compiler.backends.tvm.window_couples import MOST, couple
from lepton_compiler.ir.op import Op
from lepton_compiler.ir.tensor import Tensor
from lepton_compiler.ops.conv import ConvInteger

Array = npt.NDArray[Any]

WINDOW = 4
"""Bytes in a window: two pairs for each 32-bit sum."""
LANES = (4, 8, 16)
"""32-bit sums in vectors of x86."""
ALONE, ALONE_APART = 3, 4
"""Instructions for a window, and with signs apart; a couple takes one less than two windows."""
KEEP, INVERT = 0x80, 0x7F
"""What makes u8 data x the signed x - 128, and 127 - x."""
WIDE, LOOPS, COPY = 4 / 3, 1.85, 0.6
"""In groups: what `vpmaddwd` takes for one, on 16-bit numbers; the loops over a vector's windows; making a byte of the data 16 bits wide before."""
LEAST = -128
"""A weight whose magnitude no signed byte holds."""
SAMPLE = 32
"""Runs from which it is estimated whether windows are few, if that makes a vector of channels."""


@dataclass(frozen=True)
class Windows:
    """How runs are covered.

    Attributes:
        counts: windows of each row, `[rows]`.
        starts: bytes from the beginning of the row to where each begins: `[sum of counts]`, row by row.
        weights: `[sum of counts, lanes * WINDOW]`.
    """

    counts: Array
    starts: Array
    weights: Array


@dataclass(frozen=True)
class Arrangement:
    """The windows of all vectors of output channels in the order in which they are multiplied: a vector's couples, then its other windows.

    Attributes:
        firsts: the first window of each vector, and the number of all: `[vectors + 1]`.
        couples: couples of each vector (`window_couples`), `[vectors]`.
        runs: the run of the filter that each window is in, `[windows]`.
        starts: bytes from the beginning of the run to where each begins, `[windows]`.
        weights: `[windows, lanes * WINDOW]`.
    """

    firsts: Array
    couples: Array
    runs: Array
    starts: Array
    weights: Array


def cover(rows: Array) -> Windows:
    """The windows of signed weights `[rows, lanes, run]`, whose runs have at least `WINDOW` numbers, or none.

    A window takes of every lane what is not taken yet and what 16 bits hold, and covers the first weight of all lanes that waits. Of the four
    that do, the one is chosen after which the next weight waits farthest away, then the one that takes most.
    """
    count, lanes, run = rows.shape
    clash, waiting, every, first = _clashes(rows), np.ones(rows.shape, bool), np.arange(count), np.zeros(count, np.int64)
    at, taken, row = (list[Array]() for _ in range(3))
    while len(live := every[first < run]):
        score, start, takes = _window(clash, waiting, live, first[live], 0)
        for back in range(1, WINDOW):
            others = _window(clash, waiting, live, first[live], back)
            better = others[0] > score
            score, start = np.where(better, others[0], score), np.where(better, others[1], start)
            takes = np.where(better[:, None, None], others[2], takes)
        waiting[live[:, None], :, start[:, None] + np.arange(WINDOW)] &= ~takes.swapaxes(1, 2)
        open_places = waiting[live].any(axis=1)
        first[live] = np.where(open_places.any(axis=1), open_places.argmax(axis=1), run)
        for found, part in ((at, start), (taken, takes), (row, live)):
            found.append(part)
    if not row:
        return Windows(np.zeros(count, np.int64), np.zeros(0, np.int64), np.zeros((0, lanes * WINDOW), np.int8))
    order = np.argsort(np.concatenate(row), kind="stable")
    rank, starts = np.concatenate(row)[order], np.concatenate(at)[order]
    numbers = rows[rank[:, None], :, starts[:, None] + np.arange(WINDOW)].swapaxes(1, 2)
    weights = np.where(np.concatenate(taken)[order], numbers, np.int8(0)).reshape(len(rank), lanes * WINDOW)
    return Windows(np.bincount(rank, minlength=count), starts, weights)


def divide(rows: Array) -> Windows:
    """Windows that are groups of `WINDOW` numbers: the last of a run may begin within the one before, whose weights are zero in it."""
    count, lanes, run = rows.shape
    begins = np.arange(0, run, WINDOW)
    starts = np.minimum(begins, run - WINDOW)
    columns = starts[:, None] + np.arange(WINDOW)
    weights = np.where(columns >= begins[:, None], rows[:, :, columns], np.int8(0)).swapaxes(1, 2)
    return Windows(np.full(count, len(begins)), np.tile(starts, count), weights.reshape(count * len(begins), lanes * WINDOW))


def _clashes(rows: Array) -> Array:
    """Where a weight and the next one must not be a pair, `[rows, lanes, run]`."""
    wide = np.pad(rows, ((0, 0), (0, 0), (0, 1))).astype(np.int16)
    high, low = np.maximum(wide, 0), np.minimum(wide, 0)
    return np.asarray((high[..., :-1] + high[..., 1:] > MOST) | (low[..., :-1] + low[..., 1:] < -MOST))


def _window(clash: Array, waiting: Array, live: Array, first: Array, back: int) -> tuple[Array, Array, Array]:
    """The windows of the rows `live` that begin `back` bytes before the `first` weight that waits: how good, from where on, what they take."""
    start = np.clip(first - back, 0, waiting.shape[2] - WINDOW)
    takes = waiting[live[:, None], :, start[:, None] + np.arange(WINDOW)].swapaxes(1, 2)
    clashing = clash[live[:, None], :, start[:, None] + np.arange(0, WINDOW, 2)].swapaxes(1, 2)
    second: Array = takes[..., 1::2] & takes[..., ::2] & clashing
    takes = takes.copy()
    takes[..., 1::2] &= ~second
    left: Array = np.asarray(second.any(axis=1))
    reached = start + np.where(left.any(axis=1), 2 * left.argmax(axis=1) + 1, WINDOW)
    return reached * takes[0].size + takes.sum((1, 2)), start, takes


def arrange(w: Array, lanes: int, taps: int, apart: int = 0) -> Arrangement:
    """The windows of weights `[OC, IC, KH, KW]`, `[OC, IC, KW]`, or for `taps` 0 `[K, N]`; `apart` says whether signs are."""
    return _arranged(w.tobytes(), w.shape, w.dtype.name, lanes, taps, bool(apart))


@lru_cache(maxsize=2)  # each weight is asked for its windows, their places, and their number
def _arranged(content: bytes, shape: tuple[int, ...], kind: str, lanes: int, taps: int, apart: bool) -> Arrangement:
    w = np.frombuffer(content, kind).reshape(shape)
    rows, vectors = _rows(w, lanes, taps), _vectors(shape, lanes, taps)
    found = divide(rows) if apart else cover(rows)
    counts = found.counts.reshape(vectors, -1).sum(1)
    order, couples = couple(found.weights, counts, apart)
    runs = np.repeat(np.arange(len(rows)) % (len(rows) // max(1, vectors) or 1), found.counts)
    firsts = np.concatenate([[0], np.cumsum(counts)])
    return Arrangement(firsts, couples, runs[order], found.starts[order], np.ascontiguousarray(found.weights[order]))


def weights_in_windows(w: Array, lanes: int, taps: int, apart: int = 0) -> Array:
    """`[OC, IC, KH, KW]`, `[OC, IC, KW]`, or for `taps` 0 `[K, N]`, to the windows' weights or magnitudes `[windows, lanes * WINDOW]`."""
    found = arrange(w, lanes, taps, apart).weights
    return np.abs(found) if apart else found


def signs_in_windows(w: Array, lanes: int, taps: int) -> Array:
    """Likewise what the data are changed by for signs that are apart, uint8 `[windows, lanes * WINDOW]`."""
    return np.where(arrange(w, lanes, taps, 1).weights < 0, np.uint8(INVERT), np.uint8(KEEP))


def shifts_of_signs(w: Array, lanes: int, taps: int) -> Array:
    """Likewise what the sums with signs apart lack, int32 `[vectors * lanes]`: 128 times each weight, 127 times each negative one."""
    rows = _rows(w, lanes, taps).astype(np.int32)
    lacking = np.where(rows < 0, INVERT, KEEP) * rows
    sums: Array = lacking.reshape(_vectors(w.shape, lanes, taps), -1, lanes, rows.shape[2]).sum((1, 3), dtype=np.int32)
    return sums.reshape(-1)


def places_of_windows(w: Array, lanes: int, taps: int, apart: int, line_step: int, tap_step: int, farthest: int) -> Array:
    """Likewise the bytes from the beginning of a pixel's data to where each window begins, `[windows]`.

    Args:
        w: the weights.
        lanes: output channels in a vector.
        taps: runs in a row of the filter; 0 for a matrix.
        apart: whether signs are apart.
        line_step: bytes from a run to the one below it.
        tap_step: bytes from a run to the one beside it.
        farthest: the largest place that there may be, which decides the type.
    """
    found, each = arrange(w, lanes, taps, apart), max(taps, 1)
    places = found.starts + found.runs // each * line_step + found.runs % each * tap_step
    return np.asarray(places, type_of_places(farthest))


def type_of_places(farthest: int) -> type[np.unsignedinteger[Any]]:
    """The shortest type of places up to `farthest` bytes away."""
    return np.uint8 if farthest < 1 << 8 else np.uint16 if farthest < 1 << 16 else np.uint32


def first_windows(w: Array, lanes: int, taps: int, apart: int = 0) -> Array:
    """Likewise the number of the first window of each vector, and of all: int32 `[ceil(OC / lanes) + 1]`."""
    return arrange(w, lanes, taps, apart).firsts.astype(np.int32)


def couples_of_windows(w: Array, lanes: int, taps: int, apart: int = 0) -> Array:
    """Likewise how many couples the windows of each vector begin with: int32 `[ceil(OC / lanes)]`."""
    return arrange(w, lanes, taps, apart).couples.astype(np.int32)


WINDOW_PACKINGS: dict[str, Callable[..., Array]] = {
    "windows": weights_in_windows,
    "window_places": places_of_windows,
    "window_firsts": first_windows,
    "window_couples": couples_of_windows,
    "window_signs": signs_in_windows,
    "window_shifts": shifts_of_signs,
}


def lanes_of_few_windows(op: Op, tensor: Tensor) -> dict[int, bool]:
    """Sums in a vector for which windows of weights of a `ConvInteger` or `MatMulInteger` are worth it, and whether signs are apart then.

    They are compared with `vpmaddwd` on 16-bit numbers, which have to be made of the data; where there is padding, those are copied anyway.
    """
    if not tensor.type.size:
        return {}
    shape = tensor.type.static_shape
    taps, copied = 0, shape[0]
    if isinstance(op, ConvInteger):
        taps = 1 if set(op.dilations[-1:]) == {1} else shape[-1]
        copied = 0 if any(op.pads) else shape[1] * math.prod(op.strides)
    found = dict[int, bool]()
    for lanes in LANES:
        groups, together, apart = _costs(tensor, lanes, taps)
        if min(together, apart) + LOOPS <= WIDE * groups + COPY * copied / _vectors(shape, lanes, taps):
            found[lanes] = apart < together
    return found


def _costs(tensor: Tensor, lanes: int, taps: int) -> tuple[float, float, float]:
    """Groups of `WINDOW` numbers of a vector of channels, and what its windows take, signed and with signs apart: estimated from some vectors."""
    key = (tensor.digest, lanes, taps)
    if key not in _COSTS:
        w = tensor.numpy()
        rows, vectors = _rows(w, lanes, taps), _vectors(w.shape, lanes, taps)
        per = len(rows) // vectors
        sample = rows.reshape(vectors, per, *rows.shape[1:])[:: -(-vectors * per // SAMPLE)]
        flat = sample.reshape(-1, *rows.shape[1:])

        def cost(found: Windows, apart: bool) -> float:
            _, couples = couple(found.weights, found.counts.reshape(len(sample), per).sum(1), apart)
            return float((ALONE_APART if apart else ALONE) * len(found.starts) - couples.sum()) / (ALONE * len(sample))

        apart = cost(divide(flat), True) if signed(w).min() > LEAST else math.inf
        _COSTS[key] = per * rows.shape[2] / WINDOW, cost(cover(flat), False), apart
    return _COSTS[key]


_COSTS: dict[tuple[str, int, int], tuple[float, float, float]] = {}
"""By digest of the weights, lanes, and taps."""


def _vectors(shape: tuple[int, ...], lanes: int, taps: int) -> int:
    """Vectors of output channels."""
    return -(-(shape[1] if taps == 0 else shape[0]) // lanes)


def _rows(w: Array, lanes: int, taps: int) -> Array:
    """`[vectors * KH * taps, lanes, run]`, filled up with zeros to whole vectors and, if they are shorter, to a window."""
    runs = signed(w).T[:, None, None, :] if taps == 0 else runs_of(w, taps)
    outputs, kh, each, run = runs.shape
    filled = np.pad(runs, ((0, -outputs % lanes), (0, 0), (0, 0), (0, max(0, WINDOW - run))))
    return filled.reshape(-1, lanes, kh * each, filled.shape[-1]).swapaxes(1, 2).reshape(-1, lanes, filled.shape[-1])
