"""Real models: the library for a GPU, on the stand-in for the driver with the emulator behind it, beside ONNX Runtime."""

from __future__ import annotations

import os

import pytest

import lepton_compiler as lc
from lepton_compiler import zoo
from lepton_compiler.feeds import feeds_from_recipes
from lepton_compiler.verification import compare, reference_outputs


@pytest.mark.network
@pytest.mark.parametrize("name", ["pulsevad/pulsevad_2_1k_int8", "silero-vad/silero_vad_16k_op15"])
def test_agrees_with_onnx_runtime(make, gpu, name):
    pytest.importorskip("onnxruntime")
    entry = zoo.find(name)
    try:
        path = zoo.fetch(entry)
    except zoo.FetchError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"cannot be fetched: {error}")
    graph = lc.import_model(path, inputs={n: tuple(shape) for n, shape in entry.shapes.items()})
    model, feeds = make(graph, level=3), feeds_from_recipes(entry.inputs)
    reference, wanted = reference_outputs(path, graph, feeds)
    found = model.run(feeds)
    assert not gpu.faults and reference == "onnxruntime"
    assert compare(wanted, found).max_rel <= 1e-4
