"""Weights in windows: the sums stay, and 16 bits hold every pair, whatever the data."""

from __future__ import annotations

import numpy as np
import pytest

from lepton_compiler.backends.tvm.window_couples import MOST, MOST_APART, couple
from lepton_compiler.backends.tvm.window_packing import (
    ALONE,
    INVERT,
    KEEP,
    WINDOW,
    arrange,
    couples_of_windows,
    cover,
    divide,
    first_windows,
    lanes_of_few_windows,
    places_of_windows,
    shifts_of_signs,
    signs_in_windows,
    weights_in_windows,
)
from lepton_compiler.ir.tensor import Tensor
from lepton_compiler.ops.conv import ConvInteger

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
    assert instructions < {"small": 1.0, "usual": 1.0}.get(kind, most)


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
    places, couples = places_of_windows(w, LANES, taps, 0, line_step, tap_step, 2 * line_step), couples_of_windows(w, LANES, taps)
    assert places.dtype == np.uint16 and places_of_windows(w, LANES, taps, 0, 0, 0, 255).dtype == np.uint8
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


@pytest.mark.parametrize("taps", [1, 3])
def test_signs_apart_are_exact(taps: int) -> None:
    rng, line_step, tap_step = np.random.default_rng(8), 700, 22
    w = np.clip(np.rint(rng.normal(0, 45, (13, 10, 2, 3))), -127, 127).astype(np.int8)
    data = rng.choice(np.array([0, 255]), 2 * line_step).astype(np.uint8)
    magnitudes, signs, firsts = weights_in_windows(w, LANES, taps, 1), signs_in_windows(w, LANES, taps), first_windows(w, LANES, taps, 1)
    places, couples = places_of_windows(w, LANES, taps, 1, line_step, tap_step, 2 * line_step), couples_of_windows(w, LANES, taps, 1)
    assert magnitudes.min() >= 0 and set(np.unique(signs)) == {KEEP, INVERT} and couples.min() > 0
    changed = (data[places[:, None] + np.arange(LANES * WINDOW) % WINDOW] ^ signs).view(np.int8).astype(np.int64)
    halves = (changed * magnitudes).reshape(len(places), LANES, 2, 2).sum(-1)
    for first, paired in zip(firsts, couples, strict=False):
        assert np.abs(halves[first : first + 2 * paired].reshape(paired, 2, LANES, 2).sum(1)).max() < 1 << 15
    assert np.abs(halves).max() < 1 << 15 and MOST_APART * 128 < 1 << 15
    sums = np.add.reduceat(halves.sum(-1), firsts[:-1]).reshape(-1) + shifts_of_signs(w, LANES, taps)
    for channel in range(len(w)):
        starts = [r * line_step + k * (10 if taps == 1 else tap_step) for r in range(2) for k in range(3)]
        runs = w[channel].transpose(1, 2, 0).reshape(6, 10).astype(np.int64)
        assert sums[channel] == sum(int(run @ data[start : start + 10]) for run, start in zip(runs, starts, strict=True))


def test_runs_that_are_no_groups_end_within_them() -> None:
    rows = rows_of("any", 2, 10)
    found = divide(rows)
    assert found.counts.tolist() == [3, 3] and found.starts.tolist() == [0, 4, 6] * 2
    np.testing.assert_array_equal(found.weights[2].reshape(LANES, WINDOW)[:, 2:], rows[0, :, 8:])
    assert not found.weights[2].reshape(LANES, WINDOW)[:, :2].any()


@pytest.mark.parametrize(("kind", "wanted"), [("small", False), ("usual", False), ("dense", True), ("-128", None)])
def test_what_takes_fewest_instructions_is_chosen(kind: str, wanted: bool | None) -> None:
    rng = np.random.default_rng(9)
    numbers = rng.integers(-127, 128, (64, 96)).astype(np.int8) if kind == "dense" else rows_of(kind, 8, 96).reshape(64, 96)
    found = lanes_of_few_windows(ConvInteger(), Tensor(numbers[:, :, None, None]))
    assert found.get(LANES) is wanted
