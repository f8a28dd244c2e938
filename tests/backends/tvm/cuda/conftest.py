from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.backends.tvm.cuda.compilers import Image
from lepton_compiler.backends.tvm.cuda.package import build
from lepton_compiler.feeds import random_feeds
from lepton_compiler.ir.graph import Graph
from lepton_compiler.runtime.model import CompiledModel
from lepton_compiler.testing.cuda_driver import FakeGpu
from lepton_compiler.testing.cuda_emulator import available


@pytest.fixture(scope="session")
def gpu() -> FakeGpu:
    """A machine with a GPU whose kernels run in the emulator."""
    if reason := available():
        pytest.skip(reason)
    return FakeGpu()


@pytest.fixture
def text_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """No compiler for CUDA: the emulator runs the text."""
    monkeypatch.setattr(build, "compile_images", lambda text, gpus, cache, jobs: ([Image(g, False, b"code") for g in gpus], "none"))


Make = Callable[..., CompiledModel]


@pytest.fixture
def make(gpu: FakeGpu, text_only: None, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Compile a graph for the GPU, which then knows its kernels."""

    def made(graph: Graph, **options: Any) -> CompiledModel:
        model = lc.compile(graph, **{"target": "cuda:sm_80"} | options)
        gpu.configure()
        gpu.forget()
        gpu.know(model.artifact.files[f"{model.manifest['name']}.cu"].decode(), model.manifest)  # type: ignore[union-attr]
        return model

    return made


@pytest.fixture
def agrees(make: Make, gpu: FakeGpu) -> Callable[..., CompiledModel]:
    """Compile a graph, run it, and compare with the evaluator: error relative to the range of each output."""

    def check(graph: Graph, feeds: Mapping[str, np.ndarray] | None = None, tolerance: float = 1e-5, **options: Any) -> CompiledModel:
        model = make(graph, **options)
        feeds = feeds or random_feeds(graph.inputs)
        found, wanted = model.run(feeds), lc.evaluate(graph, feeds)
        assert not gpu.faults
        for name, value in wanted.items():
            assert found[name].shape == value.shape and found[name].dtype == value.dtype
            span = float(np.ptp(value.astype(np.float64))) or 1.0
            assert np.abs(found[name].astype(np.float64) - value.astype(np.float64)).max() <= tolerance * span
        return model

    return check
