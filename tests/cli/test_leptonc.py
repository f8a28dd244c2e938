from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lepton_compiler as lc

KEYS = {"artifact", "target", "level", "kernels", "arena_bytes", "weights_bytes", "code_bytes", "compile_seconds"}


def test_writes_library_header_and_manifest(call, tiny, tmp_path):
    done = call("leptonc", tiny, "-o", tmp_path / "out", "-O3", "--verify", "--json")
    assert done.status == 0, done.err
    assert done.json.keys() >= KEYS
    assert done.json["verify"].keys() >= {"reference", "max_abs", "max_rel", "ok"}
    assert done.json["verify"]["ok"] and done.json["verify"]["reference"] == "evaluator"
    assert done.json["level"] == "O3" and done.json["target"] == "native"
    assert {p.name for p in (tmp_path / "out").iterdir()} >= {"libtiny.so", "tiny.h", "tiny.json"}
    manifest = json.loads((tmp_path / "out" / "tiny.json").read_text())
    assert manifest["name"] == "tiny" and len(manifest["model_sha256"]) == 64
    assert "compile_seconds" not in manifest and str(tmp_path) not in json.dumps(manifest)


def test_result_loads_and_runs(call, tiny, tmp_path):
    assert call("leptonc", tiny, "-o", tmp_path / "out", "-q").status == 0
    x = np.array([[1, 2, 3, 4]], np.float32)
    np.testing.assert_allclose(lc.load(tmp_path / "out").run({"x": x})["y"], lc.evaluate(lc.import_model(tiny), {"x": x})["y"], rtol=1e-5)


def test_onnx_source_is_verified_against_onnxruntime(call, tiny_onnx, tmp_path):
    pytest.importorskip("onnxruntime")
    done = call("leptonc", tiny_onnx, "--dim", "batch=2", "-o", tmp_path / "out", "--verify", "--json")
    assert done.status == 0, done.err
    assert done.json["verify"]["reference"] == "onnxruntime"


@pytest.mark.parametrize("kind", ["onnx", "ir"])
def test_exchange_formats_are_one_file(call, unbound, tmp_path, kind):
    out = tmp_path / {"onnx": "new.onnx", "ir": "new.lir"}[kind]
    done = call("leptonc", unbound, "--dim", "batch=3", "--emit", kind, "-o", out, "--verify", "--json")
    assert done.status == 0, done.err
    assert done.json["artifact"] == str(out) and out.is_file() and done.json["verify"]["ok"]
    assert lc.import_model(out).inputs[0].type.shape == (3, 4)


def test_default_output_is_named_after_the_model(call, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("leptonc", tiny, "--emit", "onnx").status == 0
    assert (tmp_path / "tiny.lepton.onnx").is_file()


def test_unbound_dimension_names_the_option(call, unbound, tmp_path):
    done = call("leptonc", unbound, "-o", tmp_path / "out")
    assert done.status == 1
    assert "dimension 'batch'" in done.err and "--dim batch=N" in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "option",
    [("--prune", "50%"), ("--recover", "layers")],
)
def test_planned_options_are_refused_in_one_line(call, tiny, tmp_path, option):
    done = call("leptonc", tiny, "-o", tmp_path / "out", *option)
    assert done.status == 1
    assert f"'{option[0][2:]}' is not there yet" in done.err
    assert not (tmp_path / "out").exists()


def test_tflite_output_is_refused(call, tiny, tmp_path):
    done = call("leptonc", tiny, "--emit", "tflite", "-o", tmp_path / "out.tflite")
    assert done.status == 1 and "not there yet" in done.err
    assert not (tmp_path / "out.tflite").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--target", "x86-64"], "did you mean 'x86_64'"),
        (["--cpu", "pentium"], "unknown processor"),
        (["--name", "a-b"], "not a C identifier"),
        (["--passes", "fold-constant"], "did you mean 'fold-constants'"),
        (["--passes", "dce{"], "unbalanced braces"),
        (["--input", "x=1y4"], "is not NAME=1x3x224x224"),
        (["--input", "z=1x4"], "no input 'z'"),
        (["--input", "x=1x5"], "does not fit"),
        (["--dim", "rows=3"], "no dimension 'rows'"),
        (["--load-pass", "missing.py"], "is not a Python file"),
        (["--feed", "x=missing.npy", "--verify"], "cannot read feeds"),
        (["--unknown"], "unrecognized arguments"),
        (["-O9"], "invalid choice"),
        (["--threads", "0"], "not a positive number"),
        (["--verbose", "--quiet"], "not allowed with"),
    ],
)
def test_wrong_usage_is_status_2(call, tiny, tmp_path, args, message):
    done = call("leptonc", tiny, "-o", tmp_path / "out", *args)
    assert done.status == 2, done.err
    assert (message in done.err and done.err.startswith("leptonc: error: ")) or args == ["--verbose", "--quiet"]
    assert "Traceback" not in done.err or args == ["--verbose", "--quiet"]
    assert not (tmp_path / "out").exists()


