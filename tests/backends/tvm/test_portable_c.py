"""`--emit c`: C99 that this machine's compiler takes under strict warnings, and that computes what the evaluator says."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler import driver
from lepton_compiler.errors import UnsupportedError
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.text import parse_graph
from lepton_compiler.ir.types import TensorType, dtype
from lepton_compiler.job import Job, Outcome
from lepton_compiler.ops.builder import Builder
from lepton_compiler.runtime.model import CompiledModel
from lepton_compiler.runtime.portable import host_artifact
from lepton_compiler.target import parse_target

NET = """\
graph @net(%x: float32[1,3,9,8], %k: float32[5,3,3,3]) {
  %w = const float32[7] (0.5, -1.0, 2.0, 0.25, -0.125, 1.5, 3.0)
  %c = Conv(strides=(2, 1), pads=(1, 1, 1, 0))(%x, %k) : float32[1,5,5,7]
  %m = Mul()(%c, %w) : float32[1,5,5,7]
  %s = Sigmoid()(%m) : float32[1,5,5,7]
  %f = Floor()(%m) : float32[1,5,5,7]
  %t = ReduceMean(axes=(2, 3))(%s) : float32[1,5,1,1]
  %z = Softmax(axis=1)(%t) : float32[1,5,1,1]
  return %z, %f
}
"""
ALONE = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O1", "-c")


def sources(graph: Graph, folder: Path, target: str = "native") -> Outcome:
    return driver.run_job(graph, folder, Job(parse_target(target), emit="c", verify=True))


def built(graph: Graph, name: str = "m") -> CompiledModel:
    job = Job(parse_target("native"), emit="c")
    artifact = driver.complete(driver.build(driver.optimize(graph, 2, job.machine), name, job), {"name": name})
    return CompiledModel(host_artifact(artifact))


@pytest.mark.parametrize("target", ["native", "cortex-m4"])
def test_a_small_network_is_verified(tmp_path, target):
    graph = parse_graph(NET)
    outcome = sources(graph, tmp_path / "out", target)
    check = outcome.verification
    assert check is not None and check.ok and check.max_rel < 1e-5
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "net.c", "net.h", "net.json", "net_kernels.c", "net_kernels.h", "net_weights.c"
    }  # fmt: skip


def test_sources_are_the_same_each_time_and_need_no_c_library(tmp_path):
    for folder in ("a", "b"):
        assert sources(parse_graph(NET), tmp_path / folder).failure is None
    text = {p.name: p.read_text() for p in (tmp_path / "a").iterdir()}
    assert text == {p.name: p.read_text() for p in (tmp_path / "b").iterdir()}
    included = {line for source in text.values() for line in source.splitlines() if line.startswith("#include <")}
    assert included == {f"#include <{name}.h>" for name in ("stdbool", "stddef", "stdint", "float")}


@pytest.mark.parametrize("compiler", ["arm-none-eabi-gcc -mcpu=cortex-m0plus -mthumb", "clang", "gcc -O3"])
def test_other_compilers_take_them(tmp_path, compiler):
    command = compiler.split()
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    sources(parse_graph(NET), tmp_path)
    for file in tmp_path.glob("*.c"):
        done = subprocess.run([*command, *ALONE, str(file), "-o", str(tmp_path / "x.o")], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr


def test_numbers_are_rounded_as_ieee_754_says():
    rng = np.random.default_rng(0)
    whole = rng.integers(0, 2**32, 4096, dtype=np.uint32).view(np.float32)
    halves = np.concatenate([np.arange(-5, 5, 0.5), [0.49999997, 8388607.5, np.nan, np.inf, -np.inf]]).astype(np.float32)
    x = np.concatenate([whole, halves, np.array([1e-45, 2**-149 * 7, 3.4e38, 65520, 65519.996, 6e-8], np.float32)])
    graph = Graph("rounding")
    value = graph.add_input("x", TensorType(dtype(x.dtype), x.shape))
    b = Builder(graph)
    wide = b.Cast(value, to=dtype("float64"))
    half = b.Cast(value, to=dtype("float16"))
    graph.set_outputs([b.Sqrt(value), b.Sqrt(wide), b.Floor(value), b.Ceil(value), b.Round(value), half, b.Cast(half, to=dtype("float32"))])
    got = built(graph).run({"x": x})
    with np.errstate(all="ignore"):
        for name, want in lc.evaluate(graph, {"x": x}).items():
            np.testing.assert_array_equal(got[name], want, err_msg=name)


def test_codes_of_8_bits_are_equal_bit_for_bit(tmp_path):
    rng = np.random.default_rng(1)
    graph = Graph("codes")
    x, w = graph.add_input("x", TensorType(dtype("int8"), (3, 40))), rng.integers(-128, 128, (40, 9)).astype(np.int8)
    b, y = Builder(graph), graph.add_input("y", TensorType(dtype("float32"), (60,)))
    code = b.QuantizeLinear(y, b.constant(np.float32(0.1)), b.constant(np.int8(-7)), dtype=dtype("int8"))
    graph.set_outputs([b.MatMulInteger(x, w), code])
    numbers = np.append(rng.uniform(-20, 20, 56), [np.nan, np.inf, -np.inf, 0.25]).astype(np.float32)
    feeds = {"x": rng.integers(-128, 128, (3, 40)).astype(np.int8), "y": numbers}
    want = lc.evaluate(graph, feeds)
    for name, array in built(graph).run(feeds).items():
        np.testing.assert_array_equal(array, want[name])


def test_what_has_no_portable_c_is_refused_by_name(tmp_path):
    graph = Graph("wide")
    x = graph.add_input("x", TensorType(dtype("float64"), (8,)))
    graph.set_outputs([Builder(graph).Tan(x)])
    with pytest.raises(UnsupportedError, match=r"kernel tan.*C library's tan has no portable C"):
        driver.run_job(graph, tmp_path / "out", Job(parse_target("native"), emit="c"))
    with pytest.raises(UnsupportedError, match="no threads"):
        driver.run_job(parse_graph(NET), tmp_path / "out", Job(parse_target("native"), emit="c", threads=2))
    assert not (tmp_path / "out").exists()
