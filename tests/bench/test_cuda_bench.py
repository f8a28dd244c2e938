"""`python -m bench.cuda` on a stand-in for a GPU: cases are compiled, carried as files, measured by the stages, and a later run goes on."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import lepton_compiler as lc
from bench import cuda
from bench.gpu import archive, build, cases, contenders, report, stages
from bench.gpu.candidates import Collection
from bench.gpu.report import Row
from bench.gpu.worker import Worker
from bench.patterns import patterned, patterned_input
from lepton_compiler.backends.tvm.cuda import compilers
from lepton_compiler.backends.tvm.cuda.compilers import Image
from lepton_compiler.backends.tvm.cuda.package import build as package
from lepton_compiler.backends.tvm.cuda.tuning import candidates as tuning_candidates
from lepton_compiler.backends.tvm.tuning.process import MeasureError
from lepton_compiler.cuda_driver import DeviceSession
from lepton_compiler.errors import LeptonError
from lepton_compiler.ir.text import parse_graph
from lepton_compiler.testing.cuda_driver import FakeGpu
from lepton_compiler.testing.cuda_emulator import available

ROOT = Path(__file__).parents[2]
NET = "graph @n(%x: float32[16,32]) {\n  %s = Softmax(axis=1)(%x) : float32[16,32]\n  %y = Transpose(perm=(1,0))(%s) : float32[32,16]\n  return %y\n}\n"
MODEL = "graph @n(%x: float32[2,8]) {\n  %y = Softmax(axis=1)(%x) : float32[2,8]\n  return %y\n}\n"


class Here:
    """In place of a process of its own: the same requests, answered in this one."""

    failing: Sequence[str] = ()
    failing_beside: bool = False

    def __init__(self, module: str) -> None:
        self.worker = Worker()

    def ask(self, limit: float, request: str, *arguments: Any) -> Any:
        """See `MeasuringProcess.ask`."""
        if request in self.failing:
            raise MeasureError("the measuring process died")
        if request == "speed" and self.failing_beside and len(arguments) < 4:
            raise MeasureError("an illegal memory access")
        try:
            return getattr(self.worker, request)(*arguments)
        except LeptonError as error:
            raise MeasureError(list(error.diagnostics)) from error

    def stop(self) -> None:
        """Nothing to end."""


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    """A stand-in that knows the kernels of whatever is compiled."""
    if reason := available():
        pytest.skip(reason)
    gpu = FakeGpu()

    def images(text: str, gpus: Any, cache: Any, jobs: int) -> tuple[list[Image], str]:
        gpu.know_text(text)
        return [Image(g, False, b"code") for g in gpus], "none"

    monkeypatch.setattr(package, "compile_images", images)
    monkeypatch.setattr(compilers, "compile_cubin", lambda text, gpu, cache: images(text, [gpu], cache, 1)[0][0].code)
    monkeypatch.setattr(stages, "MeasuringProcess", Here)
    monkeypatch.setattr(Here, "failing", ())
    monkeypatch.setattr(Here, "failing_beside", False)
    gpu.configure(capability=(9, 0))
    gpu.forget()
    gpu.emulate("everything")
    return gpu


@pytest.fixture
def folder(gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two cases, a model and a layer."""
    pytest.importorskip("torch")
    pytest.importorskip("onnx")
    monkeypatch.setattr(cases, "PRODUCTS", ((8, 16, 12),))
    monkeypatch.setattr(contenders, "RUNS", {"layer": 2})
    monkeypatch.setattr(contenders, "PER_ROUND", 1e-6)
    source = lc.emit(lc.import_model(_lir(tmp_path)), tmp_path / "small.onnx")

    def model(case: cases.Case, options: build.Options, stamp: str) -> archive.Archive:
        feeds = {"x": np.linspace(-1, 1, 16, dtype=np.float32).reshape(2, 8)}
        graph = lc.import_model(source)
        made = lc.compile(graph, target=options.target, name="bench_model", precision=case.precision)
        return build._archive(case, stamp, 1e-3, "evaluator", made, feeds, lc.evaluate(graph, feeds))

    monkeypatch.setattr(build, "_model", model)
    place = tmp_path / "cases"
    assert cuda.main(["--compile", str(place), "gemm 8x", "pulsevad_2_1k fp32", "--precision", "fp32", "-q"]) == 0
    return place


def _lir(folder: Path) -> Path:
    path = folder / "small.lir"
    path.write_text(MODEL)
    return path


