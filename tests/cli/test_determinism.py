"""Two builds give the same bytes, whatever the folder, the process, and its hash seed."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _build(model: Path, folder: Path, seed: str, *options: str) -> dict[str, str]:
    folder.mkdir()
    shutil.copy(model, folder / model.name)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed, "LEPTON_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "lepton_compiler.cli.leptonc", model.name, "-o", "out", *options]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    out = folder / "out"
    files = [p for p in sorted(out.rglob("*")) if p.is_file()] if out.is_dir() else [out]
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.parametrize(
    "options", [("--emit", "lib", "-O3"), ("--emit", "static"), ("--emit", "onnx"), ("--emit", "ir")], ids=lambda o: o[1]
)
def test_builds_are_byte_identical(tiny, tmp_path, options):
    first = _build(tiny, tmp_path / "a", "1", *options)
    second = _build(tiny, tmp_path / "another-folder", "2", *options)
    assert first and first == second
