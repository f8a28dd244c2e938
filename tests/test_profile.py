"""Profiles: one row per kernel call, with the work that its operators define."""

from __future__ import annotations

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.errors import UsageError
from lepton_compiler.ir.text import parse_graph
from lepton_compiler.profile import profile

TEXT = """graph @g(%x: float32[64,64], %y: float32[64,64]) {
  %m = MatMul()(%x, %y) : float32[64,64]
  %r = Relu()(%m) : float32[64,64]
  %s = ReduceSum(axes=(0,))(%r) : float32[1,64]
  return %r, %s
}
"""
FEEDS = {name: np.ones((64, 64), np.float32) for name in ("x", "y")}


def test_each_kernel_call_has_its_time_and_its_work():
    model = lc.compile(parse_graph(TEXT), level=3, profile=True)
    rows = profile(model, FEEDS, seconds=0.02)
    assert len(rows) == model.manifest["kernels"] and all(row.seconds > 0 for row in rows)
    assert sum(row.macs for row in rows) == 64**3
    assert rows[0].gflops == pytest.approx(2e-9 * 64**3 / rows[0].seconds)
    plain = lc.compile(parse_graph(TEXT), level=3)
    np.testing.assert_array_equal(plain.run(FEEDS)["r"], model.run(FEEDS)["r"])
    with pytest.raises(UsageError, match="profile=True"):
        profile(plain, FEEDS)


def test_the_command_prints_the_longest_first(tmp_path, capsys):
    from lepton_compiler.cli import lepton

    path = tmp_path / "g.lir"
    path.write_text(TEXT)
    assert lepton.main(["bench", str(path), "--profile", "--seconds", "0.02"]) == 0
    assert "kernel calls" in capsys.readouterr().out
