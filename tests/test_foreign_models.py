"""Real models on other machines, in the emulator: the MLPerf Tiny models on Cortex-M, models of the zoo on 64-bit ARM."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler import zoo
from lepton_compiler.feeds import random_feeds
from lepton_compiler.ir.graph import Graph
from lepton_compiler.verification import compare, tolerance_of

pytest.importorskip("unicorn")
pytest.importorskip("ziglang")

TINY = Path(__file__).parents[2] / "shared" / "models" / "mlperf-tiny"
CORES = ("cortex-m0plus", "cortex-m3", "cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55")
BOUNDS = {"keyword_spotting": 16_000, "image_classification": 49_152, "visual_wake_words": 55_296, "anomaly_detection": 768}
"""Bytes that the int8 activations of each model take at least."""
CMSIS = {"keyword_spotting": 7.84e6, "image_classification": 29.9e6, "visual_wake_words": 24.7e6, "anomaly_detection": 0.58e6}
"""Instructions of CMSIS-NN's kernels called one after another on a Cortex-M4."""
SMALL = (
    "pulsevad/pulsevad_2_1k", "pulsevad/pulsevad_2_1k_int8", "pulsevad/pulsevad_teacher_81k", "silero-vad/silero_vad",
    "rapidocr/ch_ppocr_mobile_v2_0_cls_infer", "text2tashkeel/rawi_int8", "magika/standard_v3_3_model", "piper-tts/tashkeel_model",
)  # fmt: skip


def read_tiny(name: str) -> Graph:
    path = TINY / f"{name}.onnx"
    if not path.is_file():
        pytest.skip("the MLPerf Tiny files are not there")
    return lc.import_model(path, dims=dict.fromkeys(lc.import_model(path).free_symbols, 1))


def codes(graph: Graph) -> dict[str, np.ndarray]:
    random = np.random.default_rng(5)
    return {v.name: random.integers(-128, 128, v.type.static_shape).astype(np.int8) for v in graph.inputs}


@pytest.mark.parametrize("core", [pytest.param(c, marks=pytest.mark.slow) if c != "cortex-m4" else c for c in CORES])
@pytest.mark.parametrize("name", BOUNDS)
def test_int8_models_are_equal_bit_for_bit(name: str, core: str) -> None:
    graph = read_tiny(f"{name}_int8")
    feeds, model = codes(graph), lc.compile(graph, core, 3)
    outputs, stats = model.emulate(feeds, count=core == "cortex-m4")
    for output, want in lc.evaluate(graph, feeds).items():
        np.testing.assert_array_equal(outputs[output], want)
    assert model.manifest["arena_bytes"] <= BOUNDS[name]
    assert stats.peak_stack_bytes <= model.manifest["stack_bytes"]
    if core == "cortex-m4":
        assert stats.instructions is not None and stats.instructions <= CMSIS[name]


@pytest.mark.slow
@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("name", ["anomaly_detection", "keyword_spotting"])
def test_float_models(name: str, core: str) -> None:
    graph = read_tiny(f"{name}_fp32")
    feeds = random_feeds(graph.inputs)
    outputs, _ = lc.compile(graph, core, 3).emulate(feeds, count=False)
    compare(lc.evaluate(graph, feeds), outputs, "evaluator").check()


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("name", SMALL)
def test_zoo_models_on_arm64(name: str) -> None:
    entry = zoo.find(name)
    try:
        path = zoo.fetch(entry)
    except zoo.FetchError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"cannot be fetched: {error}")
    graph = lc.import_model(path, inputs=entry.shapes)
    feeds = random_feeds(graph.inputs)
    outputs, _ = lc.compile(graph, "arm64", 3).emulate(feeds, count=False)
    compare(lc.evaluate(graph, feeds), outputs, "evaluator", tolerance_of(graph)).check()
