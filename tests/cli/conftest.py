from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lepton_compiler.cli import lepton, leptonc

TINY = """
graph @tiny(%x: float32[{n},4]) {{
  %w = const float32[4,3] (1.0, 0.0, -1.0, 0.5, 0.5, 0.5, -1.0, 2.0, 0.25, 0.0, 1.0, 0.0)
  %m = MatMul()(%x, %w) : float32[{n},3]
  %a = Relu()(%m) : float32[{n},3]
  %b = Relu()(%a) : float32[{n},3]
  %y = Softmax(axis=1)(%b) : float32[{n},3]
  return %y
}}
"""


class Finished:
    """What a command left behind: exit status, stdout, stderr."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        assert self.out.count("\n") == 1, self.out
        value: dict[str, Any] = json.loads(self.out)
        return value


Run = Callable[..., Finished]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled kernels that the tests of one worker share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, cache: Path) -> Run:
    """Runs `leptonc` or `lepton` in this process."""
    monkeypatch.setenv("LEPTON_CACHE", str(cache))

    def run(prog: str, *args: object) -> Finished:
        main = {"leptonc": leptonc.main, "lepton": lepton.main}[prog]
        capsys.readouterr()
        try:
            status = main([str(a) for a in args])
        except SystemExit as left:
            status = int(left.code or 0)
        done = capsys.readouterr()
        return Finished(status, done.out, done.err)

    return run


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A model of four nodes with static shapes."""
    path = tmp_path / "tiny.lir"
    path.write_text(TINY.format(n=1))
    return path


@pytest.fixture
def unbound(tmp_path: Path) -> Path:
    """The same with a symbolic batch size."""
    path = tmp_path / "unbound.lir"
    path.write_text(TINY.format(n="batch"))
    return path


@pytest.fixture
def tiny_onnx(unbound: Path, tmp_path: Path) -> Path:
    """The same as an ONNX file."""
    import lepton_compiler as lc

    return lc.emit(lc.import_model(unbound), tmp_path / "tiny.onnx")
