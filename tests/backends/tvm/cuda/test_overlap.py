"""Kernels that start while the one before them runs: which launches ask for it, of which drivers, and that the code waits before it touches memory."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.backends.tvm.cuda.compilers import Image, compile_images, find_compiler
from lepton_compiler.backends.tvm.cuda.package import build
from lepton_compiler.errors import MissingDependency
from lepton_compiler.gpus import GPUS
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.text import parse_graph
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.recurrent import LSTM

NET = """\
graph @net(%x: float32[40,64]) {
  %a = Softmax(axis=1)(%x) : float32[40,64]
  %t = Transpose(perm=(1,0))(%a) : float32[64,40]
  %y = MatMul()(%t, %x) : float32[64,64]
  return %y
}
"""
X = np.random.default_rng(0).standard_normal((40, 64)).astype(np.float32)


def started(gpu: Any) -> tuple[int, int]:
    """Kernels that were started when all was done, and those that need not have waited."""
    return gpu.count("cuLaunchKernel"), gpu.count("cuLaunchKernelEx")


@pytest.fixture
def with_ptx(make, monkeypatch):
    """Artefacts have, as real ones do, PTX of their newest architecture too."""
    monkeypatch.setattr(
        build,
        "compile_images",
        lambda text, gpus, cache, jobs: ([*(Image(g, False, b"code") for g in gpus), Image(gpus[-1], True, b"ptx")], "none"),
    )
    return make


@pytest.fixture
def net(with_ptx):
    return with_ptx(parse_graph(NET), target="cuda:sm_80,sm_90")


MACHINES: dict[str, tuple[dict[str, Any], bool]] = {
    "as it should be": ({"capability": (9, 0)}, True),
    "a newer device": ({"capability": (10, 0)}, True),
    "an older device": ({"capability": (8, 6)}, False),
    "a driver that does not record such launches": ({"capability": (9, 0), "version": 12020}, False),
}


@pytest.mark.parametrize("machine", MACHINES)
def test_kernels_after_kernels_overlap_where_device_and_driver_can(net, gpu, machine):
    how, overlaps = MACHINES[machine]
    gpu.configure(**how)
    np.testing.assert_allclose(net.run({"x": X})["y"], lc.evaluate(parse_graph(NET), {"x": X})["y"], rtol=1e-5, atol=1e-5)
    launches = net.manifest["launches"]
    assert not gpu.faults and launches >= 3 and gpu.count("cuGraphLaunch") == 1
    assert started(gpu) == ((1, launches - 1) if overlaps else (launches, 0))


def test_code_for_older_devices_does_not_wait_and_does_not_overlap(with_ptx, gpu):
    """Translated from PTX of `sm_80` on a newer device: there is no instruction in it that waits."""
    model = with_ptx(parse_graph(NET))
    gpu.configure(capability=(9, 0))
    model.run({"x": X})
    assert started(gpu) == (model.manifest["launches"], 0)


def test_the_environment_can_forbid_it(net, gpu, monkeypatch):
    monkeypatch.setenv("LEPTON_CUDA_OVERLAP", "0")
    gpu.configure(capability=(9, 0))
    net.run({"x": X})
    assert started(gpu) == (net.manifest["launches"], 0)


def layer_between() -> Graph:
    """A layer whose blocks wait for each other, between kernels; the counter of their barrier is cleared before."""
    graph = parse_graph("graph @net(%x: float32[3,16,300]) {\n  return %x\n}\n")
    b, rng = Builder(graph), np.random.default_rng(1)
    w, r = (b.constant((rng.standard_normal((1, 1600, n)) / 20).astype(np.float32), name=name) for name, n in (("w", 300), ("r", 400)))
    graph.set_outputs([b.Softmax(b.node(LSTM(400), [b.Softmax(graph.inputs[0], axis=2), w, r]).outputs[0], axis=3)])
    return graph


def test_what_is_no_plain_kernel_is_waited_for_by_the_host(make):
    text = make(layer_between(), target="cuda:sm_90").artifact.files["net.c"].decode()
    program = re.findall(r"^  (?:TRY\((Fill8)|(RUN|NEXT)\()", text[text.index("static int program_0") :], re.MULTILINE)
    order = ["".join(found) for found in program]
    cleared = order.index("Fill8")
    assert order[0] == "RUN" and set(order[1:cleared]) == {"NEXT"} and order[cleared + 1 : cleared + 3] == ["RUN", "RUN"]


def entries(ptx: str) -> list[list[str]]:
    """The instructions of each kernel."""
    return [re.findall(r"^\s+(?:@!?%p\d+\s+)?([a-z][\w.:]*)", body, re.MULTILINE) for body in ptx.split(".entry ")[1:]]


def test_code_waits_before_it_touches_memory_and_reads_nothing_as_constant(make):
    """PTX ISA, `ld.global.nc`: memory that nothing writes while the kernel runs, which what the kernel before writes is not."""
    try:
        find_compiler()
    except MissingDependency as error:
        pytest.skip(str(error))
    text = make(parse_graph(NET)).artifact.files["net.cu"].decode()
    images, _ = compile_images(text, (GPUS["sm_80"], GPUS["sm_90"]), None, 1)
    found = entries(images[-1].code.decode())
    assert len(found) >= 3 and not any("ld.global.nc" in i for instructions in found for i in instructions)
    for instructions in found:
        wait = instructions.index("griddepcontrol.wait")
        assert instructions[wait + 1 : wait + 3].count("griddepcontrol.launch_dependents") == 1
        assert not any(i.startswith(("ld.global", "st.global", "cp.async", "red", "atom", "ret")) for i in instructions[:wait])
