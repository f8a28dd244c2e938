"""Weights are packed by numpy alone, and a build whose kernels are in the cache loads no TVM."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lepton_compiler.backends.tvm.packing import WINOGRAD_FILTER, pack_winograd_weights

BUILD = """
import sys, numpy as np, lepton_compiler as lc
from lepton_compiler.ir.text import parse_graph
w = ", ".join(str(k / 8) for k in range(36))
graph = parse_graph("graph @g(%x: float32[1,2,6,6]) {\\n%w = const float32[2,2,3,3] (" + w + ")\\n"
  "%y = Conv()(%x, %w) : float32[1,2,4,4]\\nreturn %y\\n}")
model = lc.compile(graph, level=3)
print("tvm" in sys.modules, float(model.run({"x": np.ones((1, 2, 6, 6), np.float32)})["y"].sum()))
"""


def test_a_warm_build_loads_no_tvm(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[3]
    environment = {**os.environ, "LEPTON_CACHE": str(tmp_path), "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", BUILD]
    lines = [subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True).stdout for _ in range(2)]
    assert lines[0].split() == lines[1].split() == ["False", str(sum(k / 8 for k in range(36)) * 16)]


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("shape", [(16, 5), (19, 3), (4, 8)])
def test_winograd_weights_are_the_transform_rounded_once(m: int, shape: tuple[int, int]) -> None:
    w = np.random.default_rng(0).standard_normal((*shape, 3, 3)).astype(np.float32)
    g = np.asarray(WINOGRAD_FILTER[m])
    packed = pack_winograd_weights(w, m, 8)
    assert packed.shape == ((m + 2) ** 2, -(-shape[0] // 8), shape[1], 8)
    wanted = np.einsum("ai,ocij,bj->aboc", g, w.astype(np.float64), g).reshape(-1, *shape)
    flat = packed.transpose(0, 1, 3, 2).reshape(len(packed), -1, shape[1])
    np.testing.assert_allclose(flat[:, : shape[0]], wanted, rtol=2e-7, atol=1e-9)
    assert not flat[:, shape[0] :].any()
