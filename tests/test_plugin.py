from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLUGIN = Path(__file__).with_name("plugin")
MODEL = """
graph @net(%x: float32[4]) {
  %two = const float32[] (2.0)
  %y = Pow()(%x, %two) : float32[4]
  return %y
}
"""
USE = """
import numpy as np
import lepton_compiler as lc
graph = lc.import_model("net.lir")
squared = lc.optimize(graph, passes="square,dce")
x = np.array([1, -2, 3, 0.5], np.float32)
np.testing.assert_array_equal(lc.evaluate(squared, {"x": x})["y"], lc.evaluate(graph, {"x": x})["y"])
print(*(node.op.name for node in graph), *(node.op.name for node in squared), *squared.nodes[0].loc.rules)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the plug-in as pip installs it; its sources are copied first, so that the build leaves nothing in the tree."""
    work = tmp_path_factory.mktemp("plugin")
    shutil.copytree(PLUGIN, work / "source", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    command += ["--no-build-isolation", "--target", str(work / "site"), str(work / "source")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return work / "site"


@pytest.fixture
def run(installed: Path, tmp_path: Path):
    (tmp_path / "net.lir").write_text(MODEL)

    def run(*arguments: str, plugin: bool = True) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(installed), str(ROOT)] if plugin else [str(ROOT)])
        return subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
        )

    return run


def test_python_pipeline_names_its_pass(run):
    done = run("-c", USE)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Pow Mul power-of-two\n"


def test_command_line_knows_its_pass(run, tmp_path):
    done = run("-m", "lepton_compiler.cli.leptonc", "net.lir", "--emit", "ir", "-o", "out.lir", "--passes", "square,dce", "--verify")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out.lir").read_text()
    assert "Mul()(%x, %x)" in text and "Pow" not in text
    listed = run("-m", "lepton_compiler.cli.lepton", "passes")
    assert any(line.startswith("square ") for line in listed.stdout.splitlines()), listed.stderr


def test_its_pass_is_unknown_without_it(run):
    done = run("-m", "lepton_compiler.cli.leptonc", "net.lir", "--emit", "ir", "--passes", "square", plugin=False)
    assert done.returncode == 2
    assert "no pass called 'square'" in done.stderr
