"""Code for other machines, run in the emulator and held against the evaluator."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.ir.graph import Graph, Value
from lepton_compiler.ir.text import parse_graph
from lepton_compiler.ir.types import FLOAT32, INT8, UINT8, TensorType
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.conv import ConvInteger
from lepton_compiler.runtime.emulator import check_installed
from lepton_compiler.target import parse_target
from lepton_compiler.toolchain import find_toolchain

pytestmark = pytest.mark.skipif(importlib.util.find_spec("unicorn") is None, reason="unicorn is not installed")

MICRO = ["cortex-m4", "cortex-m0plus"]
MORE_MICRO = ["cortex-m3", "cortex-m7", "cortex-m33", "cortex-m55", "cortex-m55,-mve"]
ALL_MICRO = [*MICRO, *(pytest.param(m, marks=pytest.mark.slow) for m in MORE_MICRO)]
SLOW = [pytest.param(t, None, marks=pytest.mark.slow) for t in (*MORE_MICRO, "arm64", "armv7", "riscv64")]
LINUX = ["arm64", *(pytest.param(name, marks=pytest.mark.slow) for name in ("armv7", "riscv64"))]

FLOATS = """\
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


def needs_linker(target: str) -> None:
    try:
        find_toolchain(parse_target(target))
    except lc.MissingDependency as error:
        pytest.skip(str(error))
    try:
        check_installed(parse_target(target))
    except lc.MissingDependency as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("target", [*LINUX, *ALL_MICRO])
def test_floats_on_other_machines(target: str) -> None:
    needs_linker(target)
    graph, random = parse_graph(FLOATS), np.random.default_rng(0)
    feeds = {v.name: random.uniform(-2, 2, v.type.static_shape).astype(np.float32) for v in graph.inputs}
    model = lc.compile(graph, target, 3)
    outputs, stats = model.emulate(feeds)
    for name, want in lc.evaluate(graph, feeds).items():
        np.testing.assert_allclose(outputs[name], want, rtol=1e-5, atol=1e-6, err_msg=name)
    assert (
        stats.instructions is not None
        and stats.instructions > 5 * 5 * 5 * 7
        and sum(c.instructions for c in stats.calls) <= stats.instructions
    )
    if target in MICRO:
        assert 0 < stats.peak_stack_bytes <= model.manifest["stack_bytes"]
    again, uncounted = model.emulate(feeds, count=False)
    assert uncounted.instructions is None and all(np.array_equal(again[name], outputs[name]) for name in outputs)
    assert model.emulate(feeds)[1] == stats


def quantized_graph() -> Graph:
    """Convolutions of all kinds, and matrix products, from codes to codes; sizes that divide nothing."""
    graph, random = Graph("net"), np.random.default_rng(3)
    b, outputs = Builder(graph), list[Value]()

    def add(shape: tuple[int, ...], zero: int, filters: tuple[int, ...], op: ConvInteger | None = None, w_zero: int | None = None) -> None:
        data, kind = (UINT8 if zero > 127 else INT8), (INT8 if w_zero is None else UINT8)
        x = graph.add_input(f"x{len(outputs)}", TensorType(data, shape))
        low = 0 if kind == UINT8 else -128
        w = b.constant(random.integers(low, low + 256, filters).astype(kind.numpy))
        points = [b.constant(np.array(zero, data.numpy)), None if w_zero is None else b.constant(np.array(w_zero, kind.numpy))]
        sums = b.MatMulInteger(x, w, *points) if op is None else b(op, x, w, *points)
        spatial = (1,) * (len(shape) - 2)
        channels = filters[1] if op is None else filters[0]
        shift = random.integers(-9999, 9999, (channels, *spatial)) if op is not None else random.integers(-9999, 9999, (channels,))
        factor = random.uniform(1e-4, 1e-2, shift.shape).astype(np.float32)
        scaled = b.Mul(b.Cast(b.Add(sums, b.constant(shift.astype(np.int32))), to=FLOAT32), b.constant(factor))
        outputs.append(b.QuantizeLinear(scaled, b.constant(np.float32(1)), b.constant(np.int8(-3)), dtype=INT8))

    add((1, 3, 7, 6), -128, (5, 3, 3, 3), ConvInteger(strides=(2, 2), pads=(1, 1, 1, 1)))
    add((1, 8, 5, 5), 7, (4, 8, 1, 1), ConvInteger())
    add((2, 4, 4, 5), 5, (6, 4, 2, 3), ConvInteger(pads=(0, 1, 1, 2), dilations=(1, 2)))
    add((1, 5, 9), 0, (3, 5, 3), ConvInteger(strides=(2,), pads=(2, 0), dilations=(1,)))
    add((1, 6, 6, 5), -128, (6, 1, 3, 3), ConvInteger(pads=(1, 1, 1, 1), groups=6))
    add((1, 8, 5, 7), 100, (8, 1, 5, 3), ConvInteger(strides=(2, 2), pads=(2, 1, 2, 1), groups=8))
    add((2, 4, 7), -1, (4, 1, 3), ConvInteger(strides=(1,), pads=(1, 1), dilations=(2,), groups=4))
    add((1, 13), -7, (13, 7))
    add((5, 9), 3, (9, 4))
    add((1, 5, 4, 6), 200, (3, 5, 3, 3), ConvInteger(pads=(1, 0, 1, 2)), 77)
    add((1, 6, 5, 5), 255, (6, 1, 3, 3), ConvInteger(pads=(1, 1, 1, 1), groups=6), 130)
    add((3, 10), 128, (10, 5), None, 255)
    graph.set_outputs(outputs)
    return graph


