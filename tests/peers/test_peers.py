"""Other runtimes: how they are found and loaded, and what they say where they cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler import peers
from lepton_compiler.errors import MissingDependency, UsageError
from lepton_compiler.peers.peer import Loaded, Peer, PeerError

TEXT = """graph @net(%x: float32[n,8]) {
  %w = const float32[8,3] (1.0, 0.0, -1.0, 0.5, 0.5, 0.5, -1.0, 2.0, 0.25, 0.0, 1.0, 0.0, 1.0, 0.0, -1.0, 0.5, 0.5, 0.5, -1.0, 2.0, 0.25, 0.0, 1.0, 0.0)
  %m = MatMul()(%x, %w) : float32[n,3]
  %y = Relu()(%m) : float32[n,3]
  return %m, %y
}
"""
FEEDS = {"x": np.linspace(-1, 1, 16, dtype=np.float32).reshape(2, 8), "other": np.zeros(3, np.float32)}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model with an open dimension and two results."""
    path = tmp_path / "net.lir"
    path.write_text(TEXT)
    return Path(lc.emit(lc.import_model(path), tmp_path / "net.onnx"))


class Broken(Peer):
    """A peer that loads nothing."""

    name, label, modules, package, install = "broken", "Broken", ("numpy",), "numpy", "pip install broken"

    def _load(self, model, inputs, threads):
        raise RuntimeError("no such operator: MatMul\nand many lines more")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] if name == "iree" else []) for name in peers.TABLE])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_peer_computes_what_the_model_says(name, threads, model):
    if not peers.registry.get(name)().available():
        pytest.skip(f"{name} is not installed")
    loaded = peers.find(name).load(model, FEEDS, threads)
    expected = lc.evaluate(lc.import_model(model), {"x": FEEDS["x"]})
    assert list(loaded.outputs) == list(expected)
    for key, array in expected.items():
        np.testing.assert_allclose(loaded.outputs[key], array, rtol=1e-5, atol=1e-6)
    loaded()
    assert peers.find(name).version[0].isdigit()


def test_a_peer_that_is_missing_names_the_command_that_installs_it(monkeypatch):
    kind = peers.registry.get("openvino")
    monkeypatch.setattr(kind, "modules", ("no_such_module.inner",))
    assert not kind().available()
    with pytest.raises(MissingDependency, match="openvino is not installed\n  hint: pip install openvino"):
        peers.find("openvino")


def test_a_peer_that_cannot_load_says_why_in_a_line(model):
    with pytest.raises(
        PeerError, match=r"^net.onnx: broken cannot run the model: RuntimeError: no such operator: MatMul\n  hint: leave it out"
    ):
        Broken().load(model, FEEDS, 1)


def test_an_unknown_peer_is_a_wrong_request():
    with pytest.raises(UsageError, match="no peer called 'opnvino'\n  hint: did you mean 'openvino'"):
        peers.find("opnvino")


def test_loaded_runs_its_call():
    calls = []
    Loaded(lambda: calls.append(1), {})()
    assert calls == [1]
