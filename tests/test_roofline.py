"""The machine's limits: how they bound a kernel's time, and that they can be measured."""

from __future__ import annotations

import pytest

from lepton_compiler import roofline
from lepton_compiler.errors import UnsupportedError
from lepton_compiler.profile import KernelTime
from lepton_compiler.roofline import Level, Limits, last_level_bytes, measure_limits
from lepton_compiler.target import parse_target

LIMITS = Limits(1, 100e9, None, (Level("L1", 1000, 200e9, 100e9), Level("L2", 10_000, 40e9, 50e9), Level("memory", None, 10e9, 8e9)))


def test_the_least_time_is_that_of_arithmetic_or_of_traffic():
    assert LIMITS.seconds(macs=10**9, moved=500, constant=0, footprint=10**6) == pytest.approx(0.02)
    assert LIMITS.seconds(macs=0, moved=500, constant=0, footprint=10**6) == pytest.approx(500 / 200e9)
    assert LIMITS.seconds(macs=0, moved=5000, constant=0, footprint=10**6) == pytest.approx(5000 / 50e9)


def test_weights_come_from_where_the_whole_model_fits():
    assert LIMITS.seconds(0, 500, 800, footprint=10**6) == pytest.approx(500 / 200e9 + 800 / 10e9)
    assert LIMITS.seconds(0, 500, 800, footprint=9000) == pytest.approx(500 / 200e9 + 800 / 50e9)


def test_the_share_of_the_limit_is_the_least_time_over_the_time():
    row = KernelTime("k", (), (), 2e-3, 10**6, 0, least=1e-3)
    assert row.share == 0.5 and row.as_json()["limit_share"] == 0.5
    assert KernelTime("k", (), (), 2e-3, 10**6, 0).share is None


def test_limits_read_well():
    assert str(LIMITS) == "100 GFLOP/s, L1 200 GB/s, L2 50 GB/s, memory 10 GB/s (1 thread)"
    assert LIMITS.as_json()["levels"][1] == {"name": "L2", "holds": 10_000, "read_gbytes": 40.0, "triad_gbytes": 50.0}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("cpu", [None, "x86-64-v2"])
def test_a_machine_can_be_measured(monkeypatch, threads, cpu):
    monkeypatch.setattr(roofline, "SAMPLES", 2)
    monkeypatch.setattr(roofline, "SAMPLE_SECONDS", 0.001)
    monkeypatch.setattr(roofline, "LARGEST", 8 << 20)
    limits = measure_limits(parse_target("native", cpu), threads)
    assert limits.threads == threads and limits.flops > 0
    assert (limits.int8_ops is not None) == (cpu is None and "+avx512vnni" in parse_target("native").features)
    assert [level.name for level in limits.levels if level.name != "L3"] == ["L1", "L2", "memory"]
    assert all(level.read > 0 and level.triad > 0 for level in limits.levels)
    assert limits.level(1).name == "L1" and limits.level(1 << 50).name == "memory"


def test_other_machines_cannot_be_measured():
    with pytest.raises(UnsupportedError, match="cannot be measured here"):
        measure_limits(parse_target("x86_64"))


def test_the_last_level_is_read_from_linux(tmp_path, monkeypatch):
    for k, (level, size) in enumerate([("1", "48K"), ("2", "2048K"), ("3", "30720K")]):
        (tmp_path / f"index{k}").mkdir()
        (tmp_path / f"index{k}" / "level").write_text(level + "\n")
        (tmp_path / f"index{k}" / "size").write_text(size + "\n")
    monkeypatch.setattr(roofline, "CACHES", tmp_path / "none")
    assert last_level_bytes() == 0
    monkeypatch.setattr(roofline, "CACHES", tmp_path)
    assert last_level_bytes() == 30 << 20
