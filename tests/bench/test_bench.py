"""`python -m bench` and `python -m bench.memory` on a small model in place of the zoo's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import lepton_compiler as lc
from bench import __main__ as bench
from bench import memory, report
from lepton_compiler import zoo

pytest.importorskip("onnxruntime")

TEXT = """graph @net(%x: float32[2,8]) {
  %w = const float32[8,3] (1.0, 0.0, -1.0, 0.5, 0.5, 0.5, -1.0, 2.0, 0.25, 0.0, 1.0, 0.0, 1.0, 0.0, -1.0, 0.5, 0.5, 0.5, -1.0, 2.0, 0.25, 0.0, 1.0, 0.0)
  %m = MatMul()(%x, %w) : float32[2,3]
  %y = Relu()(%m) : float32[2,3]
  return %y
}
"""


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> zoo.Entry:
    """The only model of the list."""
    (tmp_path / "net.lir").write_text(TEXT)
    path = lc.emit(lc.import_model(tmp_path / "net.lir"), tmp_path / "net.onnx")
    entry = zoo.Entry("test/net", "", "", "", "", "", "onnx", inputs={"x": {"dtype": "float32", "shape": [2, 8], "fill": "uniform"}})
    monkeypatch.setattr(zoo, "entries", lambda: [entry])
    monkeypatch.setattr(zoo, "fetch", lambda entry: path)
    return entry


def test_a_run_writes_numbers_table_and_chart(small, tmp_path, capsys):
    out = tmp_path / "results"
    assert bench.main(["net", "--threads", "1,2", "--seconds", "0.01", "--output", str(out)]) == 0
    shown = capsys.readouterr()
    assert shown.err.count("test/net, threads ") == 2 and "1 float, threads 2: ONNX Runtime" in shown.out
    rows = json.loads((out / "zoo.json").read_text())["rows"]
    assert [r["threads"] for r in rows] == [1, 2] and all(
        r["ok"] and r["kind"] == "float" and r["speedup"]["onnxruntime"] > 0 for r in rows
    )
    assert "| test/net | float | 2 |" in (out / "zoo.md").read_text() and (out / "zoo.svg").read_text().startswith("<svg")


def test_some_models_are_not_written_over_the_results_of_all(small, monkeypatch):
    monkeypatch.setattr(report, "write", lambda *_: pytest.fail("written"))
    assert bench.main(["net", "--seconds", "0.01", "-q"]) == 0
    assert bench.main(["nothing", "-q"]) == 2


@pytest.mark.parametrize("wrong", ["0", "1,x", ""])
def test_threads_are_numbers(wrong, capsys):
    with pytest.raises(SystemExit) as left:
        bench.main(["--threads", wrong])
    assert left.value.code == 2 and "is not a positive number" in capsys.readouterr().err


def test_memory_is_measured_in_processes_of_their_own(small, tmp_path, capsys):
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("Linux tells the peak of resident memory")
    out = tmp_path / "results"
    status = memory.main(["net", "--output", str(out)])
    (row,) = json.loads((out / "memory.json").read_text())["rows"]
    ours, theirs = row["lepton"], row["onnxruntime"]
    assert ours["baseline_bytes"] > 1 << 20 and theirs["baseline_bytes"] > ours["baseline_bytes"]
    assert 0 <= ours["peak_bytes"] < theirs["peak_bytes"] and status == 0
    assert "| test/net |" in (out / "memory.md").read_text() and "test/net: lepton" in capsys.readouterr().err


def test_a_probe_that_fails_is_named(tmp_path):
    with pytest.raises(lc.LeptonError, match="lepton: the run failed"):
        memory.probe("lepton", tmp_path, tmp_path / "none.npz")
