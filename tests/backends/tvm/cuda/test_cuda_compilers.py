"""Targets, compilers and images of artefacts for GPUs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import lepton_compiler as lc
from lepton_compiler.backends.tvm.cuda import compilers
from lepton_compiler.backends.tvm.cuda.compilers import Nvcc, Nvrtc, compile_cubin, compile_images, find_compiler
from lepton_compiler.errors import LeptonError, MissingDependency, UnsupportedError, UsageError
from lepton_compiler.gpus import GPUS
from lepton_compiler.ir.text import parse_graph
from lepton_compiler.target import parse_target

TINY = "graph @net(%x: float32[3,4]) {\n  %y = Relu()(%x) : float32[3,4]\n  return %y\n}\n"
KINDS = """graph @net(%x: float16[1,16,8,8], %w: float16[32,16,3,3], %q: float16[4,64,64], %k: float16[4,64,64], %v: float16[4,64,64], %c: uint8[64,64], %d: int8[64,64], %h: float16[128,128]) {
  %s = const float32[] (0.5)
  %z = const uint8[] (128)
  %n = const int8[] (0)
  %y = Conv(pads=(1, 1, 1, 1))(%x, %w) : float16[1,32,8,8]
  %m = MatMul()(%h, %h) : float16[128,128]
  %scores = MatMul()(%q, %k) : float16[4,64,64]
  %p = Softmax(axis=-1)(%scores) : float16[4,64,64]
  %a = MatMul()(%p, %v) : float16[4,64,64]
  %t = Sin()(%a) : float16[4,64,64]
  %e = DequantizeLinear()(%c, %s, %z) : float32[64,64]
  %f = DequantizeLinear()(%d, %s, %n) : float32[64,64]
  %g = MatMul()(%e, %f) : float32[64,64]
  %i = QuantizeLinear(dtype=uint8)(%g, %s, %z) : uint8[64,64]
  return %y, %m, %t, %i
}
"""
UNIT = 'extern "C" __global__ void twice(float *x) { x[threadIdx.x] *= 2.0f; }\n'


@pytest.fixture
def compiler():
    find_compiler.cache_clear()
    try:
        return find_compiler()
    except MissingDependency as error:
        pytest.skip(str(error))


def test_targets_name_architectures():
    assert parse_target("cuda").features == ("sm_80", "sm_90")
    assert parse_target("cuda:sm_90,sm_80").features == ("sm_80", "sm_90")
    assert parse_target("cuda", "sm_86").features == ("sm_86",) and parse_target("cuda").backend == "cuda"
    for text, message in (("cuda:sm_91", "sm_91"), ("cuda:x86", "x86"), ("cudas", "unknown target")):
        with pytest.raises(UsageError, match=message):
            parse_target(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"threads": 2}, "--threads"), ({"profile": True}, "nsys"), ({"ram": 1000}, "firmware"), ({"precision": "fp8"}, "no precision 'fp8'")],
)
def test_what_a_gpu_has_no_use_for_is_refused(options, message):
    with pytest.raises(LeptonError, match=message):
        lc.compile(parse_graph(TINY), target="cuda", **options)


def test_precision_is_for_gpus():
    with pytest.raises(UnsupportedError, match="for GPUs"):
        lc.compile(parse_graph(TINY), precision="fp16")


def test_without_a_compiler_there_is_a_hint(monkeypatch, tmp_path):
    find_compiler.cache_clear()
    for name in ("LEPTON_NVCC", "LEPTON_NVRTC", "CUDA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(compilers, "_nvrtc_library", lambda: None)
    with pytest.raises(MissingDependency, match="no compiler for CUDA") as caught:
        find_compiler()
    assert "lepton-compiler[cuda]" in caught.value.diagnostics[0].hint
    find_compiler.cache_clear()


def test_a_compiler_that_fails_is_told_of(tmp_path):
    fake = tmp_path / "nvcc"
    fake.write_text("#!/bin/sh\necho unit.cu: no >&2\nexit 1\n")
    fake.chmod(0o755)
    with pytest.raises(LeptonError, match=r"nvcc failed: unit\.cu: no"):
        Nvcc(str(fake)).compile(UNIT, "sm_80")
    with pytest.raises(MissingDependency, match="cannot run"):
        Nvcc(str(tmp_path / "nothing")).compile(UNIT, "sm_80")


def test_images_are_the_same_twice_and_kept(compiler, tmp_path):
    gpus = (GPUS["sm_80"],)
    first, version = compile_images(UNIT, gpus, tmp_path, 1)
    again, _ = compile_images(UNIT, gpus, None, 1)
    assert first == again and version == compiler.version
    assert [(image.gpu.name, image.is_ptx) for image in first] == [("sm_80", False), ("sm_80", True)]
    assert first[0].code[:4] == b"\x7fELF" and b".visible .entry twice" in first[1].code
    assert len(list(tmp_path.rglob("*.cubin"))) == len(list(tmp_path.rglob("*.ptx"))) == 1


@pytest.mark.parametrize("kind", [Nvrtc, Nvcc])
def test_machine_code_for_sm_90_has_instructions_that_its_ptx_has_not(kind, monkeypatch, tmp_path):
    path = compilers._nvrtc_library() if kind is Nvrtc else shutil.which("nvcc")
    if path is None:
        pytest.skip(f"there is no {kind.__name__.lower()}")
    monkeypatch.setattr(compilers, "find_compiler", lambda: kind(path))
    text = "#ifdef __CUDA_ARCH_FEAT_SM90_ALL\n#define NAME featured\n#else\n#define NAME plain\n#endif\n" + UNIT.replace("twice", "NAME")
    images, _ = compile_images(text, (GPUS["sm_80"], GPUS["sm_90"]), tmp_path, 2)
    assert [(image.gpu.name, image.is_ptx) for image in images] == [("sm_80", False), ("sm_90", False), ("sm_90", True)]
    assert [(b"featured" in image.code, b"plain" in image.code) for image in images] == [(False, True), (True, False), (False, True)]
    assert re.search(rb"^\.target sm_90$", images[-1].code, re.MULTILINE)  # what later GPUs take
    assert compile_cubin(text, GPUS["sm_90"], tmp_path) == images[1].code


@pytest.mark.parametrize("kind", [Nvrtc, Nvcc])
def test_each_compiler_takes_kernels_of_each_kind(kind, monkeypatch, tmp_path):
    path = compilers._nvrtc_library() if kind is Nvrtc else shutil.which("nvcc")
    if path is None:
        pytest.skip(f"there is no {kind.__name__.lower()}")
    monkeypatch.setattr(compilers, "find_compiler", lambda: kind(path))
    model = lc.compile(parse_graph(KINDS), target="cuda:sm_80", level=3, cache_dir=tmp_path)
    assert model.manifest["cuda_compiler"].startswith(kind.__name__.lower()) and model.manifest["attention"]["kernels"] == 1
    assert {image["kind"] for image in model.manifest["images"]} == {"cubin", "ptx"}


@pytest.mark.parametrize(("quantize", "precision"), [("w4", "fp16"), ("w8", "bf16"), (None, "tf32")])
def test_weights_and_precisions_of_each_kind_compile(compiler, quantize, precision, tmp_path):
    numbers = ", ".join(f"{(k * 37 % 101 - 50) / 50}" for k in range(64 * 64))
    text = "graph @net(%x: float32[64,64]) {\n  %w = const float32[64,64] (" + numbers + ")\n"
    graph = parse_graph(text + "  %m = MatMul()(%x, %w) : float32[64,64]\n  %y = Gelu()(%m) : float32[64,64]\n  return %y\n}\n")
    model = lc.compile(graph, target="cuda:sm_80", level=3, precision=precision, quantize=quantize, cache_dir=tmp_path)
    assert model.manifest["cuda_compiler"] == compiler.version and model.manifest["images"][0]["kind"] == "cubin"


def test_architectures_that_the_compiler_does_not_know_are_told_of(compiler, tmp_path):
    unknown = replace(GPUS["sm_90"], name="sm_999", machine="")
    with pytest.raises(LeptonError, match=f"{compiler.version} makes no code for sm_999") as caught:
        compile_images(UNIT, (unknown,), None, 1)
    assert "other architectures" in caught.value.diagnostics[0].hint
    fake = tmp_path / "nvcc"
    fake.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo V12.1.66 && exit\necho "nvcc fatal   : Unsupported gpu architecture \'compute_100\'" >&2\nexit 1\n'
    )
    fake.chmod(0o755)
    with pytest.raises(LeptonError, match=r"nvcc 12\.1\.66 makes no code for sm_100"):
        Nvcc(str(fake)).compile(UNIT, "sm_100")


def test_text_that_is_wrong_is_an_error(compiler):
    with pytest.raises(LeptonError, match="failed"):
        compile_images("nonsense", (GPUS["sm_80"],), None, 1)


def test_without_a_driver_running_fails_in_a_line(compiler, tmp_path):
    """In a process of its own: this one may have the stand-in for the driver."""
    (tmp_path / "net.lir").write_text(TINY)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    root = Path(lc.__file__).parents[1]
    compiled = [
        sys.executable,
        "-m",
        "lepton_compiler.cli.leptonc",
        str(tmp_path / "net.lir"),
        "--target",
        "cuda:sm_80",
        "-o",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(compiled, capture_output=True, text=True, timeout=300, env=environment, cwd=root)
    assert done.returncode == 0, done.stderr
    ran = [sys.executable, "-m", "lepton_compiler.cli.lepton", "run", str(tmp_path / "out")]
    done = subprocess.run(ran, capture_output=True, text=True, timeout=120, env=environment, cwd=root)
    assert done.returncode == 1 and done.stdout == ""
    assert "no driver of NVIDIA" in done.stderr or "no GPU" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 2 and "hint:" in done.stderr
