"""Measuring: who takes turns with whom, and which way round a ratio is."""

from __future__ import annotations

import math
import time
from functools import partial
from itertools import count as count_from
from pathlib import Path

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler import measure, peers
from lepton_compiler.errors import UsageError
from lepton_compiler.ir.text import parse_graph
from lepton_compiler.measure import Timing, geometric_mean, interleaved, measure_model, native_call, speedup
from tests.peers.test_peers import Broken

TEXT = """graph @g(%x: float32[4,4]) {
  %y = MatMul()(%x, %x) : float32[4,4]
  return %y
}
"""


def test_contenders_take_turns_and_the_order_alternates(monkeypatch):
    monkeypatch.setattr(measure, "QUICK", 0.0)
    order: list[str] = []
    timings = interleaved({name: partial(order.append, name) for name in "ab"}, seconds=0)
    turns = "".join(order[2 * measure.WARM_UP :])
    assert turns == "abbaabbaab" and len(timings["a"].seconds) == measure.FEWEST


def test_quick_calls_are_repeated_in_their_turn(monkeypatch):
    monkeypatch.setattr(measure, "QUICK", math.inf)
    monkeypatch.setattr(measure, "TURN", 0.0)
    count = {"a": 0, "b": 0}

    def call(name):
        count[name] += 1

    interleaved({name: partial(call, name) for name in count}, seconds=0)
    assert count == dict.fromkeys("ab", measure.WARM_UP + measure.FEWEST * (1 + measure.REPEATS))


def test_very_short_calls_are_repeated_until_a_turn_is_long_enough(monkeypatch):
    clock = count_from(0)
    monkeypatch.setattr(measure, "TURN", 1.0)
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock) / 8)
    monkeypatch.setattr(measure, "QUICK", 0.2)
    calls: list[None] = []
    interleaved({"a": partial(calls.append, None)}, seconds=0)
    assert len(calls) == measure.WARM_UP + measure.FEWEST * (1 + 8)


@pytest.mark.parametrize(("threads", "names", "pauses"), [(1, "ab", 0), (2, "a", 0), (2, "ab", 2 * measure.FEWEST)])
def test_there_are_pauses_between_runtimes_with_several_threads(monkeypatch, threads, names, pauses):
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    interleaved({name: lambda: None for name in names}, 0, threads)
    assert slept == [measure.PAUSE] * pauses


def test_a_ratio_above_one_means_that_lepton_is_faster():
    timings = {"lepton": Timing((1.0, 2.0, 1.0)), "other": Timing((3.0, 4.0, 2.0))}
    assert speedup(timings, "lepton", "other") == 2.0 and speedup(timings, "other", "lepton") == 0.5
    assert geometric_mean([0.5, 2.0, 8.0]) == pytest.approx(2.0) and math.isnan(geometric_mean([]))


def test_a_bound_call_reads_and_writes_where_it_was_bound():
    model = lc.compile(parse_graph(TEXT), level=1)
    x, y = np.eye(4, dtype=np.float32), np.zeros((4, 4), np.float32)
    call = model.library.bound([x], [y])
    call()
    np.testing.assert_array_equal(y, np.eye(4))
    x *= 3
    call()
    np.testing.assert_array_equal(y, 9 * np.eye(4))
    native_call(model, {"x": x})()


def test_a_peer_that_fails_leaves_the_others_measured(tmp_path: Path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setitem(peers.registry._loaded, "broken", Broken)
    path = lc.emit(parse_graph(TEXT), tmp_path / "g.onnx")
    found = measure_model(path, {}, against=["onnxruntime", "broken"], seconds=0.01)["runs"]
    assert found["onnxruntime"]["speedup"] > 0 and found["onnxruntime"]["max_rel"] < 1e-5
    assert found["broken"] == {"error": "broken cannot run the model: RuntimeError: no such operator: MatMul"}
    assert set(found["lepton"]) == {"median_ms", "best_ms", "count"}


def test_others_take_onnx_files_only(tmp_path: Path):
    pytest.importorskip("onnxruntime")
    (tmp_path / "g.lir").write_text(TEXT)
    with pytest.raises(UsageError, match="ONNX files only"):
        measure_model(tmp_path / "g.lir", {}, against=["onnxruntime"], seconds=0.01)