def test_verification_failure_is_status_3_and_writes_nothing(call, tiny, tmp_path, monkeypatch):
    from lepton_compiler import verification

    def wrong(source, graph, feeds, bound=None):
        return "liar", {"y": np.full((1, 3), 7, np.float32)}

    monkeypatch.setattr(verification, "reference_outputs", wrong)
    done = call("leptonc", tiny, "-o", tmp_path / "out", "--verify", "--json")
    assert done.status == 3
    assert done.json["verify"] == {
        "reference": "liar",
        "max_abs": pytest.approx(7, abs=1),
        "max_rel": pytest.approx(1, abs=0.2),
        "ok": False,
        "worst": "y",
        "tolerance": 1e-3,
    }
    assert "output 'y': differs from liar" in done.err
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_json_errors_are_one_object_too(call, tmp_path):
    done = call("leptonc", tmp_path / "none.onnx", "--json")
    assert done.status == 1
    assert done.json["exit_status"] == 1 and "no such file" in done.json["errors"][0]["message"]


def test_existing_output_is_replaced_and_other_files_stay(call, tiny, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    (out / "tiny.h").write_text("old")
    assert call("leptonc", tiny, "-o", out).status == 0
    assert (out / "mine.txt").read_text() == "keep" and "TINY_ARENA_BYTES" in (out / "tiny.h").read_text()


def test_failure_leaves_an_existing_output_alone(call, unbound, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "unbound.h").write_text("old")
    assert call("leptonc", unbound, "-o", out).status == 1
    assert [p.name for p in out.iterdir()] == ["unbound.h"] and (out / "unbound.h").read_text() == "old"


def test_output_that_cannot_be_written(call, tiny, tmp_path):
    (tmp_path / "file").write_text("")
    done = call("leptonc", tiny, "-o", tmp_path / "file", "--emit", "lib")
    assert done.status == 2 and "is a file" in done.err
    (tmp_path / "folder").mkdir()
    done = call("leptonc", tiny, "-o", tmp_path / "folder", "--emit", "onnx")
    assert done.status == 2 and "is a folder" in done.err


def test_depfile_names_every_source(call, tiny, tmp_path):
    done = call("leptonc", tiny, "--emit", "ir", "-o", tmp_path / "a b.lir", "-MD")
    assert done.status == 0, done.err
    text = (tmp_path / "a b.lir.d").read_text()
    assert text.startswith(f"{tmp_path}/a\\ b.lir: {tiny} ") and f"\n{tiny}:\n" in text
    assert call("leptonc", tiny, "--emit", "ir", "-o", tmp_path / "c.lir", "-MF", tmp_path / "c.dep").status == 0
    package = Path(lc.__file__).parent  # a new compiler compiles again
    rule = (tmp_path / "c.dep").read_text().split("\n")[0].split(" ")
    modules = (package / "driver.py", package / "passes" / "levels.py", package / "backends" / "tvm" / "codegen.py")
    assert {str(tiny), *map(str, modules)} <= set(rule)


def test_pass_tools(call, tiny, tmp_path):
    args = ("--emit", "ir", "--passes", "dce,cse", "--print-ir-after", "all", "--time-passes")
    done = call("leptonc", tiny, "-o", tmp_path / "out.lir", *args, "--dump-dir", tmp_path / "dump")
    assert done.status == 0, done.err
    assert "IR after dce" in done.err and "total" in done.err
    dumps = sorted((tmp_path / "dump").glob("*.lir"))
    assert dumps and all(len(lc.import_model(p)) for p in dumps)


def test_loaded_pass_changes_the_result(call, tiny, tmp_path):
    example = Path(__file__).parents[2] / "examples" / "passes" / "drop_relu_before_relu.py"
    args = ("--load-pass", example, "--passes", "drop-relu-before-relu{limit=5}", "--dump-dir", tmp_path / "dump")
    done = call("leptonc", tiny, "--emit", "ir", "-o", tmp_path / "out.lir", *args, "--verify", "--json")
    assert done.status == 0, done.err
    assert [n.op.name for n in lc.import_model(tmp_path / "out.lir")] == ["MatMul", "Relu", "Softmax"]
    assert [len(lc.import_model(p)) for p in sorted((tmp_path / "dump").glob("*.lir"))] == [4, 3]


def test_verbose_shows_stages_and_tracebacks(call, tiny, tmp_path):
    done = call("leptonc", tiny, "--emit", "ir", "-o", tmp_path / "o.lir", "-v")
    assert "leptonc: import: " in done.err
    assert "Traceback" in call("leptonc", tmp_path / "none.onnx", "-v").err
    assert "Traceback" not in call("leptonc", tmp_path / "none.onnx").err


def test_module_runs_in_a_fresh_process(tiny, tmp_path):
    command = [sys.executable, "-m", "lepton_compiler.cli.leptonc", str(tiny), "--emit", "onnx", "-o", str(tmp_path / "o.onnx"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["artifact"] == str(tmp_path / "o.onnx")


def test_version(call):
    done = call("leptonc", "--version")
    assert done.status == 0 and done.out == f"leptonc {lc.__version__}\n"


def test_a_size_that_data_decides_is_bounded_from_the_command_line(call, tmp_path):
    model = tmp_path / "counting.lir"
    model.write_text(
        'graph @counting(%n: int64[]) {\n  %r = Dynamic(template=Range(), params=("limit",))(%n) : int64[r?0]\n  return %r\n}\n'
    )
    refused = call("leptonc", model, "-o", tmp_path / "out")
    assert refused.status == 1 and "--bound r=N" in refused.err
    assert call("leptonc", model, "-o", tmp_path / "out", "--bound", "q=3", "--bound", "r=3").status == 2
    done = call("leptonc", model, "-o", tmp_path / "out", "--bound", "r=3", "--json")
    assert done.status == 0 and done.json["arena_bytes"] >= done.json["arena_lower_bound"]
    manifest = json.loads((tmp_path / "out" / "counting.json").read_text())
    assert manifest["bounds"] == {"r": 3} and manifest["outputs"][0]["shape"] == [3]
    assert "COUNTING_ERROR_BOUND = 5" in (tmp_path / "out" / "counting.h").read_text()
    np.testing.assert_array_equal(lc.load(tmp_path / "out").run({"n": np.array(2, np.int64)})["r"], [0, 1])


def test_firmware_is_verified_and_keeps_budgets(call, tiny, tmp_path):
    pytest.importorskip("unicorn")
    pytest.importorskip("ziglang")
    done = call("leptonc", tiny, "--target", "cortex-m4", "--verify", "--json", "-o", tmp_path / "out")
    assert done.status == 0, done.err
    facts = json.loads(done.out)
    assert facts["verify"]["ok"] and facts["verify"]["reference"] == "evaluator"
    assert facts["flash_bytes"] > facts["code_bytes"] > 0 and facts["stack_bytes"] > 0
    counted = call("lepton", "bench", tiny, "--target", "cortex-m4", "--json")
    assert counted.status == 0, counted.err
    found = json.loads(counted.out)
    assert found["instructions"] >= sum(row["instructions"] for row in found["kernels"]) > 0
    ran = call("lepton", "run", tmp_path / "out")
    assert ran.status == 0 and "emulated:" in ran.out
    refused = call("leptonc", tiny, "--target", "cortex-m4", "--ram", "16", "-o", tmp_path / "small")
    assert refused.status == 1 and "bytes of RAM" in refused.err and not (tmp_path / "small").exists()
    wrong = call("leptonc", tiny, "--ram", "64Q")
    assert wrong.status == 2 and "'64Q' is not a size" in wrong.err
