"""Tuning on a GPU, on the stand-in for the driver: kernels run in the emulator, and take the time that the test says they take."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler import cuda_driver, driver
from lepton_compiler.backends.tvm.choice import Choice
from lepton_compiler.backends.tvm.cuda import compilers
from lepton_compiler.backends.tvm.cuda.compile import compile_spec
from lepton_compiler.backends.tvm.cuda.compilers import Image
from lepton_compiler.backends.tvm.cuda.package import build
from lepton_compiler.backends.tvm.cuda.products.chosen import choice_of_tiling
from lepton_compiler.backends.tvm.cuda.tensor_cores import Shape, device_of, possible
from lepton_compiler.backends.tvm.cuda.tuning import candidates as candidates_module
from lepton_compiler.backends.tvm.cuda.tuning import device, search
from lepton_compiler.backends.tvm.cuda.tuning.candidates import candidates
from lepton_compiler.backends.tvm.cuda.tuning.runner import Runner
from lepton_compiler.backends.tvm.cuda.unit import unit
from lepton_compiler.backends.tvm.spec import KernelSpec, spec_of
from lepton_compiler.backends.tvm.tuning.process import MeasureError, MeasuringProcess
from lepton_compiler.errors import LeptonError, MissingDependency
from lepton_compiler.ir.text import parse_graph
from lepton_compiler.target import parse_target
from lepton_compiler.testing.cuda_driver import FakeGpu
from lepton_compiler.tuning import TuningReport

NAME = "Emulated GPU, sm_80, L2 1024K"
WEIGHTS = ", ".join(str((7 * k % 11 - 5) / 8) for k in range(32 * 32))
MODEL = f"""\
graph @net(%x: float32[32,32]) {{
  %w = const float32[32,32] ({WEIGHTS})
  %m = MatMul()(%x, %w) : float32[32,32]
  %s = Softmax(axis=1)(%m) : float32[32,32]
  return %s
}}
"""
X = np.linspace(-1, 1, 32 * 32, dtype=np.float32).reshape(32, 32)
Cost = Callable[[str], float]


class Here:
    """In place of a measuring process: the same requests, answered in this one."""

    def __init__(self, module: str) -> None:
        self.runner: Runner | None = None

    def ask(self, limit: float, request: str, *arguments: Any) -> Any:
        """See `MeasuringProcess.ask`."""
        self.runner = self.runner or Runner()
        try:
            return getattr(self.runner, request)(*arguments)
        except LeptonError as error:
            self.stop()
            raise MeasureError(list(error.diagnostics)) from error

    def stop(self) -> None:
        """Forget everything."""
        runner, self.runner = self.runner, None
        if runner is not None:
            runner.close()


@pytest.fixture
def tuned(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Cost], FakeGpu]]:
    """Let kernels of these texts take so long, and be measured in this process."""

    def prepare(cost: Cost) -> FakeGpu:
        def images(text: str, gpus: Any, cache: Any, jobs: int) -> tuple[list[Image], str]:
            gpu.know_text(text)
            for function in re.findall(r'extern "C" __global__ .*?(?=extern "C"|\Z)', text, re.S):
                symbol = re.search(r"(\w+)\(", function.partition("__launch_bounds__(")[2].partition(") ")[2])
                assert symbol is not None
                gpu.cost(symbol[1], cost(function))
            return [Image(g, False, b"code") for g in gpus], "none"

        gpu.configure()
        gpu.forget()
        gpu.emulate("nothing")
        monkeypatch.setattr(build, "compile_images", images)
        monkeypatch.setattr(search, "compile_cubin", lambda text, gpu, cache: images(text, [gpu], cache, 1)[0][0].code)
        monkeypatch.setattr(compilers, "find_compiler", lambda: None)
        monkeypatch.setattr(device, "MeasuringProcess", Here)
        return gpu

    yield prepare
    gpu.emulate("everything")


def by_block(function: str) -> float:
    """Products take the longer the smaller their blocks are, rows the longer the more threads they have."""
    if blocks := re.search(r"multiply_in_fp32<(\d+), (\d+)", function):
        return 1e-2 / (int(blocks[1]) * int(blocks[2]))
    bounds = re.search(r"__launch_bounds__\((\d+)\)", function)
    assert bounds is not None
    return 1e-7 * int(bounds[1])


def compiled(path: Path, **options: Any) -> Any:
    return lc.compile(parse_graph(MODEL), target="cuda:sm_80", level=3, tune_db=path, **options)


def test_the_fastest_is_taken_kept_and_not_measured_again(tuned, tmp_path):
    database = tmp_path / "db.jsonl"
    gpu = tuned(by_block)
    model = compiled(database, tune=300)
    assert not gpu.faults
    rows = {row["label"]: row for row in map(json.loads, database.read_text().splitlines())}
    product, softmax = rows["matmul"], rows["softmax"]
    assert all(row["cpu"] == NAME and row["ratio"] < 0.98 and row["candidates"] > 1 for row in rows.values())
    assert (product["choice"]["block_rows"], product["choice"]["block_columns"]) == (128, 128)
    assert softmax["choice"] == {"lanes": 64}  # 32 of them come in blocks of four rows
    assert {row["kernel"]: row["choice"] for row in model.manifest["tuning"]} == {r["kernel"]: r["choice"] for r in rows.values()}
    gpu.emulate("everything")
    assert np.abs(model.run({"x": X})["s"] - lc.evaluate(parse_graph(MODEL), {"x": X})["s"]).max() < 1e-5
    assert not gpu.faults

    gpu.emulate("nothing")
    before, kept = gpu.count("cuModuleLoadData"), database.read_text()
    again = compiled(database, tune=300)
    assert database.read_text() == kept and again.manifest["tuning"] == model.manifest["tuning"]
    assert gpu.count("cuModuleLoadData") == before + 2  # the two models, no kernel
    marks = gpu.count("cuEventRecord")
    shared = compiled(database)
    assert gpu.count("cuEventRecord") == marks and shared.artifact.files == model.artifact.files


def test_what_cannot_start_or_is_wrong_is_left_out_and_counted(tuned, tmp_path, monkeypatch):
    """The fastest tile does not start, the next ones are off by one, and so the best that is right is taken."""
    reports: list[TuningReport] = []
    fastest = "multiply_in_fp32<128, 128", "multiply_in_fp32<128, 64"
    gpu = tuned(lambda function: -1.0 if fastest[0] in function else by_block(function))
    gpu.emulate("launches")
    text_of = unit

    def spoiled(kernels):
        text = text_of(kernels)
        return text.replace("return total;", "return total + 1.0f;") if fastest[1] in text else text

    monkeypatch.setattr(search, "unit", spoiled)
    monkeypatch.setattr(candidates_module, "alternatives", _tilings)
    monkeypatch.setattr(candidates_module, "LANES", (64,))
    model = driver.compile_job(parse_graph(MODEL), _job(tmp_path / "db.jsonl", reports.append))
    (report,) = reports
    row = next(json.loads(line) for line in (tmp_path / "db.jsonl").read_text().splitlines() if '"matmul"' in line)
    assert (row["choice"]["block_rows"], row["choice"]["block_columns"]) == (64, 64) and row["candidates"] == 1
    assert report.skipped == 2 and report.finished == report.kernels == 2 and report.ratio < 1.0
    assert not gpu.faults and model.manifest["tuning"]


def test_a_model_that_is_not_faster_keeps_its_analytic_kernels(tuned, tmp_path, monkeypatch):
    tuned(by_block)
    monkeypatch.setattr(Runner, "times", lambda self, names, seconds: np.ones((21, 2)))
    model = compiled(tmp_path / "db.jsonl", tune=300)
    assert "tuning" not in model.manifest
    last = {row["label"]: row for row in map(json.loads, (tmp_path / "db.jsonl").read_text().splitlines())}
    assert all(row["choice"] == {} and row["ratio"] == 1.0 for row in last.values())


def test_the_search_ends_with_its_time(tuned, tmp_path):
    reports: list[TuningReport] = []
    tuned(by_block)
    job = _job(tmp_path / "db.jsonl", reports.append)
    driver.compile_job(parse_graph(MODEL), replace(job, tuning=replace(job.tuning, seconds=1e-3)))
    (report,) = reports
    assert (report.kernels, report.finished, report.tuned, report.ratio) == (2, 0, 0, 1.0)
    assert not (tmp_path / "db.jsonl").exists()


def test_machines_that_cannot_measure_are_told_of_before_anything_is_compiled(tuned, tmp_path, monkeypatch):
    gpu = tuned(by_block)
    monkeypatch.setattr(search, "compile_cubin", lambda *arguments: pytest.fail("something was compiled"))
    monkeypatch.setattr(build, "compile_images", lambda *arguments: pytest.fail("something was compiled"))
    gpu.configure(devices=0)
    with pytest.raises(LeptonError, match="no GPU: the driver says 'no CUDA-capable device is detected'"):
        compiled(tmp_path / "db", tune=5)
    gpu.configure(capability=(7, 5))
    with pytest.raises(LeptonError, match="'Emulated GPU' is sm_75, and cannot measure code for sm_80"):
        compiled(tmp_path / "db", tune=5)
    monkeypatch.setattr(cuda_driver, "LIBRARY", "libno-such-driver.so.1")
    with pytest.raises(MissingDependency, match="no driver of NVIDIA") as caught:
        compiled(tmp_path / "db", tune=5)
    assert "\n" not in caught.value.diagnostics[0].message and caught.value.diagnostics[0].hint


def test_choices_of_another_kernel_are_refused(tuned, tmp_path):
    tuned(by_block)
    database = tmp_path / "db.jsonl"
    compiled(database, tune=300)
    rows = [json.loads(line) for line in database.read_text().splitlines()]
    for row in rows:
        row["choice"] = row["choice"] | ({"block_rows": 100} if row["label"] == "matmul" else {})
    database.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(LeptonError, match=r"no tiles with block_rows 100, .* fit the product"):
        compiled(database)


def test_what_is_tried_depends_on_the_kernel():
    target = parse_target("cuda:sm_80")
    product, softmax = _spec("MatMul()(%x, %w)"), _spec("Softmax(axis=1)(%x)")
    tilings = candidates(product, target)
    assert len(tilings) >= 10 and all(choice.block_rows and choice.stages for choice in tilings)
    assert len({choice.stages for choice in tilings}) > 1
    assert Choice(lanes=64) in candidates(softmax, target) and not any(choice.block_rows for choice in candidates(softmax, target))


@pytest.mark.parametrize(
    ("expression", "choices"),
    [
        ("Softmax(axis=1)(%x)", [Choice(lanes=256)]),
        ("Sigmoid()(%x)", [Choice(threads=64, neighbours=2), Choice(threads=512, neighbours=4)]),
        ("MatMul()(%x, %w)", ["stages", "splits"]),
    ],
)
def test_choices_make_other_kernels_with_the_same_results(gpu, expression, choices):
    target, spec = parse_target("cuda:sm_80"), _spec(expression)
    if "MatMul" in expression:
        every = [choice_of_tiling(t) for t in possible(Shape(1, 32, 32, 32, "float32", 4, 1 << 14), device_of("sm_80"))]
        choices = [max(every, key=lambda choice: (getattr(choice, name) or 0, choice.block_rows)) for name in choices]
    gpu.configure()
    runner, texts = Runner(), []
    runner.begin(spec, 1 << 30)
    for choice in [Choice(), *choices]:
        kernel = compile_spec("", replace(spec, choice=choice), target)
        texts.append(kernel.object.replace(kernel.symbol.encode(), b""))
        gpu.know_text(unit([kernel]))
        assert runner.add(kernel, b"code") == "" and not gpu.faults
    assert len(set(texts)) == len(texts)
    gpu.emulate("nothing")
    samples = runner.samples(range(len(texts)), 9)
    gpu.emulate("everything")
    assert samples.shape == (9, len(texts)) and (samples > 0).all()
    runner.close()


def test_a_measuring_process_without_a_driver_says_so(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    process = MeasuringProcess(device.RUNNER)
    try:
        with pytest.raises(MeasureError, match=r"no driver of NVIDIA|no GPU"):
            process.ask(60.0, "begin", _spec("Softmax(axis=1)(%x)"), 0)
    finally:
        process.stop()


def _tilings(shape: Shape, device: Any, devices: Any, count: int) -> list[Any]:
    """One tiling for each of three blocks."""
    every = list(possible(shape, device))
    return [next(t for t in every if (t.block_m, t.block_n, t.splits) == (*block, 1)) for block in ((128, 128), (128, 64), (64, 64))]


def _spec(expression: str) -> KernelSpec:
    weight = f"  %w = const float32[32,32] ({WEIGHTS})\n" if "%w" in expression else ""
    text = f"graph @net(%x: float32[32,32]) {{\n{weight}  %y = {expression} : float32[32,32]\n  return %y\n}}\n"
    return spec_of(next(iter(parse_graph(text))))


def _job(database: Path, tuned: Any) -> Any:
    from lepton_compiler.job import Job
    from lepton_compiler.tuning import Request

    return Job(parse_target("cuda:sm_80"), "O3", tuning=Request(300.0, database), tuned=tuned)
