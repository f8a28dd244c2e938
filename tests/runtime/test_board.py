"""The emulated board: counts that agree with the other emulator, errors that say what happened, states, missing tools."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.ir.text import parse_graph
from lepton_compiler.runtime import emulator
from lepton_compiler.runtime.emulator import Emulation, board
from lepton_compiler.runtime.emulator.machine import Call
from lepton_compiler.runtime.library import checked_feeds
from lepton_compiler.runtime.model import CompiledModel
from lepton_compiler.target import parse_target, target_of

pytestmark = [
    pytest.mark.skipif(shutil.which(board.EMULATOR) is None, reason=f"{board.EMULATOR} is not installed"),
    *(
        pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"{module} is not installed")
        for module in ("elftools", "ziglang")
    ),
]

TEXT = """\
graph @net(%x: float32[4,12]) {
  %w = const float32[12] (0.5, -1.0, 2.0, 0.25, -0.125, 1.5, 3.0, 1.0, -2.0, 0.75, 4.0, -0.5)
  %m = Mul()(%x, %w) : float32[4,12]
  %s = Sigmoid()(%m) : float32[4,12]
  %t = ReduceMean(axes=(1,))(%s) : float32[4,1]
  %z = Softmax(axis=0)(%t) : float32[4,1]
  return %s, %z
}
"""


def on_board(model: CompiledModel, target: str) -> tuple[board.Board, Emulation]:
    artifact, machine = model.artifact, parse_target(target)
    assert artifact is not None
    made = board.Board(artifact.files, artifact.manifest["name"], [row["symbol"] for row in artifact.manifest["calls"]], False, machine)
    return made, Emulation(made, artifact.manifest, machine)


def feeds() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).uniform(-3, 3, (4, 12)).astype(np.float32)}


def test_it_counts_as_the_other_emulator_does() -> None:
    pytest.importorskip("unicorn")
    model = lc.compile(parse_graph(TEXT), "cortex-m33", 2)
    _, emulation = on_board(model, "cortex-m33")
    expected, known = model.emulate(feeds())
    outputs, stats = emulation.run(checked_feeds(model.manifest, feeds()))
    assert all(np.array_equal(outputs[name], expected[name]) for name in expected)
    assert known.instructions is not None and stats.instructions is not None
    assert abs(stats.instructions - known.instructions) <= 2
    assert [c.symbol for c in stats.calls] == [c.symbol for c in known.calls]
    assert all(abs(a.instructions - b.instructions) <= 2 for a, b in zip(stats.calls, known.calls, strict=True))
    assert stats.peak_stack_bytes == known.peak_stack_bytes
    again, uncounted = emulation.run(checked_feeds(model.manifest, feeds()), count=False)
    assert uncounted.instructions is None and not uncounted.calls
    assert all(np.array_equal(again[name], expected[name]) for name in expected)


def test_failures_say_what_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lc.compile(parse_graph(TEXT), "cortex-m55", 0)
    made, emulation = on_board(model, "cortex-m55")
    done = made.run(bytes(64), [Call("run", (0, 0, 0))], True)
    assert (done.status, done.function) == (1, "run")
    with pytest.raises(lc.LeptonError, match=r"net_run failed on the board: fault 0x"):
        made.run(bytes(64), [Call("run", (0x3F00_0000, 0x3F00_0000, board.HEAP))], False)
    monkeypatch.setattr(board, "TIMEOUT", 0.001)
    with pytest.raises(lc.LeptonError, match=r"took longer than 0\.001 seconds"):
        emulation.run(checked_feeds(model.manifest, feeds()))
    monkeypatch.undo()
    monkeypatch.setattr(board, "BOARD", "no-such-board")
    with pytest.raises(lc.LeptonError, match=r"failed while it ran net: .*no-such-board|unsupported machine type"):
        emulation.run(checked_feeds(model.manifest, feeds()))


def test_states_are_kept_from_run_to_run() -> None:
    text = "graph @net(%x: float32[4], %s: float32[4]) {\n  %t = Add()(%x, %s) : float32[4]\n  %y = Exp()(%t) : float32[4]\n  return %y, %t\n}\n"
    model = lc.compile(parse_graph(text), "cortex-m55", 2, states={"t": "s"})
    x = np.arange(4, dtype=np.float32) / 8
    for turn in range(3):
        outputs, stats = model.emulate({"x": x})
        np.testing.assert_allclose(outputs["y"], np.exp(x * (turn + 1)), rtol=1e-6)
        assert stats.instructions is not None and stats.instructions > 0
    model.reset()
    np.testing.assert_allclose(model.emulate({"x": x})[0]["y"], np.exp(x), rtol=1e-6)


class Process:
    """A process of this machine: name and parent, as Linux tells them; nothing where it has ended meanwhile."""

    def __init__(self, folder: Path) -> None:
        try:
            text = (folder / "stat").read_text()
        except OSError:
            text = "0 () S 0"
        self.comm = text[text.index("(") + 1 : text.rindex(")")]
        self.parent = int(text[text.rindex(")") + 1 :].split()[1])


def test_no_process_and_no_file_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model = lc.compile(parse_graph(TEXT), "cortex-m55", 0)
    model.emulate(feeds())
    assert list(tmp_path.iterdir()) == []
    children = [p.comm for p in map(Process, Path("/proc").glob("[0-9]*")) if p.parent == os.getpid()]
    assert not any(board.EMULATOR.startswith(name) for name in children)


def test_a_missing_emulator_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(lc.MissingDependency, match=r"qemu-system-arm, which is not installed") as caught:
        emulator.check_installed(parse_target("cortex-m55"))
    assert "apt-get install qemu-system-arm" in str(caught.value) and "cortex-m55,-mve" in str(caught.value)
    emulator.check_installed(parse_target("cortex-m55,-mve")) if importlib.util.find_spec("unicorn") else None


@pytest.mark.parametrize("offset", [0, 4, -4, 0x1234, -0x1234, 0xFFFFFE, -0x1000000, 0x400000, -0x400000])
@pytest.mark.parametrize("link", [True, False])
def test_branches_are_written_as_they_are_read(offset: int, link: bool) -> None:
    at = 0x6000_0000
    assert board._branched(board._branch(at, at + 4 + offset, link), at) == (at + 4 + offset, link)
    assert board._branched(bytes.fromhex("00f00080"), at) is None  # a conditional branch


def test_a_manifest_tells_whether_there_are_vectors() -> None:
    for name in ("cortex-m55", "cortex-m55,-mve"):
        target = parse_target(name)
        row = {"name": target.name, "cpu": target.cpu, "features": list(target.features)}
        assert target_of({"target": row}) == target
    assert parse_target("cortex-m55").has_helium and parse_target("cortex-m55").lanes(8) == 16
    for name in ("cortex-m55,-mve", "cortex-m55,-mve.fp", "cortex-m33"):
        assert not parse_target(name).has_helium and parse_target(name).lanes(8) == 1