def test_cases_are_compiled_once_and_measured_until_nothing_is_left(folder, gpu, capsys, monkeypatch):
    made = sorted(path.name for path in archive.archives(folder))
    assert made == ["layer_gemm_8x16x12_fp32.tar.xz", "model_pulsevad_pulsevad_2_1k_fp32.tar.xz"]
    stamps = [path.stat().st_mtime_ns for path in archive.archives(folder)]
    again = ["--compile", str(folder), "gemm 8x", "pulsevad_2_1k fp32", "--precision", "fp32"]
    assert cuda.main(again) == 0 and "there already" in capsys.readouterr().err
    assert [path.stat().st_mtime_ns for path in archive.archives(folder)] == stamps

    monkeypatch.setattr(contenders, "find_torch", lambda: (None, "PyTorch is not installed"))
    assert cuda.main(["--run", str(folder), "--seconds", "0"]) == 1
    assert "no time for 2: agree pulsevad/pulsevad_2_1k fp32, speed gemm 8x16x12 fp32" in capsys.readouterr().out
    assert cuda.main(["--run", str(folder), "--rounds", "3", "--stage", "agree", "--stage", "speed"]) == 0
    text = capsys.readouterr().out
    assert "agree    pulsevad/pulsevad_2_1k" in text and "(evaluator)" in text
    assert "lepton 0.0" in text and "no eager: PyTorch is not installed" in text
    assert "1 of 1 models agree with the reference" in text
    assert "PyTorch with cuDNN and cuBLAS is missing: PyTorch is not installed" in text
    facts = json.loads((folder / "cuda.json").read_text())
    assert facts["device"] == "Emulated GPU, sm_90" and [row["ok"] for row in facts["rows"]] == [True, True]
    assert not gpu.faults and "| gemm 8x16x12 | fp32 |" in (folder / "cuda.md").read_text()
    launched = len(gpu.launched)
    assert cuda.main(["--run", str(folder), "--json"]) == 0
    assert len(gpu.launched) == launched and len(json.loads(capsys.readouterr().out)["rows"]) == 2


def test_kernels_of_nets_are_measured_with_and_without_overlapping(gpu):
    model = lc.compile(parse_graph(NET), target="cuda:sm_90")
    assert model.artifact is not None
    held: Any = SimpleNamespace(library=next(d for n, d in model.artifact.files.items() if n.endswith(".so")), manifest=model.manifest)
    session = DeviceSession()
    for overlapping in (True, False):
        gpu.forget()
        lepton = contenders.Lepton(session, held, overlapping)
        lepton.contender(2)
        launches = model.manifest["launches"]
        assert launches > 1 and gpu.count("cuLaunchKernelEx") == (2 * (launches - 1) if overlapping else 0)
        lepton.close()
    session.close()


def test_what_ends_the_process_is_a_row_and_the_others_go_on(folder, monkeypatch, capsys):
    monkeypatch.setattr(contenders, "find_torch", lambda: (None, "PyTorch is not installed"))
    monkeypatch.setattr(Here, "failing", ("agree",))
    assert cuda.main(["--run", str(folder), "--rounds", "2"]) == 1
    text = capsys.readouterr().out
    assert ("failed: the measuring process died" in text and "error 0.0e+00" in text) or "lepton 0.0" in text
    assert "0 of 1 models agree with the reference: not pulsevad/pulsevad_2_1k fp32" in text


def test_a_peer_that_breaks_the_process_leaves_the_own_figures(folder, monkeypatch, capsys):
    monkeypatch.setattr(Here, "failing_beside", True)
    assert cuda.main(["--run", str(folder), "--stage", "speed", "--rounds", "2"]) == 0
    text = capsys.readouterr().out
    assert "lepton 0.0" in text and "no eager: a run beside it failed: an illegal memory access" in text


def test_a_line_that_was_cut_off_is_measured_again(folder, monkeypatch, capsys):
    monkeypatch.setattr(contenders, "find_torch", lambda: (None, "PyTorch is not installed"))
    assert cuda.main(["--run", str(folder), "--stage", "agree", "--stage", "speed", "--rounds", "2"]) == 0
    journal = folder / "cuda.jsonl"
    first, second = journal.read_text().splitlines(keepends=True)
    journal.write_text(first + second[:20])
    capsys.readouterr()
    assert cuda.main(["--run", str(folder), "--stage", "agree", "--stage", "speed", "--rounds", "2"]) == 0
    assert capsys.readouterr().out.count("error 0.0e+00") <= 1
    assert [json.loads(line)["stage"] for line in journal.read_text().splitlines()] == ["agree", "speed"]


