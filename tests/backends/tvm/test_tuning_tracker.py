"""Tuning through TVM's RPC: a tracker and a board on this machine."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import lepton_compiler as lc
from lepton_compiler.tuning import this_cpu

pytest.importorskip("tornado", reason="TVM's RPC needs tornado")
pytest.importorskip("psutil", reason="TVM's RPC needs psutil")
pytest.importorskip("cloudpickle", reason="TVM's RPC needs cloudpickle")

KEY, PATIENCE = "board", 120.0
WEIGHTS = ", ".join(str((7 * k % 11 - 5) / 8) for k in range(40 * 24))
MODEL = f"""
graph @product(%x: float32[24,40]) {{
  %w = const float32[40,24] ({WEIGHTS})
  %m = MatMul()(%x, %w) : float32[24,24]
  %y = Relu()(%m) : float32[24,24]
  return %y
}}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def service(module: str, *args: str) -> Iterator[None]:
    """One of TVM's servers; it starts processes of its own, which end with it."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"tvm.exec.{module}", "--host", "127.0.0.1", *args],
        start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


def wait_for(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            pytest.skip(f"{what} did not start within {PATIENCE:.0f} seconds")
        time.sleep(0.3)


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True


def has_board(port: int) -> bool:
    from tvm import rpc

    tracker = rpc.connect_tracker("127.0.0.1", port)
    try:
        return bool(tracker.summary()["queue_info"].get(KEY, {}).get("free"))
    finally:
        tracker.close()


@pytest.fixture(scope="module")
def tracker() -> Iterator[int]:
    """The port of a tracker that has one board."""
    port, board = free_port(), free_port()
    with service("rpc_tracker", "--port", str(port), "--port-end", str(port + 1)):
        wait_for(lambda: listens(port), "the tracker")
        where = ["--port", str(board), "--port-end", str(board + 20), "--tracker", f"127.0.0.1:{port}", "--key", KEY]
        with service("rpc_server", *where):
            wait_for(lambda: has_board(port), "the board")
            yield port


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kernels_are_measured_on_a_board(tracker: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEPTON_CACHE", str(tmp_path / "cache"))
    source, database = tmp_path / "product.lir", tmp_path / "db.jsonl"
    source.write_text(MODEL)
    model = lc.compile(source, level=3, tune=100, tune_db=database, tune_tracker=f"127.0.0.1:{tracker},{KEY}", verify=True)
    rows = [json.loads(line) for line in database.read_text().splitlines()]
    assert rows and all(row["cpu"] == this_cpu() for row in rows)
    assert all(row["candidates"] > 0 for row in rows)
    again = lc.compile(source, level=3, tune_db=database)
    assert again.manifest.get("tuning") == model.manifest.get("tuning")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_tracker_without_such_a_board_is_named(tracker: int, tmp_path: Path) -> None:
    source = tmp_path / "product.lir"
    source.write_text(MODEL)
    with pytest.raises(
        lc.LeptonError, match=f"no board from the tracker at 127.0.0.1:{tracker}: .*no board with key 'other'; there are: board"
    ):
        lc.compile(source, tune=5, tune_db=tmp_path / "db.jsonl", tune_tracker=f"127.0.0.1:{tracker},other")
