"""A shared library for 64-bit ARM, made with what pip installs, in a program that qemu runs: the emulator's second opinion."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.ir.text import parse_graph

SYSROOT = Path("/usr/aarch64-linux-gnu")
needs = pytest.mark.skipif(
    shutil.which("qemu-aarch64") is None or not SYSROOT.is_dir() or importlib.util.find_spec("ziglang") is None,
    reason="needs qemu-aarch64, the C library of 64-bit ARM in /usr/aarch64-linux-gnu, and ziglang",
)

GRAPH = """\
graph @net(%x: float32[1,6,5,5]) {
  %k = const float32[4,6,1,1] (1.0, 2.0, 3.0, -1.0, 0.5, 0.25, 1.5, -2.0, 0.0, 1.0, 2.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 1.0, 0.0, 0.5, 1.0, -3.0)
  %c = Conv()(%x, %k) : float32[1,4,5,5]
  %y = Tanh()(%c) : float32[1,4,5,5]
  return %y
}
"""
PROGRAM = """\
#include <stdio.h>
#include <stdlib.h>
#include "net.h"
int main(void) {
  static float x[NET_INPUT_X_SIZE], y[NET_OUTPUT_Y_SIZE];
  void *arena = aligned_alloc(NET_ARENA_ALIGN, NET_ARENA_BYTES);
  if (fread(x, sizeof *x, NET_INPUT_X_SIZE, stdin) != NET_INPUT_X_SIZE) return 2;
  const net_inputs inputs = {.x = x};
  net_outputs outputs = {.y = y};
  if (net_run(&inputs, &outputs, arena) != NET_OK) return 3;
  return fwrite(y, sizeof *y, NET_OUTPUT_Y_SIZE, stdout) == NET_OUTPUT_Y_SIZE ? 0 : 4;
}
"""


@needs
def test_a_library_is_loaded_and_right(tmp_path: Path) -> None:
    graph = parse_graph(GRAPH)
    x = np.random.default_rng(0).uniform(-1, 1, (1, 6, 5, 5)).astype(np.float32)
    lc.compile(graph, "arm64", 3, name="net").save(tmp_path)
    (tmp_path / "main.c").write_text(PROGRAM)
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-gnu"]
    subprocess.run([*compiler, "main.c", "-O1", "-L.", "-lnet", "-Wl,-rpath,.", "-o", "main"], cwd=tmp_path, check=True, timeout=300)
    done = subprocess.run(
        ["qemu-aarch64", "-L", str(SYSROOT), "-E", "LD_LIBRARY_PATH=.", "./main"],
        cwd=tmp_path,
        input=x.tobytes(),
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()
    y = np.frombuffer(done.stdout, np.float32).reshape(1, 4, 5, 5)
    np.testing.assert_allclose(y, lc.evaluate(graph, {"x": x})["y"], rtol=1e-5, atol=1e-6)