def test_what_torch_had_no_time_to_compile_is_tried_again(folder):
    measurement = stages.Measurement(folder, folder, 0.0, 2, lambda row: None)
    items = [(cases.Case(**archive.facts_of(path)["case"]), path) for path in archive.archives(folder)]
    ((layer, path),) = measurement._to_do("compile", items)
    for late, left in ((True, [(layer, path)]), (False, [])):
        measurement._keep(Row("compile", layer.subject, layer.precision, error="no answer within 480 seconds", late=late))
        assert measurement._to_do("compile", items) == left


def test_peers_that_cannot_be_made_are_missing(folder, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # and then finds none
    found, missing = contenders.peers("gemm 8x16x12", (8, 16), "fp32", True, 2)
    assert not found and set(missing) == {"eager", "compile"} and all("\n" not in reason for reason in missing.values())

    class Broken:
        def find_spec(self, name, *rest):
            if name == "torch":
                raise OSError("libcudart.so.13: cannot open shared object file")

    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    assert contenders.find_torch() == (None, "PyTorch cannot be loaded: OSError: libcudart.so.13: cannot open shared object file")


def test_wrong_results_are_found(folder, gpu):
    path = next(p for p in archive.archives(folder) if "gemm" in p.name)
    kept = archive.Archive.read(path)
    row = Worker().speed(path, 2, False)
    assert row.ok and row.max_rel < 1e-5 and row.ms["lepton"] > 0
    wrong = archive.Archive(**{**vars(kept), "expected": {"y": kept.expected["y"] + np.float32(0.1)}})
    wrong.write(path)
    assert not Worker().speed(path, 2, False).ok
    path = next(p for p in archive.archives(folder) if "model" in p.name)
    kept = archive.Archive.read(path)
    off = {name: array + np.float32(0.1) for name, array in kept.expected.items()}
    archive.Archive(**{**vars(kept), "expected": off}).write(path)
    assert not Worker().agree(path).ok
    archive.Archive(**{**vars(kept), "expected": off, "own": kept.expected}).write(path)
    row = Worker().agree(path)
    assert row.ok and row.max_rel < 1e-5 and row.note.startswith("evaluator; ")


def test_candidates_are_measured_apart_from_where_they_are_compiled(folder, gpu, capsys, monkeypatch, tmp_path):
    """The largest blocks are the fastest but do not start; the next ones are taken, and a build takes them from the database."""
    monkeypatch.setattr(cases, "PRODUCTS", ((64, 64, 64),))
    monkeypatch.setattr(tuning_candidates, "TILINGS", 4)
    arguments = ["--compile", str(tmp_path / "c"), "gemm 64x", "--precision", "fp32", "-q"]
    assert cuda.main([*arguments, "--candidates"]) == 0
    (path,) = (p for p in archive.archives(tmp_path / "c") if "candidates" in p.name)
    (kernels,) = Collection.read(path).kernels
    assert kernels.choices[0] == {} and len(kernels.choices) == len(kernels.contenders) > 3
    gpu.emulate("nothing")
    for number, kernel in enumerate(kernels.contenders):
        gpu.cost(kernel.launches[0].symbol, (4e-5, -1.0, 1e-5)[number] if number < 3 else 2e-5)
    assert cuda.main(["--run", str(tmp_path / "c"), "--stage", "tune"]) == 0
    assert "1 of 1 products are faster with other tiles; all together take 4.000 times as long without" in capsys.readouterr().out
    (row,) = (json.loads(line) for line in (tmp_path / "c" / "tuning.jsonl").read_text().splitlines())
    assert row["choice"] == kernels.choices[2] and row["ratio"] == 0.25 and row["cpu"].startswith("Emulated GPU, sm_90")
    (times,) = (json.loads(line) for line in (tmp_path / "c" / "candidates.jsonl").read_text().splitlines())
    assert times["left_out"] == [[kernels.choices[1], "cuLaunchKernel: too many resources requested for launch (701)"]]
    assert dict(map(tuple, ((json.dumps(c), round(s, 7)) for c, s in times["seconds"])))[json.dumps(kernels.choices[2])] == 1e-5
    assert cuda.main([*arguments, "--tune-db", str(tmp_path / "c" / "tuning.jsonl")]) == 0
    layer = next(p for p in archive.archives(tmp_path / "c") if p.name.startswith("layer"))
    assert [r["choice"] for r in archive.Archive.read(layer).manifest["tuning"]] == [kernels.choices[2]]


def test_no_gpu_is_one_line(folder, gpu, capsys):
    gpu.configure(devices=0)
    assert cuda.main(["--run", str(folder)]) == 1
    assert capsys.readouterr().err.startswith("bench.cuda: error: no GPU: the driver says")
    assert cuda.main(["--run", str(folder / "nothing")]) == 2
    assert "no cases in" in capsys.readouterr().err


def test_measuring_needs_neither_the_compiler_nor_its_packages(tmp_path):
    """On the machine with the GPU there need be numpy and ml_dtypes only."""
    script = """
        import sys
        for name in ("tvm", "onnx", "onnxruntime", "torch", "networkx", "rich"):
            sys.modules[name] = None
        from bench import cuda
        import bench.gpu.worker
        sys.exit(cuda.main(["--run", sys.argv[1], "-q"]))
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "no cases in" in done.stderr, done.stderr


def test_compute_sanitizer_is_asked_by_both_tools(folder, tmp_path, monkeypatch):
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(
        "#!/bin/sh\necho \"========= COMPUTE-SANITIZER\"\n"
        'if [ "$2" = racecheck ]; then echo "========= Race reported"; exit 86; fi\n'
    )  # fmt: skip
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    path = archive.archives(folder)[0]
    row = stages.sanitized(cases.Case("model", "m", "fp32"), path, 30.0)
    assert not row.ok and row.error == "racecheck: Race reported"
    tool.write_text("#!/bin/sh\nexit 0\n")
    assert stages.sanitized(cases.Case("model", "m", "fp32"), path, 30.0).ok


def test_nothing_is_left_of_a_tool_that_takes_too_long(folder, tmp_path, monkeypatch):
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(f"#!/bin/sh\nsleep 600 &\necho $! > {tmp_path}/pid\nwait\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(subprocess.TimeoutExpired):
        stages.sanitized(cases.Case("model", "m", "fp32"), archive.archives(folder)[0], 5.0)
    state = Path("/proc", (tmp_path / "pid").read_text().strip(), "stat")
    for _ in range(100):
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("the process that the tool started goes on")


def test_means_are_set_beside_what_is_wanted():
    rows = [
        Row("speed", "resnet50 1", "fp16", {"lepton": 1.0, "eager": 2.0}, {"eager": 2.0}, max_rel=1e-3, ok=True),
        Row("compile", "resnet50 1", "fp16", {"lepton": 1.0, "compile": 0.5}, {"compile": 0.5, "eager": 2.1}, max_rel=1e-3, ok=True),
        Row("compile", "bert-base 1x128", "fp16", {}, {"compile": 2.0}, max_rel=1e-3, ok=True),
        Row("speed", "gemm 8x8x8", "fp16", {}, {"eager": 0.6}, max_rel=0.5),
        Row("agree", "silero", "fp32", max_rel=1e-6, ok=True, note="onnxruntime"),
    ]
    assert report.findings(rows) == [
        "1 of 1 models agree with the reference",
        "1 of 3 timed cases are wrong or failed: gemm 8x8x8 fp16",
        "gemm, fp16: 0.60 of PyTorch with cuDNN and cuBLAS over 1 cases, at least 0.7 wanted: NOT REACHED",
        "nets, batch 1, fp16: 1.00 of torch.compile(max-autotune) over 2 cases, at least 0.8 wanted: reached",
        "nets, batch 1, fp16: 2.10 of PyTorch with cuDNN and cuBLAS over 1 cases",
    ]
    assert [Row.from_json(row.as_json()) for row in rows] == rows


def test_patterns_are_the_same_everywhere_and_like_normal_numbers():
    w = patterned((256, 512), "layer.weight")
    assert abs(float(w.mean())) < 0.02 and abs(float(w.std()) - 1) < 0.05
    assert len(np.unique(w, axis=0)) <= 16 and w[0, :3].tolist() == patterned((256, 512), "layer.weight")[0, :3].tolist()
    x = patterned_input((1000,))
    assert float(x.min()) >= -1 and float(x.max()) <= 1.001 and abs(float(x.mean())) < 0.05
    assert np.allclose(x[:4], [0.034, 0.1848, 0.003, 0.7782], atol=1e-4)


def test_all_that_is_to_be_shown_is_a_case():
    every = cases.cases([], cases.PRECISIONS)
    names = {case.name for case in every}
    assert len({case.file for case in every}) == len(every)
    assert {
        f"{net} {precision}" for net in ("resnet50 1", "resnet50 32", "bert-base 32x128", "minilm 1x128") for precision in ("fp32", "fp16")
    } <= names
    assert {f"{model} fp16" for model in cases.SANITIZED} <= names and len(cases.SANITIZED) == 5
    assert sum(case.kind == "model" for case in every) == 70
