from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import lepton_compiler

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ROOMS = {
    "lepton_compiler",
    "passes",
    "backends",
    "tests",
    "bench",
    "docs",
    "examples",
    "pyproject.toml",
    "README.md",
    "Makefile",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
}


def test_every_folder_of_code_is_packaged():
    listed = PROJECT["tool"]["setuptools"]["packages"]
    homes = {
        "lepton_compiler": ROOT / "lepton_compiler",
        "lepton_compiler.passes": ROOT / "passes",
        "lepton_compiler.backends": ROOT / "backends",
    }
    found = [
        ".".join([name, *path.parent.relative_to(home).parts])
        for name, home in homes.items()
        for path in home.rglob("__init__.py")  # rglob does not enter the links
    ]
    assert sorted(found) == sorted(listed)


def test_every_folder_with_modules_is_a_package():
    for home in ("lepton_compiler", "passes", "backends"):
        for path in (ROOT / home).rglob("*.py"):
            assert (path.parent / "__init__.py").is_file(), path


@pytest.mark.parametrize("name", ["passes", "backends"])
def test_links_point_home(name):
    assert os.readlink(ROOT / "lepton_compiler" / name) == f"../{name}"


def test_top_level_holds_nothing_else():
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert {name for name in {path.split("/")[0] for path in tracked} if not name.startswith(".")} <= ROOMS


def test_version_is_the_same_everywhere():
    assert PROJECT["project"]["version"] == lepton_compiler.__version__


def test_scripts_exist():
    import importlib

    for target in PROJECT["project"]["scripts"].values():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_door_is_light():
    code = (
        "import sys, time; t = time.perf_counter(); import lepton_compiler; t = time.perf_counter() - t; "
        "print(t); print([m for m in ('numpy', 'tvm', 'torch', 'onnx', 'onnxruntime', 'rich') if m in sys.modules])"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
        for _ in range(3)
    ]
    assert runs[0][1] == "[]"
    assert min(float(seconds) for seconds, _ in runs) < 0.15


def test_help_does_not_load_the_compiler():
    code = "import sys\nfrom lepton_compiler.cli.leptonc import main\ntry: main(['--help'])\nexcept SystemExit: pass\nprint('tvm' in sys.modules or 'onnx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_files_for_builds_are_packaged():
    home = ROOT / "lepton_compiler"
    packaged = {path for pattern in PROJECT["tool"]["setuptools"]["package-data"]["lepton_compiler"] for path in home.glob(pattern)}
    assert {path for path in (home / "cmake").rglob("*") if path.is_file()} <= packaged


@pytest.mark.slow
@pytest.mark.network
def test_wheel_has_all_code(tmp_path):
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)], check=True)
    import zipfile

    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    for expected in (
        "lepton_compiler/py.typed",
        "lepton_compiler/cmake/LeptonConfig.cmake",
        "lepton_compiler/passes/levels.py",
        "lepton_compiler/backends/tvm/codegen.py",
    ):
        assert expected in names
    assert not any(name.startswith(("passes/", "backends/", "tests/", "bench/")) for name in names)
