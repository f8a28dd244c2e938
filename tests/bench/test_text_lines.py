"""Drawn lines of text, reading them, and the metric that tells how much of a reading another model believes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import lepton_compiler as lc
from bench import quantization_models, text_lines
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.types import tensor_type
from lepton_compiler.ops.builder import Builder


def probabilities(*columns):
    return np.array([columns], np.float32)


def test_lines_are_drawn_the_same_every_time():
    pytest.importorskip("PIL")
    assert len(text_lines.LINES) == 72 and len(set(text_lines.LINES)) == 72 and max(map(len, text_lines.LINES)) <= 22
    first, again = (text_lines.draw("static library", 3)["x"] for _ in range(2))
    assert first.shape == (1, 3, 48, 320) and first.dtype == np.float32 and np.abs(first).max() <= 1
    assert np.array_equal(first, again) and not np.array_equal(first, text_lines.draw("static library", 4)["x"])
    images = [feeds["x"].tobytes() for feeds in text_lines.calibration()]
    assert len(images) == 32 and not set(images) & {feeds["x"].tobytes() for feeds in text_lines.former()}


def test_repetitions_nothings_and_outer_blanks_are_not_read():
    nothing, a, b, blank = np.eye(4, dtype=np.float32)
    assert text_lines.read_line(probabilities(blank, a, a, nothing, a, blank, b, blank, blank)) == [1, 1, 3, 2]
    assert text_lines.read_line(probabilities(nothing, blank)) == []
    same, other = ({"p": probabilities(*columns)} for columns in ((a, nothing, b), (a, a, a)))
    assert text_lines.same_text([same, same], [{"p": probabilities(a, a, b)}, other]) == 0.5


def test_belief_is_the_probability_of_the_reading_relative_to_the_float_models():
    wanted = probabilities([0.1, 0.8, 0.1], [0.6, 0.2, 0.2])
    assert text_lines.belief_in(wanted, wanted) == 1
    assert text_lines.belief_in(wanted, probabilities([0.3, 0.4, 0.3], [0.3, 0.4, 0.3])) == pytest.approx(0.25)
    assert text_lines.belief_in(wanted, probabilities([0.0, 1.0, 0.0], [0.9, 0.1, 0.0])) == 1  # surer of it than the float model
    assert 0 < text_lines.belief_in(wanted, probabilities([1.0, 0.0, 0.0], [0.6, 0.2, 0.2])) < 1e-8


def test_belief_is_a_mean_over_the_calibration_lines(monkeypatch):
    lines = [{"x": np.full((1, 1), k, np.float32)} for k in range(2)]
    monkeypatch.setattr(text_lines, "calibration", lambda: lines)
    monkeypatch.setattr(text_lines, "_readings", lambda: [probabilities([0.2, 0.8])] * 2)
    assert text_lines.belief(lambda feeds: {"p": probabilities([0.6, 0.4] if feeds["x"][0, 0] else [0.2, 0.8])}) == pytest.approx(0.75)


def test_share_of_multiplications_in_floating_point():
    graph = Graph("net")
    b = Builder(graph)
    x = graph.add_input("x", tensor_type("float32[4,8]"))
    small = b.MatMul(x, b.constant(np.ones((8, 2), np.float32)))
    large = b.MatMul(b.Relu(small), b.constant(np.ones((2, 24), np.float32)))
    graph.set_outputs([large])
    share = quantization_models.share_of_multiplications
    assert share(graph, [small.name]) == pytest.approx(64 / (64 + 192)) and share(graph, []) == 0
    assert share(graph, [small.name, large.name]) == 1


def test_our_int8_is_measured_with_and_without_the_bound(monkeypatch, tmp_path):
    rng = np.random.default_rng(0)
    graph = Graph("net")
    b = Builder(graph)
    x = graph.add_input("x", tensor_type("float32[1,16]"))
    first = b.MatMul(x, b.constant(rng.normal(size=(16, 16)).astype(np.float32)))
    graph.set_outputs([b.MatMul(b.Relu(first), b.constant(rng.normal(size=(16, 4)).astype(np.float32)))])
    samples = [{"x": (rng.normal(size=(1, 16)) * np.array([300.0] + 15 * [1.0])).astype(np.float32)} for _ in range(8)]
    monkeypatch.setattr(lc, "import_model", lambda path, inputs: graph)

    def error(run):
        return float(np.mean([np.abs(_only(run(feeds)) - _only(lc.evaluate(graph, feeds))).mean() for feeds in samples]))

    split = quantization_models.Task("net", lambda: tmp_path, {}, lambda path: (samples, samples), quantization_models.same_class, "class")
    (plain,) = quantization_models._ours(split, tmp_path, samples).values()
    worst = error(plain)
    bounded = dataclasses.replace(split, bound=(worst / 2, lambda run: 1 - error(run)))
    runs = quantization_models._ours(bounded, tmp_path, samples)
    (name,) = runs.keys() - {"lepton"}
    assert error(runs["lepton"]) == worst > 0 and error(runs[name]) <= worst / 2
    assert name.startswith("lepton, loss within ") and name.endswith(": 80.0 % in floating point")  # 256 of 320 multiplications


def test_rows_on_further_samples_say_so():
    task = quantization_models.TASKS[0]
    samples = [{"x": scores} for scores in np.eye(2)[:, None]]
    (row,) = quantization_models._more_rows(task, "others", lambda: samples, lambda feeds: feeds, {"theirs": lambda feeds: samples[0]})
    assert (row.model, row.by, row.what, row.agreement) == (task.model, "theirs", f"{task.what}, others", 0.5)


def _only(outputs):
    return next(iter(outputs.values()))
