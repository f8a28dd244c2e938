"""Small models on every Cortex-M: what `python -m bench.cores` prints and keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import lepton_compiler as lc
from bench import cores
from lepton_compiler.ir.text import parse_graph

MODEL = "graph @n(%x: float32[4,8]) {\n  %y = Sigmoid()(%x) : float32[4,8]\n  return %y\n}\n"


def test_a_model_is_measured_on_a_core(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("unicorn")
    pytest.importorskip("ziglang")
    model = lc.emit(parse_graph(MODEL), tmp_path / "small.onnx")
    assert cores.main([str(model), "--core", "cortex-m33", "--no-write", "--json", "-q"]) == 0
    (cell,) = json.loads(capsys.readouterr().out)["cells"]
    assert cell["model"] == "small" and cell["core"] == "cortex-m33" and cell["ok"] and cell["max_rel"] < 1e-5
    assert cell["instructions"] > 32 and 0 < cell["stack_peak"] <= cell["stack"] and cell["code"] > 0


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cores, "RESULTS", tmp_path)
    measured: list[tuple[str, str]] = []

    def measure(path: Path, core: str, level: str) -> cores.Cell:
        measured.append((path.stem, core))
        return cores.Cell(path.stem, core, path.stem == "good", 0.0 if path.stem == "good" else 0.5, 1_500_000, 64, 100, 8, 8, 0.1)

    monkeypatch.setattr(cores, "measure", measure)
    assert cores.main(["good.onnx", "--core", "cortex-m4", "-q"]) == 0
    assert cores.main(["good.onnx", "bad.onnx", "--core", "cortex-m3", "--core", "cortex-m4", "--resume", "-q"]) == 1
    assert measured == [("good", "cortex-m4"), ("good", "cortex-m3"), ("bad", "cortex-m3"), ("bad", "cortex-m4")]
    table = (tmp_path / "cores.md").read_text()
    assert table in capsys.readouterr().out
    assert "| good | 1.50 | 1.50 |" in table and "| bad | 1.50 (5e-01) **wrong** |" in table
