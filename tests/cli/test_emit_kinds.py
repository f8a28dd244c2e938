"""What each kind of output of `leptonc` holds, and that C programs can use it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lepton_compiler as lc

EXAMPLE = Path(__file__).parents[2] / "examples" / "c"
MAIN = """
#include <stdio.h>
#include <stdlib.h>
#include "tiny.h"
int main(void) {
  float x[4] = {1, 2, 3, 4}, y[3];
  void *arena = aligned_alloc(TINY_ARENA_ALIGN, (TINY_ARENA_BYTES + TINY_ARENA_ALIGN) / TINY_ARENA_ALIGN * TINY_ARENA_ALIGN);
  tiny_inputs inputs = {x};
  tiny_outputs outputs = {y};
  if (tiny_run(&inputs, &outputs, arena) != TINY_OK) return 1;
  for (int k = 0; k < 3; ++k) printf("%.9g ", y[k]);
  return 0;
}
"""

needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


@needs_cc
@pytest.mark.parametrize(("kind", "result"), [("static", "libtiny.a"), ("obj", "tiny.o"), ("lib", "libtiny.so")])
def test_a_c_program_links_and_gets_the_right_numbers(call, tiny, tmp_path, kind, result):
    out = tmp_path / "out"
    assert call("leptonc", tiny, "--emit", kind, "-o", out, "-q").status == 0
    (tmp_path / "main.c").write_text(MAIN)
    command = [
        "cc",
        "-std=c11",
        "-Wall",
        "-Wextra",
        "-Werror",
        f"-I{out}",
        "main.c",
        str(out / result),
        f"-Wl,-rpath,{out}",
        "-lm",
        "-o",
        "main",
    ]
    subprocess.run(command, cwd=tmp_path, check=True)
    printed = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True).stdout
    expected = lc.evaluate(lc.import_model(tiny), {"x": np.array([[1, 2, 3, 4]], np.float32)})["y"]
    np.testing.assert_allclose(np.array(printed.split(), np.float32), expected[0], rtol=1e-5)


@needs_cc
def test_the_example_in_c_prints_what_the_evaluator_computes(tmp_path, monkeypatch):
    folder = shutil.copytree(EXAMPLE, tmp_path / "c")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(["make", "main"], cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    numbers = subprocess.run([folder / "main"], capture_output=True, text=True, check=True).stdout.split()
    graph = lc.import_model(folder / "tiny.lir")
    x = np.array([[1, 2, 3, 4]], np.float32)
    (expected,) = lc.evaluate(graph, {graph.inputs[0].name: x.reshape(graph.inputs[0].type.static_shape)}).values()
    np.testing.assert_allclose(np.array(numbers, np.float32), expected.reshape(-1), atol=5e-4)


@pytest.mark.parametrize("kind", ["tir", "asm"])
def test_kernels_as_text(call, tiny, tmp_path, kind):
    done = call("leptonc", tiny, "--emit", kind, "-o", tmp_path / "out", "--json")
    assert done.status == 0, done.err
    text = (tmp_path / "out" / {"tir": "tiny.tir", "asm": "tiny.s"}[kind]).read_text()
    assert ("T.Buffer" in text or "T.handle" in text) if kind == "tir" else ".globl" in text
    assert text.count("lepton_") >= done.json["kernels"]


def test_portable_c_is_verified(call, tiny, tmp_path):
    done = call("leptonc", tiny, "--emit", "c", "--verify", "-o", tmp_path / "out", "--json")
    assert done.status == 0 and done.json["verify"]["ok"], done.err
    assert (tmp_path / "out" / "tiny_kernels.c").is_file()


def test_portable_c_keeps_no_budget_of_memory(call, tiny, tmp_path):
    done = call("leptonc", tiny, "--emit", "c", "--flash", "64K", "-o", tmp_path / "out")
    assert done.status == 1 and "up to its compiler" in done.err and not (tmp_path / "out").exists()


def test_an_output_is_one_state_only(call, tiny, tmp_path):
    done = call("leptonc", tiny, "--state", "y=x", "--state", "y=z", "-o", tmp_path / "out")
    assert done.status == 2 and "twice" in done.err


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_give_the_same_bits(tmp_path, monkeypatch, cache, threads):
    monkeypatch.setenv("LEPTON_CACHE", str(cache))
    rng = np.random.default_rng(0)
    text = """graph @wide(%x: float32[1,16,64,64]) {
  %w = const float32[16,16,3,3] (VALUES)
  %m = Conv(pads=(1, 1, 1, 1))(%x, %w) : float32[1,16,64,64]
  %y = Tanh()(%m) : float32[1,16,64,64]
  return %y
}
"""
    values = ", ".join(repr(float(v)) for v in rng.normal(0, 0.1, 16 * 16 * 9).astype(np.float32))
    (tmp_path / "wide.lir").write_text(text.replace("VALUES", values))
    x = rng.normal(size=(1, 16, 64, 64)).astype(np.float32)
    one, many = (lc.compile(tmp_path / "wide.lir", threads=n) for n in (1, threads))
    expected = one.run({"x": x})["y"]
    for _ in range(20):
        np.testing.assert_array_equal(many.run({"x": x})["y"], expected)
