from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

Sh = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def leptonc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`leptonc` of this tree as a command."""
    script = tmp_path_factory.mktemp("bin") / "leptonc"
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m lepton_compiler.cli.leptonc "$@"\n')
    script.chmod(0o755)
    return script


@pytest.fixture(scope="session")
def sh(leptonc: Path, tmp_path_factory: pytest.TempPathFactory) -> Sh:
    """Runs a command whose first word must be installed, with `leptonc` on the PATH and a kernel cache for all tests."""
    cache = tmp_path_factory.mktemp("cache")

    def run(*command: object, check: bool = True, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        if shutil.which(str(command[0])) is None:
            pytest.skip(f"{command[0]} is not installed")
        path = f"{leptonc.parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "LEPTON_CACHE": str(cache), "LC_ALL": "C", **(env or {})}
        for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
            environment.pop(name, None)
        done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=300)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    return run
