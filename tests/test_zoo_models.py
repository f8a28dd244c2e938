"""Real trained models through the command line: fetched, compiled at -O3, verified against ONNX Runtime."""

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
from lepton_compiler.verification import onnxruntime_session

RUN = {"rapidocr/ch_pp_ocrv4_det_infer": {"x": "1x3x320x320"}}
"""Shapes other than those of the list."""
LIMIT = {"text2tashkeel/rawi_v3_int8": 3e-2}
"""Dynamically quantized models: the last digit of a sum moves whole steps of a later layer."""

MODELS = [
    "magika/standard_v3_3_model", "rapidocr/ch_pp_ocrv4_det_infer", "rapidocr/ch_ppocr_mobile_v2_0_cls_infer",
    "rapidocr/ch_pp_ocrv4_rec_infer", "basic-pitch/icassp_2022_nmp", "pulsevad/pulsevad_2_1k", "pulsevad/pulsevad_2_1k_int8",
    "minilm/paraphrase_minilm_l3_v2", "opennsfw/open_nsfw", "ddddocr/common", "ddddocr/common_det",
    "silero-vad/silero_vad_16k_sequence", "silero-vad/silero_vad_op18_ifless", "silero-vad/silero_vad", "piper-tts/nakdimon", "piper-tts/tashkeel_model",
    "text2tashkeel/rawi_v3_int8",
]  # fmt: skip


def fetched(name: str) -> Path:
    """The file of a model; the test is skipped where it cannot be had, except in CI."""
    try:
        return zoo.fetch(zoo.find(name))
    except zoo.FetchError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"cannot be fetched: {error}")


@pytest.mark.network
@pytest.mark.parametrize("name", MODELS)
def test_compiles_and_agrees_with_onnxruntime(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    entry, model = zoo.find(name), fetched(name)
    shapes = RUN.get(name) or {n: "x".join(map(str, shape)) for n, shape in entry.shapes.items()}
    options = [f"--input={n}={shape}" for n, shape in shapes.items()]
    command = [sys.executable, "-m", "lepton_compiler.cli.leptonc", str(model), "-O3", "--verify", "--json", "-o", str(tmp_path / "out")]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert (
        report["verify"]["ok"] and report["verify"]["reference"] == "onnxruntime" and report["verify"]["max_rel"] <= LIMIT.get(name, 1e-3)
    )


def sounds(chunks: int, size: int) -> np.ndarray:
    """Noise, tones with overtones, and silence in turn: [chunks, size]."""
    time = np.arange(chunks * size) / 16000
    tone = sum(np.sin(2 * np.pi * 140 * k * time) / k for k in range(1, 8)) * (0.5 + 0.5 * np.sin(2 * np.pi * 3 * time))
    loud = np.repeat(np.arange(chunks) // 10 % 3, size)
    noise = np.random.default_rng(0).standard_normal(chunks * size)
    return np.where(loud == 0, 0.2 * tone, np.where(loud == 1, 0.02 * noise, 0)).astype(np.float32).reshape(chunks, size)


@pytest.mark.network
def test_variants_of_a_streaming_model_agree_over_a_hundred_chunks() -> None:
    names = ("silero_vad", "silero_vad_op18_ifless", "silero_vad_16k_op15")
    files = {name: fetched(f"silero-vad/{name}") for name in names}
    models = {name: lc.compile(file, level=3) for name, file in files.items()}
    reference = onnxruntime_session(files["silero_vad"])
    states = dict.fromkeys([*names, "reference"], np.zeros((2, 1, 128), np.float32))
    context, heard = np.zeros(64, np.float32), []
    for chunk in sounds(100, 512):
        feeds = {"input": np.concatenate([context, chunk])[None], "sr": np.array(16000)}
        context, results = chunk[-64:], {}
        for name, model in models.items():
            outputs = model.run({**feeds, "state": states[name]})
            results[name], states[name] = outputs["output"].item(), outputs["stateN"]
        output, states["reference"] = reference.run(None, {**feeds, "state": states["reference"]})
        heard.append(output.item())
        assert max(abs(result - output.item()) for result in results.values()) <= 1e-4
    assert max(heard) - min(heard) > 0.2


@pytest.mark.network
@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("rapidocr/ch_pp_ocrv4_rec_infer", [{"x": (1, 3, 48, width)} for width in (160, 320, 480)]),
        ("minilm/paraphrase_minilm_l3_v2", [dict.fromkeys(("input_ids", "attention_mask"), (1, n)) for n in (8, 64, 128)]),
    ],
)
def test_one_compiled_model_takes_several_sizes(name: str, shapes: list[dict[str, tuple[int, ...]]]) -> None:
    file = fetched(name)
    model, session = lc.compile(file, level=3), onnxruntime_session(file)
    for sizes in [*shapes, shapes[0]]:
        feeds = random_feeds(lc.import_model(file, inputs=sizes).inputs)
        for wanted, found in zip(session.run(None, feeds), model.run(feeds).values(), strict=True):
            assert found.shape == wanted.shape
            assert np.abs(found - wanted).max() <= 1e-3 * np.ptp(wanted)
