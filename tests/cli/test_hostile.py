"""Inputs that are broken, on purpose or not: a diagnosis and status 1, never a traceback, never a file left behind."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


def _torch(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")


FILES = {
    "empty.onnx": lambda p: p.write_bytes(b""),
    "random.onnx": lambda p: p.write_bytes(np.random.default_rng(0).bytes(4096)),
    "text.onnx": lambda p: p.write_text("this is not a model\n" * 50),
    "model.pt": _torch,
    "saved": _torch,
    "model.tflite": lambda p: p.write_bytes(b"\x1c\0\0\0TFL3" + bytes(64)),
    "flat": lambda p: p.write_bytes(b"\x1c\0\0\0TFL3" + bytes(64)),
    "weights.safetensors": lambda p: p.write_bytes(bytes(16)),
    "model.h5": lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n"),
    "broken.lir": lambda p: p.write_text("graph @g(%x: float32[2]) {\n  %y = Nope()(%x) : float32[2]\n  return %y\n}\n"),
    "half.lir": lambda p: p.write_text("graph @g(%x: float32[2]) {"),
    "binary.lir": lambda p: p.write_bytes(bytes(range(256))),
    "folder.onnx": lambda p: p.mkdir(),
}


@pytest.mark.parametrize("name", FILES)
def test_broken_files_are_diagnosed(call, tmp_path, name):
    path = tmp_path / name
    FILES[name](path)
    done = call("leptonc", path, "-o", tmp_path / "out")
    assert done.status == 1, done.err
    assert done.err.startswith("leptonc: error: ") and "internal error" not in done.err and "Traceback" not in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("cut", [1, 10, 100, 200])
def test_truncated_models(call, tiny_onnx, tmp_path, cut):
    path = tmp_path / "cut.onnx"
    path.write_bytes(tiny_onnx.read_bytes()[:-cut])
    done = call("leptonc", path, "--emit", "ir", "-o", tmp_path / "out.lir")
    assert done.status in (0, 1) and "internal error" not in done.err


def test_flipped_bytes_never_reach_the_user_as_tracebacks(call, tiny_onnx, tmp_path):
    data, rng = tiny_onnx.read_bytes(), np.random.default_rng(1)
    for i in range(60):
        damaged = bytearray(data)
        damaged[int(rng.integers(len(data)))] ^= int(rng.integers(1, 256))
        path = tmp_path / f"damaged{i}.onnx"
        path.write_bytes(bytes(damaged))
        done = call("leptonc", path, "--dim", "batch=1", "--emit", "ir", "-o", tmp_path / "out.lir", "-q")
        assert done.status in (0, 1, 2) and "internal error" not in done.err, (i, done.err)


def test_missing_file_and_missing_permission(call, tmp_path):
    assert "no such file" in call("leptonc", tmp_path / "none.onnx").err
    assert call("leptonc", tmp_path / "none").status == 1
    assert call("lepton", "inspect", tmp_path / "no\0name.onnx").status == 1


def test_reader_that_goes_away(tiny):
    command = f"{sys.executable} -m lepton_compiler.cli.lepton zoo list | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.count("\n") == 1 and "Traceback" not in done.stderr and "Exception" not in done.stderr


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 1, "out of memory"),
        (RecursionError(), 1, "nested too deeply"),
        (PermissionError(13, "Permission denied", "model"), 1, "Permission denied"),
        (ZeroDivisionError("oops"), 1, "internal error: ZeroDivisionError: oops"),
    ],
)
def test_exceptions_become_one_line(call, tiny, tmp_path, monkeypatch, error, status, text):
    from lepton_compiler import driver

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(driver, "read_model", fail)
    done = call("leptonc", tiny, "-o", tmp_path / "out")
    assert done.status == status and text in done.err and "Traceback" not in done.err
    assert not list(tmp_path.glob("*out*"))


def test_interrupt_while_emitting_leaves_nothing(call, tiny, tmp_path, monkeypatch):
    from lepton_compiler import driver

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(driver, "build_sizes", stop)
    assert call("leptonc", tiny, "-o", tmp_path / "out").status == 130
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.lir"]
