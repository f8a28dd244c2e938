from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = {
    "README.md",
    "benchmarks.md",
    "writing_passes.md",
    "adding_an_op.md",
    "adding_a_target.md",
    "adding_a_backend.md",
    "build_integration.md",
    "design.md",
}
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)(?:#[^)]*)?\)")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled kernels that the pages share."""
    return tmp_path_factory.mktemp("cache")


def write_model(path: Path) -> None:
    """A small image classifier: `x` float32[batch,3,224,224] to `scores` float32[batch,4]; it halves its features by a division."""
    rng = np.random.default_rng(0)
    weights = {
        "kernel": rng.standard_normal((8, 3, 3, 3)).astype(np.float32),
        "two": np.array(2, np.float32),
        "matrix": rng.standard_normal((8, 4)).astype(np.float32),
        "bias": rng.standard_normal(4).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["features"], "conv", strides=[4, 4]),
        helper.make_node("Div", ["features", "two"], ["halved"], "halve"),
        helper.make_node("Relu", ["halved"], ["active"], "relu"),
        helper.make_node("GlobalAveragePool", ["active"], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "matrix", "bias"], ["scores"], "classify"),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 224, 224])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_run(page: Path, cache: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "model.onnx")
    environment = {**os.environ, "LEPTON_CACHE": str(cache), "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    command = [sys.executable, str(Path(__file__).with_name("run_page.py")), str(page)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert page.name not in EXAMPLES or int(done.stdout.splitlines()[-1].split()[0]) > 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_every_page_that_should_have_examples_is_there() -> None:
    assert {page.name for page in PAGES} >= EXAMPLES
