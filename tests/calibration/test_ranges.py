"""Histograms that grow, and the ranges that observers choose from them."""

from __future__ import annotations

import numpy as np
import pytest

from lepton_compiler.calibration import Range, choose_range, read_ranges, write_ranges
from lepton_compiler.calibration.histogram import BINS, Histogram
from lepton_compiler.errors import UsageError


def filled(*arrays):
    histogram = Histogram()
    for array in arrays:
        assert histogram.add(np.asarray(array, np.float32))
    return histogram


def test_a_growing_histogram_equals_one_that_knew_its_limit():
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=5000).astype(np.float32) * scale for scale in (0.01, 3, 0.5, 40)]
    histogram = filled(*parts)
    edges = np.linspace(-histogram.limit, histogram.limit, BINS + 1)
    expected = np.histogram(np.concatenate(parts), edges)[0]
    assert histogram.counts.sum() == 20000 == histogram.seen
    assert np.abs(histogram.counts - expected).sum() <= 20  # elements on the border of two bins
    assert histogram.low == min(p.min() for p in parts) and histogram.high == max(p.max() for p in parts)


def test_long_tensors_are_sampled_and_their_extremes_are_exact():
    array = np.zeros(1_000_000, np.float32)
    array[777_777] = 5
    histogram = filled(array)
    assert (histogram.low, histogram.high, histogram.seen) == (0, 5, 1_000_000)
    assert histogram.counts.sum() == pytest.approx(1_000_000)


def test_what_is_not_finite_is_not_counted():
    histogram = Histogram()
    assert not histogram.add(np.array([1, np.nan], np.float32))
    assert histogram.seen == 0 and not histogram.counts.any()


def test_ranges_hold_zero():
    for observer in ("minmax", "percentile", "entropy", "mse"):
        for array in ([2.0, 3.0], [-3.0, -2.0], [0.0], [-1.0, 1.0]):
            found = choose_range(filled(np.repeat(array, 100)), observer)
            assert found.low <= 0 <= found.high
    assert choose_range(filled([2.0, 3.0]), "minmax") == Range(0.0, 3.0)


@pytest.mark.parametrize("observer", ["percentile99.9", "mse", "entropy"])
def test_outliers_are_cut_off(observer):
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.normal(size=100_000), [500.0]])
    found = choose_range(filled(values), observer)
    assert 2.5 < found.high < 100 and -100 < found.low < -2.5


def test_least_squares_beats_every_other_choice():
    rng = np.random.default_rng(2)
    values = rng.standard_t(3, 50_000).astype(np.float32)
    histogram = filled(values)

    def error(covered):
        scale = (covered.high - covered.low) / 255
        zero = np.rint(-covered.low / scale)
        real = (np.clip(np.rint(values / scale) + zero, 0, 255) - zero) * scale
        return float(np.mean((real - values) ** 2))

    best = error(choose_range(histogram, "mse"))
    assert all(best <= 1.02 * error(choose_range(histogram, other)) for other in ("minmax", "percentile", "entropy"))


def test_symmetric_ranges():
    found = choose_range(filled(np.linspace(-1, 4, 1000)), "mse", 16, symmetric=True)
    assert found.low == -found.high and found.high == pytest.approx(4, rel=0.01)


def test_unknown_observers_are_named():
    with pytest.raises(UsageError, match="no observer 'median'"):
        choose_range(filled([1.0]), "median")
    with pytest.raises(UsageError, match="percentile101"):
        choose_range(filled([1.0]), "percentile101")


def test_ranges_can_be_written_and_read(tmp_path):
    ranges = {"a": Range(-1.0, 2.5), "b": Range(0.0, 0.0)}
    write_ranges(ranges, tmp_path / "r.json")
    assert read_ranges(tmp_path / "r.json") == ranges
    (tmp_path / "bad.json").write_text('{"a": [1, 2]}')
    with pytest.raises(UsageError, match="does not hold zero"):
        read_ranges(tmp_path / "bad.json")
    with pytest.raises(UsageError, match="cannot read ranges"):
        read_ranges(tmp_path / "none.json")
