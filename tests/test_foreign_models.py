"""Real models on other machines, in the emulator: the MLPerf Tiny models on Cortex-M, models of the zoo on 64-bit ARM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler import zoo
from lepton_compiler.feeds import random_feeds
from lepton_compiler.ir.graph import Graph
from lepton_compiler.runtime.emulator import check_installed
from lepton_compiler.target import parse_target
from lepton_compiler.verification import compare

pytest.importorskip("unicorn")
pytest.importorskip("ziglang")

TINY = Path(__file__).parents[2] / "shared" / "models" / "mlperf-tiny"
CORES = ("cortex-m0plus", "cortex-m3", "cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55", "cortex-m55,-mve")
QUICK = ("keyword_spotting", "anomaly_detection")
"""Models that take seconds."""
HELIUM = {"keyword_spotting": 1.0e6, "image_classification": 2.9e6, "visual_wake_words": 3.2e6, "anomaly_detection": 0.05e6}
"""Instructions that each model may take in the vectors of a Cortex-M55: less than a third of what a Cortex-M4 takes."""
BOUNDS = {"keyword_spotting": 16_000, "image_classification": 49_152, "visual_wake_words": 55_296, "anomaly_detection": 768}
"""Bytes that the int8 activations of each model take at least."""
CMSIS = {"keyword_spotting": 7.84e6, "image_classification": 29.9e6, "visual_wake_words": 24.7e6, "anomaly_detection": 0.58e6}
"""Instructions of CMSIS-NN's kernels called one after another on a Cortex-M4."""
FLOATS = ("anomaly_detection", "image_classification", "keyword_spotting", "visual_wake_words")
PULSEVAD = ("pulsevad/pulsevad_2_1k_int8", "pulsevad/pulsevad_2_1k")
LARGE = ("ddddocr/common", "minilm/paraphrase_minilm_l3_v2", "opennsfw/open_nsfw", "piper-tts/nakdimon")
"""Files of 20 MB and more."""
RUN = {"rapidocr/ch_pp_ocrv4_det_infer": {"x": (1, 3, 320, 320)}}
"""Shapes other than those of the list."""


def read_tiny(name: str) -> Graph:
    path = TINY / f"{name}.onnx"
    if not path.is_file():
        pytest.skip("the MLPerf Tiny files are not there")
    return lc.import_model(path, dims=dict.fromkeys(lc.import_model(path).free_symbols, 1))


def needs_emulator(core: str) -> None:
    try:
        check_installed(parse_target(core))
    except lc.MissingDependency as error:
        pytest.skip(str(error))


def codes(graph: Graph) -> dict[str, np.ndarray]:
    random = np.random.default_rng(5)
    return {v.name: random.integers(-128, 128, v.type.static_shape).astype(np.int8) for v in graph.inputs}


def is_quick(name: str, core: str) -> bool:
    return core == "cortex-m4" or (core == "cortex-m55" and name in QUICK)


@pytest.mark.parametrize(
    ("name", "core"),
    [pytest.param(name, core, marks=[] if is_quick(name, core) else pytest.mark.slow) for core in CORES for name in BOUNDS],
)
def test_int8_models_are_equal_bit_for_bit(name: str, core: str) -> None:
    needs_emulator(core)
    graph = read_tiny(f"{name}_int8")
    feeds, model, limits = codes(graph), lc.compile(graph, core, 3), {"cortex-m4": CMSIS, "cortex-m55": HELIUM}
    outputs, stats = model.emulate(feeds, count=core in limits)
    for output, want in lc.evaluate(graph, feeds).items():
        np.testing.assert_array_equal(outputs[output], want)
    assert model.manifest["arena_bytes"] <= BOUNDS[name]
    assert stats.peak_stack_bytes <= model.manifest["stack_bytes"]
    if core in limits:
        assert stats.instructions is not None and stats.instructions <= limits[core][name]


@pytest.mark.slow
@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("name", FLOATS)
def test_float_models(name: str, core: str) -> None:
    needs_emulator(core)
    graph = read_tiny(f"{name}_fp32")
    feeds = random_feeds(graph.inputs)
    outputs, _ = lc.compile(graph, core, 3).emulate(feeds, count=False)
    compare(lc.evaluate(graph, feeds), outputs, "evaluator").check()


@pytest.mark.network
@pytest.mark.parametrize("core", [pytest.param(c, marks=pytest.mark.slow) if c not in ("cortex-m4", "cortex-m0plus") else c for c in CORES])
@pytest.mark.parametrize("name", PULSEVAD)
def test_small_models_of_the_zoo_on_cortex_m(name: str, core: str) -> None:
    needs_emulator(core)
    graph = lc.import_model(fetched(name), inputs=zoo.find(name).shapes)
    feeds = random_feeds(graph.inputs)
    model = lc.compile(graph, core, 3)
    outputs, stats = model.emulate(feeds, count=False)
    check = compare(lc.evaluate(graph, feeds), outputs, "evaluator")
    check.check()
    assert stats.peak_stack_bytes <= model.manifest["stack_bytes"]
    if name.endswith("int8"):
        assert check.max_rel == 0 and model.manifest["arena_bytes"] <= 1600


def fetched(name: str) -> Path:
    """The file of a model; the test is skipped where it cannot be had, except in CI."""
    try:
        return zoo.fetch(zoo.find(name))
    except zoo.FetchError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"cannot be fetched: {error}")


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", [e.id for e in zoo.entries() if e.format == "onnx" and e.id not in LARGE])
def test_zoo_models_on_arm64(name: str, tmp_path: Path) -> None:
    shapes = RUN.get(name) or zoo.find(name).shapes
    options = [f"--input={n}={'x'.join(map(str, shape))}" for n, shape in shapes.items()]
    command = [sys.executable, "-m", "lepton_compiler.cli.leptonc", str(fetched(name)), "--target", "arm64", "-O3", "--verify", "--json"]
    done = subprocess.run([*command, *options, "-o", str(tmp_path / "out")], capture_output=True, text=True, timeout=3500)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["verify"]["ok"] and report["verify"]["reference"] == "evaluator"
