"""Layers whose blocks share sums, from the model to its launches: which kernels an artefact starts on GPUs with clusters and on those without."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.backends.tvm.cuda.compile import compile_spec
from lepton_compiler.backends.tvm.cuda.compilers import Image, find_compiler
from lepton_compiler.backends.tvm.cuda.package import build
from lepton_compiler.backends.tvm.cuda.tuning.runner import Runner
from lepton_compiler.backends.tvm.cuda.unit import unit
from lepton_compiler.backends.tvm.launches import Launch
from lepton_compiler.backends.tvm.spec import spec_of
from lepton_compiler.cuda_driver import CudaError, DeviceSession
from lepton_compiler.errors import MissingDependency
from lepton_compiler.feeds import random_feeds
from lepton_compiler.gpus import GPUS
from lepton_compiler.ir.text import parse_graph
from lepton_compiler.runtime.model import CompiledModel
from lepton_compiler.target import parse_target
from lepton_compiler.testing.cuda_driver import FakeGpu

DEEP = """\
graph @net(%x: float32[16,1024], %w: float32[1024,64]) {
  %p = MatMul()(%x, %w) : float32[16,64]
  %y = Relu()(%p) : float32[16,64]
  return %y
}
"""
INTEGERS = """\
graph @net(%x: uint8[32,2048], %w: uint8[2048,32], %a: uint8[], %b: uint8[]) {
  %y = MatMulInteger()(%x, %w, %a, %b) : int32[32,32]
  return %y
}
"""
Started = Callable[..., tuple[CompiledModel, list[str]]]


@pytest.fixture
def started(gpu: FakeGpu, text_only: None) -> Started:
    """Compile a graph, run it on a GPU of a capability, compare with the evaluator; the model, and the kernels that it started."""

    def run(text: str, target: str, capability: tuple[int, int], architecture: str = "") -> tuple[CompiledModel, list[str]]:
        graph = parse_graph(text)
        model = lc.compile(graph, target=target)
        gpu.configure(capability=capability, architecture=architecture)
        gpu.forget()
        gpu.know(model.artifact.files["net.cu"].decode(), model.manifest)  # type: ignore[union-attr]
        feeds = random_feeds(graph.inputs)
        found, wanted = model.run(feeds)["y"], lc.evaluate(graph, feeds)["y"]
        assert not gpu.faults
        assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()
        return model, list(gpu.launched)

    return run


@pytest.mark.parametrize("text", [DEEP, INTEGERS], ids=["floats", "integers with zero points"])
@pytest.mark.parametrize(
    ("target", "capability", "launches"),
    [
        ("cuda:sm_90", (9, 0), 1),
        ("cuda:sm_80,sm_90", (9, 0), 1),
        ("cuda:sm_80,sm_90", (8, 6), 2),
        ("cuda:sm_80", (8, 0), 2),
    ],
)
def test_a_second_launch_is_for_gpus_without_clusters(started, text, target, capability, launches):
    model, names = started(text, target, capability)
    (kernel,) = model.manifest["code"]
    assert len(names) == launches
    assert [launch.get("before") for launch in kernel["launches"]] == {
        "cuda:sm_90": [None], "cuda:sm_80,sm_90": [None, 90], "cuda:sm_80": [None, None]
    }[target]  # fmt: skip
    assert (kernel["launches"][0]["grid"][1] in range(2, 9)) or target == "cuda:sm_80"


def test_code_of_older_gpus_needs_its_launches_on_newer_ones(started, monkeypatch):
    """PTX of sm_80 on a GPU that has clusters."""
    monkeypatch.setattr(
        build,
        "compile_images",
        lambda text, gpus, cache, jobs: ([Image(GPUS["sm_80"], is_ptx, b"code") for is_ptx in (False, True)], "none"),
    )
    _, names = started(DEEP, "cuda:sm_80,sm_90", (9, 0), architecture="sm_80")
    assert len(names) == 2


def test_launches_that_newer_code_does_without():
    launch = Launch("f", (1, 1, 1), (32, 1, 1), (0,), before=90)
    assert launch.is_needed((8, 9)) and not launch.is_needed((9, 0)) and not launch.is_needed((12, 0))
    assert Launch("f", (1, 1, 1), (32, 1, 1), (0,)).is_needed((9, 0))
    assert Launch.from_json(launch.to_json()) == launch


@pytest.mark.parametrize(
    ("kernel", "capability", "grid", "is_right"),
    [
        ("four", (9, 0), (2, 8, 1), True),
        ("four", (9, 0), (2, 6, 1), False),
        ("four", (8, 0), (2, 6, 1), True),
        ("sixteen", (9, 0), (1, 16, 1), False),
    ],
)
def test_the_stand_in_checks_clusters_as_a_driver_does(gpu, kernel, capability, grid, is_right):
    gpu.know_text('extern "C" __global__ void LEPTON_CLUSTER(1, 4, 1) __launch_bounds__(32) four(float *x) {}\n')
    gpu.know_text('extern "C" __global__ void __cluster_dims__(1, 16, 1) sixteen(float *x) {}\n')
    gpu.configure(capability=capability)
    gpu.emulate("nothing")
    session = DeviceSession()
    function, place = session.function(session.module(b"code"), kernel), session.allocate(64)
    try:
        with contextlib.nullcontext() if is_right else pytest.raises(CudaError, match=r"cuLaunchKernel: .*912"):
            session.launch(function, grid, (32, 1, 1), 0, [place])
    finally:
        session.close()
        gpu.emulate("everything")
        gpu.configure()


@pytest.mark.parametrize(("capability", "launches"), [((9, 0), 1), ((8, 0), 2)])
def test_tuning_starts_what_the_gpu_needs(gpu, capability, launches):
    spec = spec_of(next(iter(parse_graph(DEEP))))
    kernel = compile_spec("", spec, parse_target("cuda:sm_80,sm_90"))
    gpu.configure(capability=capability)
    gpu.forget()
    gpu.know_text(unit([kernel]))
    runner = Runner()
    runner.begin(spec, 0)
    assert runner.add(kernel, b"code") == "" and not gpu.faults
    assert len(kernel.launches) == 2 and len(gpu.launched) == 2 * launches  # it runs twice
    runner.close()
    gpu.configure()


def test_images_tell_the_size_of_clusters(tmp_path: Path):
    try:
        find_compiler()
    except MissingDependency as missing:
        pytest.skip(str(missing))
    artifact = lc.compile(parse_graph(DEEP), target="cuda:sm_90", cache_dir=tmp_path).artifact
    assert artifact is not None
    library = artifact.files["libnet.so"]
    assert b".explicitcluster" in library and b".reqnctapercluster 1, " in library
    assert b"barrier.cluster.arrive.release" in library
