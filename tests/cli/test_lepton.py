from __future__ import annotations

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.cli.lepton import COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(call, command):
    done = call("lepton", command, "--help")
    assert done.status == 0
    assert "example" in done.out and f"lepton {command}" in done.out and "--json" in done.out


def test_run_evaluates_and_saves(call, tiny, tmp_path):
    np.save(tmp_path / "x.npy", np.array([[1, 2, 3, 4]], np.float32))
    done = call("lepton", "run", tiny, "--evaluate", "--feed", f"x={tmp_path}/x.npy", "--save", tmp_path / "y.npz", "--json")
    assert done.status == 0, done.err
    assert done.json["outputs"]["y"]["shape"] == [1, 3]
    expected = lc.evaluate(lc.import_model(tiny), {"x": np.array([[1, 2, 3, 4]], np.float32)})
    np.testing.assert_array_equal(np.load(tmp_path / "y.npz")["y"], expected["y"])


def test_run_takes_sizes_from_feeds(call, unbound, tmp_path):
    np.savez(tmp_path / "in.npz", x=np.ones((5, 4), np.float32))
    assert call("lepton", "run", unbound, "--evaluate", "--feed", tmp_path / "in.npz", "--json").json["outputs"]["y"]["shape"] == [5, 3]
    done = call("lepton", "run", unbound, "--evaluate")
    assert done.status == 1 and "bind them" in done.err


def test_run_compiled_folder(call, tiny, tmp_path):
    assert call("leptonc", tiny, "-o", tmp_path / "out").status == 0
    compiled = call("lepton", "run", tmp_path / "out", "--json").json["outputs"]["y"]
    evaluated = call("lepton", "run", tiny, "--evaluate", "--json").json["outputs"]["y"]
    assert compiled["max"] == pytest.approx(evaluated["max"], rel=1e-4)


def test_bench_measures_both_sides(call, tiny_onnx):
    pytest.importorskip("onnxruntime")
    done = call("lepton", "bench", tiny_onnx, "--dim", "batch=1", "--against", "onnxruntime", "--seconds", "0.05", "--json")
    assert done.status == 0, done.err
    runs = done.json["runs"]
    assert runs["lepton"]["median_ms"] > 0 and runs["onnxruntime"]["speedup"] > 0 and runs["onnxruntime"]["max_rel"] < 1e-3


def test_opt_prints_text_that_parses(call, tiny, tmp_path):
    from lepton_compiler.ir.text import read_lir

    done = call("lepton", "opt", tiny, "--passes", "dce")
    assert done.status == 0, done.err
    (tmp_path / "again.lir").write_text(done.out)
    assert [n.op.name for n in read_lir(tmp_path / "again.lir")] == ["MatMul", "Relu", "Relu", "Softmax"]


def test_opt_writes_only_lir(call, tiny, tmp_path):
    assert call("lepton", "opt", tiny, "-o", tmp_path / "x.onnx").status == 2
    done = call("lepton", "opt", tiny, "-o", tmp_path / "x.lir", "--json")
    assert done.json["nodes_before"] == 4 and done.json["ir"] is None and (tmp_path / "x.lir").is_file()


def test_inspect_counts(call, tiny, unbound):
    facts = call("lepton", "inspect", tiny, "--json").json
    assert facts["imported"]["operators"]["Relu"] == 2
    assert facts["imported"]["macs"] == 12 and facts["imported"]["parameters"] == 12
    assert call("lepton", "inspect", unbound, "--json").json["imported"]["macs"] is None
    assert "nodes" in call("lepton", "inspect", tiny).out


def test_diff_of_equal_and_different_models(call, tiny, tmp_path):
    other = tmp_path / "other.lir"
    other.write_text(tiny.read_text().replace("Relu()(%a)", "Neg()(%a)"))
    assert call("lepton", "diff", tiny, tiny, "--json").json["max_abs"] == 0
    done = call("lepton", "diff", tiny, other, "--json")
    assert done.status == 3 and not done.json["ok"]


def test_reduce_says_that_it_is_missing(call, tiny):
    done = call("lepton", "reduce", tiny)
    assert done.status == 1 and "not there yet" in done.err


def test_targets_and_passes_list_what_there_is(call):
    targets = call("lepton", "targets", "--json").json
    assert (
        "native" in targets["targets"]
        and "cortex-m4" in targets["targets"]
        and "cuda" in targets["targets"]
        and "sm_90" in targets["gpus"]
        and "x86-64-v3" in targets["cpus"]
    )
    passes = call("lepton", "passes", "--json").json["passes"]
    assert passes["dce"]["summary"] and "cse" in passes
    assert "dce" in call("lepton", "passes", "-O2").out


def test_zoo_lists_and_refuses_unknown_names(call):
    models = call("lepton", "zoo", "list", "--json").json["models"]
    assert len(models) > 40 and {"id", "package", "version", "sha256", "licence"} <= models[0].keys()
    done = call("lepton", "zoo", "fetch", "no such model")
    assert done.status == 2 and "lepton zoo list" in done.err


def test_no_command_is_wrong_usage(call):
    assert call("lepton").status == 2
    assert call("lepton", "frobnicate").status == 2
