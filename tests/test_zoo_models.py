"""Real trained models through the command line: fetched, compiled at -O3, verified against ONNX Runtime."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lepton_compiler import zoo

RUN = {"rapidocr/ch_pp_ocrv4_det_infer": {"x": "1x3x320x320"}}
"""Shapes other than those of the list."""

MODELS = [
    "magika/standard_v3_3_model", "rapidocr/ch_pp_ocrv4_det_infer", "rapidocr/ch_ppocr_mobile_v2_0_cls_infer",
    "rapidocr/ch_pp_ocrv4_rec_infer", "basic-pitch/icassp_2022_nmp", "pulsevad/pulsevad_2_1k", "pulsevad/pulsevad_2_1k_int8",
    "minilm/paraphrase_minilm_l3_v2", "opennsfw/open_nsfw", "ddddocr/common", "ddddocr/common_det",
    "silero-vad/silero_vad_16k_sequence", "silero-vad/silero_vad_op18_ifless",
]  # fmt: skip


@pytest.mark.network
@pytest.mark.parametrize("name", MODELS)
def test_compiles_and_agrees_with_onnxruntime(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    entry = zoo.find(name)
    try:
        model = zoo.fetch(entry)
    except zoo.FetchError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"cannot be fetched: {error}")
    shapes = RUN.get(name) or {n: "x".join(map(str, shape)) for n, shape in entry.shapes.items()}
    options = [f"--input={n}={shape}" for n, shape in shapes.items()]
    command = [sys.executable, "-m", "lepton_compiler.cli.leptonc", str(model), "-O3", "--verify", "--json", "-o", str(tmp_path / "out")]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["verify"]["ok"] and report["verify"]["reference"] == "onnxruntime" and report["verify"]["max_rel"] <= 1e-3
