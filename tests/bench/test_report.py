"""What is made of the committed numbers, and that it is up to date."""

from __future__ import annotations

import copy
import json
from typing import Any
from xml.etree import ElementTree

import pytest

from bench import chart, report
from lepton_compiler.errors import LeptonError


def row(model, threads, kind="float", ok=True, **ratios):
    ms = {"lepton": 2.0} | {name: 2.0 * ratio for name, ratio in ratios.items()}
    return {
        "model": model,
        "threads": threads,
        "kind": kind,
        "max_rel": 1e-6,
        "ok": ok,
        "ms": ms,
        "speedup": ratios,
        "failures": {},
        "error": "",
    }


RESULTS: dict[str, Any] = {
    "machine": {"cpu": "A <fast> one", "target": "x86-64-v3", "peers": {"onnxruntime": "1.32.0", "openvino": "2026.4.1"}},
    "level": "O3",
    "against": ["onnxruntime", "openvino"],
    "rows": [
        row("a/one", 1, onnxruntime=2.0, openvino=0.5),
        row("a/two", 1, onnxruntime=0.5),
        row("a/three", 1, kind="int8", ok=False, onnxruntime=4.0, openvino=4.0),
        {**row("a/four", 1), "error": "no kernel"},
    ],
}


def test_readme_and_files_are_what_the_results_say():
    assert report.stale(report.RESULTS, report.README) == []


def test_results_of_another_run_would_be_noticed(tmp_path):
    for name in ("zoo.md", "zoo.svg", "memory.md", "memory.json"):
        if (report.RESULTS / name).is_file():
            (tmp_path / name).write_bytes((report.RESULTS / name).read_bytes())
    numbers = report.read(report.RESULTS / "zoo.json")
    numbers["rows"][0]["speedup"]["onnxruntime"] *= 3
    (tmp_path / "zoo.json").write_text(json.dumps(numbers))
    assert report.stale(tmp_path, report.README) == ["zoo.md", "zoo.svg", "README.md"]


def test_the_summary_has_a_row_per_kind_and_number_of_threads():
    lines = report.summary(RESULTS).splitlines()
    assert lines[2:6] == [
        "| models | threads | ONNX Runtime | OpenVINO |",
        "|---|---|---|---|",
        "| 2 float | 1 | **1.00** (0.50 to 2.00) | **0.50** (0.50 to 0.50, runs 1) |",
        "| 1 int8 | 1 | **4.00** (4.00 to 4.00) | **4.00** (4.00 to 4.00) |",
    ]
    assert (
        report.means(RESULTS).splitlines()[1] == "1 int8, threads 1: ONNX Runtime **4.00** (4.00 to 4.00); OpenVINO **4.00** (4.00 to 4.00)"
    )


def test_the_table_tells_failures_and_wrong_results():
    text = report.table(RESULTS)
    assert "| a/two | float | 1 | 1.0e-06 | 2.000 | 1.000 | 0.50 | fails |  |" in text
    assert "| a/three | int8 | 1 | 1.0e-06 (!) |" in text and "a/four, threads 1: no kernel" in text


def test_memory_is_told_where_it_was_measured():
    part = {"peak_bytes": 1 << 20, "after_bytes": 1 << 19, "baseline_bytes": 0}
    twice = {**part, "peak_bytes": 2 << 20}
    rows = [
        {"model": "a/one", "weights_bytes": 0, "arena_bytes": 0, "arena_lower_bound": 0, "lepton": part, "onnxruntime": twice},
        {"model": "a/two", "weights_bytes": 0, "arena_bytes": 0, "arena_lower_bound": 0, "lepton": twice, "onnxruntime": part},
    ]
    memory = {"rows": rows, "runs": 5}
    assert "at most ONNX Runtime's on 1 of 2 models" in report.summary(RESULTS, memory)
    assert "| a/two | 0.00 | 0.00 | 0.00 | 2.00 | 0.50 | 1.00 | 0.50 | 0.50 |" in report.memory_table(memory)


def test_a_page_without_markers_is_refused():
    with pytest.raises(LeptonError, match="no place for the results"):
        report.with_summary("# README\n", "text\n")
    assert report.with_summary(f"a\n{report.BEGIN}\nold\n{report.END}\nb\n", "new\n") == f"a\n{report.BEGIN}\nnew\n{report.END}\nb\n"


def test_the_chart_has_a_bar_for_each_ratio():
    results = copy.deepcopy(RESULTS)
    results["rows"].append(row("a/one", 2, onnxruntime=1.0))
    tree = ElementTree.fromstring(chart.svg(results))
    texts = [node.text for node in tree.iter() if node.tag.endswith("text")]
    assert {"a/one", "a/two", "a/three", "2 threads"} <= set(texts) and "a/four" not in texts
    assert [t for t in texts if t in ("2.00", "0.50", "4.00", "1.00")] == ["2.00", "1.00", "0.50", "4.00"]
    bars = [node for node in tree.iter() if node.tag.endswith("rect") and node.get("height") == str(chart.BAR - 1)]
    assert len(bars) == 4 and all(float(bar.get("width") or 0) > 0 for bar in bars)
