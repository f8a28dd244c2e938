"""Weights in windows: the sums stay, and 16 bits hold every pair, whatever the data."""

from __future__ import annotations

import numpy as np
import pytest

from lepton_compiler.backends.tvm.window_couples import MOST, couple
from lepton_compiler.backends.tvm.window_packing import (
    ALONE,
    FEW,
    WINDOW,
    arrange,
    couples_of_windows,
    cover,
    first_windows,
    places_of_windows,
    weights_in_windows,
)

LANES = 8


def rows_of(kind: str, count: int, run: int) -> np.ndarray:
    """Signed weights `[count, LANES, run]`."""
    rng, shape = np.random.default_rng(5), (count, LANES, run)
    match kind:
        case "small":
            return rng.integers(-64, 65, shape).astype(np.int8)
        case "usual":
            return np.clip(np.rint(rng.normal(0, 35, shape)), -127, 127).astype(np.int8)
        case "any":
            return rng.integers(-128, 128, shape).astype(np.int8)
        case _:
            return np.full(shape, int(kind), np.int8)


@pytest.mark.parametrize("kind", ["small", "usual", "any", "127", "-128"])
@pytest.mark.parametrize(("count", "run"), [(1, 4), (3, 12), (5, 192), (2, 37)])
def test_windows_are_exact(kind: str, count: int, run: int) -> None:
    rows = rows_of(kind, count, run)
    found, data = cover(rows), np.random.default_rng(6).integers(0, 256, (count, run))
    pairs = found.weights.reshape(-1, LANES, WINDOW // 2, 2).astype(np.int64)
    assert np.maximum(pairs, 0).sum(-1).max() <= MOST and np.minimum(pairs, 0).sum(-1).min() >= -MOST
    assert 255 * MOST < 1 << 15
    window = 0
    for row in range(count):
        total = np.zeros(LANES, np.int64)
        for _ in range(found.counts[row]):
            position = int(found.starts[window])
            assert 0 <= position <= run - WINDOW
            total += found.weights[window].reshape(LANES, WINDOW).astype(np.int64) @ data[row, position : position + WINDOW]
            window += 1
        np.testing.assert_array_equal(total, rows[row].astype(np.int64) @ data[row])
    assert window == len(found.starts) == len(found.weights)


@pytest.mark.parametrize(("kind", "most"), [("small", 1.0), ("usual", 1.15), ("any", 2.1), ("127", 2.1)])
def test_windows_are_few(kind: str, most: float) -> None:
    rows = rows_of(kind, 4, 192)
    found = cover(rows)
    assert len(found.starts) * WINDOW <= most * rows.shape[0] * rows.shape[2]
    _, couples = couple(found.weights, found.counts)
    instructions = (ALONE * len(found.starts) - couples.sum()) * WINDOW / (ALONE * rows.shape[0] * rows.shape[2])
    assert instructions <= FEW or kind in ("any", "127")
    assert instructions < 1 or kind != "small"


def test_no_weights_want_no_windows() -> None:
    found = cover(np.zeros((0, LANES, 8), np.int8))
    assert found.weights.shape == (0, LANES * WINDOW) and len(found.starts) == len(found.counts) == 0


def test_couples_fit_16_bits_and_lone_windows_go_with_no_other() -> None:
    rows = rows_of("usual", 6, 96)
    found = cover(rows)
    counts = found.counts.reshape(2, -1).sum(1)
    order, couples = couple(found.weights, counts)
    assert sorted(order) == list(range(len(found.weights)))
    pairs = found.weights[order].reshape(len(order), -1, 2).astype(np.int64)
    sums = np.maximum(pairs, 0).sum(-1), -np.minimum(pairs, 0).sum(-1)
    for first, count, paired in zip(np.cumsum(counts) - counts, counts, couples, strict=True):
        assert set(order[first : first + count]) == set(range(first, first + count))
        for signed in sums:
            together = signed[first : first + 2 * paired].reshape(paired, 2, -1).sum(1)
            assert together.max() <= MOST
        alone = [signed[first + 2 * paired : first + count] for signed in sums]
        fits = np.logical_and(*((s[:, None] + s[None] <= MOST).all(-1) for s in alone))
        assert not np.triu(fits, 1).any()
        assert 2 * paired > count // 3


@pytest.mark.parametrize(("kind", "couples"), [("0", 6), ("1", 6), ("65", 0), ("-64", 0), ("32", 6), ("33", 0)])
def test_couples_at_the_bounds(kind: str, couples: int) -> None:
    found = cover(rows_of(kind, 1, 48))
    assert couple(found.weights, found.counts)[1].tolist() == [couples]


@pytest.mark.parametrize(("taps", "tap_step"), [(1, 10), (3, 22)])
def test_places_lead_through_all_rows_of_a_filter(taps: int, tap_step: int) -> None:
    rng, line_step = np.random.default_rng(7), 700
    w = np.clip(np.rint(rng.normal(0, 35, (13, 10, 2, 3))), -127, 127).astype(np.int8)
    data = rng.integers(0, 256, 2 * line_step).astype(np.int64)
    weights, firsts = weights_in_windows(w, LANES, taps), first_windows(w, LANES, taps)
    places, couples = places_of_windows(w, LANES, taps, line_step, tap_step, 2 * line_step), couples_of_windows(w, LANES, taps)
    assert places.dtype == np.uint16 and places_of_windows(w, LANES, taps, 0, 0, 255).dtype == np.uint8
    assert len(couples) == 2 and (2 * couples <= np.diff(firsts)).all() and couples.tolist() == arrange(w, LANES, taps).couples.tolist()
    for channel in range(len(w)):
        total = 0
        for window in range(firsts[channel // LANES], firsts[channel // LANES + 1]):
            position = int(places[window])
            own = weights[window].reshape(LANES, WINDOW)[channel % LANES].astype(np.int64)
            total += int(own @ data[position : position + WINDOW])
        wanted = 0
        for r in range(2):
            for k in range(3):  # taps that are not dilated lie side by side
                start = r * line_step + k * (10 if taps == 1 else tap_step)
                wanted += int(w[channel, :, r, k].astype(np.int64) @ data[start : start + 10])
        assert total == wanted