@pytest.mark.parametrize(("target", "cpu"), [*((t, None) for t in MICRO), ("arm64", "cortex-a76"), *SLOW])
def test_integers_are_equal_bit_for_bit(target: str, cpu: str | None) -> None:
    needs_linker(target)
    graph, random = quantized_graph(), np.random.default_rng(1)
    feeds = {v.name: random.integers(0, 256, v.type.static_shape).astype(np.uint8).view(v.type.dtype.numpy) for v in graph.inputs}
    model = lc.compile(graph, target, 2, cpu=cpu)
    outputs, stats = model.emulate(feeds)
    for name, want in lc.evaluate(graph, feeds).items():
        np.testing.assert_array_equal(outputs[name], want, err_msg=name)
    if parse_target(target).is_firmware:
        assert stats.peak_stack_bytes <= model.manifest["stack_bytes"]


@pytest.mark.parametrize("target", MICRO)
def test_a_firmware_library_wants_nothing_but_memory_functions_and_the_compilers_own(target: str, tmp_path: Path) -> None:
    needs_linker(target)
    if (nm := shutil.which("arm-none-eabi-nm")) is None:
        pytest.skip("arm-none-eabi-nm is not installed")
    lc.compile(parse_graph(FLOATS), target, 3, name="net").save(tmp_path)
    listed = subprocess.run([nm, "--extern-only", tmp_path / "libnet.a"], capture_output=True, text=True, check=True, timeout=60).stdout
    symbols = [line.split()[-2:] for line in listed.splitlines() if len(line.split()) >= 2]
    wanted = {name for kind, name in symbols if kind == "U"} - {name for kind, name in symbols if kind != "U"}
    assert "net_run" not in wanted and all(re.fullmatch(r"mem(cpy|set)|__(aeabi|gnu)_\w+|__\w+[sd][fi]\d?", name) for name in wanted), (
        wanted
    )


def test_small_code_is_smaller_and_right() -> None:
    needs_linker("cortex-m4")
    graph, random = parse_graph(FLOATS), np.random.default_rng(0)
    feeds = {v.name: random.uniform(-2, 2, v.type.static_shape).astype(np.float32) for v in graph.inputs}
    quick, small = (lc.compile(graph, "cortex-m4", level) for level in (2, "s"))
    assert small.manifest["code_bytes"] < quick.manifest["code_bytes"]
    for name, want in lc.evaluate(graph, feeds).items():
        np.testing.assert_allclose(small.emulate(feeds)[0][name], want, rtol=1e-5, atol=1e-6, err_msg=name)


def test_what_the_emulator_cannot_run_is_said() -> None:
    from lepton_compiler.runtime.emulator.cores import make_core

    with pytest.raises(lc.UnsupportedError, match=r"does not know mve\.fp of cortex-m55"):
        make_core(parse_target("cortex-m55,-mve,mve.fp"))


def test_budgets_are_kept() -> None:
    needs_linker("cortex-m4")
    graph = parse_graph("graph @n(%x: float32[64]) {\n  %y = Exp()(%x) : float32[64]\n  %z = Floor()(%y) : float32[64]\n  return %z\n}\n")
    model = lc.compile(graph, "cortex-m4", ram=1 << 16, flash=1 << 16)
    assert model.manifest["flash_bytes"] >= model.manifest["code_bytes"] > 0
    with pytest.raises(lc.UnsupportedError, match=r"bytes of flash, .* more than there are: code"):
        lc.compile(graph, "cortex-m4", flash=100)
    with pytest.raises(lc.UnsupportedError, match=r"bytes of RAM, .* more than there are: arena"):
        lc.compile(graph, "cortex-m4", ram=8)
