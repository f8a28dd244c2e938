"""ONNX's own operator cases against the recorded outcomes: a gain or a loss fails, and says how to record it."""

from __future__ import annotations

import numpy as np
import pytest

from lepton_compiler.testing import conformance, operators_page

NATIVE_PARTS = 8
"""Parts that test processes share."""


def test_scope_is_all_numeric_inference_cases() -> None:
    names = conformance.cases()
    assert len(names) > 1700
    assert "test_conv_with_strides_padding" in names
    assert not any("sequence" in n and n.startswith(("test_sequence", "test_split_to_sequence")) for n in names)
    assert not any(n.startswith(("test_adam", "test_bernoulli", "test_string", "test_training_dropout")) for n in names)


@pytest.mark.parametrize("kind", ["evaluator", "onnx"])
def test_outcomes_are_as_recorded(kind: str) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    outcomes = conformance.run_all(kind)
    changes = list(conformance.differences(kind, outcomes))
    hint = f"record with: python -m lepton_compiler.testing.conformance --kind {kind} --update"
    assert not changes, "\n".join([*changes, hint])
    assert set(conformance.read_record(kind)) == set(conformance.cases())


@pytest.mark.parametrize("part", range(NATIVE_PARTS))
def test_native_outcomes_are_as_recorded(part: int) -> None:
    outcomes = conformance.run_all("native", part=(part, NATIVE_PARTS))
    changes = list(conformance.differences("native", outcomes))
    assert not changes, "\n".join([*changes, "record with: python -m lepton_compiler.testing.conformance --kind native --update"])


def test_comparison_is_exact_for_integers_and_tolerant_for_floats() -> None:
    conformance.compare("y", np.array([1.0, np.nan]), np.array([1.0005, np.nan]), 1e-3, 1e-7)
    with pytest.raises(conformance.Mismatch) as wrong:
        conformance.compare("y", np.array([1, 2]), np.array([1, 3]), 1e-3, 1e-7)
    assert wrong.value.reason == "values"
    with pytest.raises(conformance.Mismatch) as shape:
        conformance.compare("y", np.zeros(2), np.zeros((2, 1)), 1e-3, 1e-7)
    assert shape.value.reason == "shape"
    with pytest.raises(conformance.Mismatch) as kind:
        conformance.compare("y", np.zeros(2, np.int32), np.zeros(2, np.int64), 1e-3, 1e-7)
    assert kind.value.reason == "type"


def test_gains_and_losses_are_told_apart() -> None:
    gone, new = conformance.Outcome("test_abs", False, "values", "by 3"), conformance.Outcome("test_no_such_case", True)
    loss, gain = conformance.differences("evaluator", [gone, new])
    assert loss.startswith("loss: test_abs was pass, now fail values by 3")
    assert gain.startswith("gain: test_no_such_case was not recorded, now pass")


def test_what_the_evaluator_checked_instead_is_recorded_and_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    case = conformance.cases()["test_max_int16"]
    outcome = conformance.run_case(case, conformance.KINDS["onnx"])
    assert outcome.record == "test_max_int16\tpass\tevaluator"
    monkeypatch.setattr(conformance, "read_record", lambda kind: {"test_max_int16": "test_max_int16\tpass"})
    assert list(conformance.differences("onnx", [outcome])) == ["loss: test_max_int16 was pass, now pass evaluator"]
    monkeypatch.setattr(conformance, "read_record", lambda kind: {"test_max_int16": "test_max_int16\tfail\tvalues"})
    assert list(conformance.differences("onnx", [outcome])) == ["gain: test_max_int16 was fail, now pass evaluator"]


def test_the_page_about_operators_says_what_the_records_say() -> None:
    text = operators_page.PAGE.read_text(encoding="utf-8")
    hint = "rewrite it with: python -m lepton_compiler.testing.conformance --report"
    assert operators_page.render(text) == text, hint
    for kind in operators_page.KINDS:
        failing = [line.split("\t")[0] for line in conformance.read_record(kind).values() if line.split("\t")[1] == "fail"]
        assert all(f"`{name.removeprefix('test_')}`" in text for name in failing)


def test_reasons_are_sentences() -> None:
    assert operators_page.reason("native", "test_x", ["fail", "UnsupportedError", "Det: there is no kernel"]) == "Det: there is no kernel."
    assert operators_page.reason("native", "test_x", ["fail", "crash KeyError"]) == "An error that is not diagnosed (crash KeyError)."
    assert operators_page.reason("onnx", "test_dft_inverse", ["fail", "values"]).startswith("The case expects the rounding noise")


def test_what_a_diagnosis_says_is_recorded() -> None:
    case = conformance.cases()["test_image_decoder_decode_png_rgb"]
    outcome = conformance.run_case(case, conformance.KINDS["evaluator"])
    assert outcome.record.split("\t")[1:3] == ["fail", "UnsupportedError"]
    assert outcome.record.endswith(
        "\toperator ImageDecoder (opset 20) is not supported: it decodes files (JPEG, PNG, ...), which is no tensor arithmetic"
    )


def test_command_line_prints_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert conformance.main(["--kind", "evaluator", "--filter", "test_abs"]) == 0
    assert "passed, 0 failed" in capsys.readouterr().out
