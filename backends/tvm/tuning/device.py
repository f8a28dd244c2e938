"""The machine that measures, as the compiler sees it: a process with time limits, started anew after a crash."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import select
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

import lepton_compiler
from lepton_compiler.backends.tvm.workers import read_message, write_message
from lepton_compiler.errors import Diagnostic, LeptonError, MissingDependency
from lepton_compiler.tuning import Tracker

CONNECT_SECONDS = 10.0
"""How long a tracker may take to answer."""
BOARD_SECONDS = 60.0
"""How long to wait for a board, and for its answers beyond the time of measuring."""


class MeasureError(LeptonError):
    """What was to be measured crashed, hung or failed."""


class Device:
    """This machine, or a board of a tracker; a context manager.

    Args:
        tracker: where boards are; None for this machine.
        seconds: how long a board may be held.
    """

    def __init__(self, tracker: Tracker | None, seconds: float) -> None:
        self.tracker, self.seconds = tracker, seconds
        self.process: subprocess.Popen[bytes] | None = None
        self.loaded: set[str] = set()

    def __enter__(self) -> Self:
        if self.tracker is not None:
            check_tracker(self.tracker)
        self._start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()

    def load(self, name: str, code: bytes) -> None:
        """Load a library of `harness` under a name."""
        self._ask(BOARD_SECONDS, "load", name, code)
        self.loaded.add(name)

    def put(self, name: str, buffer: int, array: np.ndarray) -> None:
        """Fill a buffer of a library."""
        if array.nbytes:
            self._ask(BOARD_SECONDS, "put", name, buffer, np.ascontiguousarray(array).tobytes())

    def get(self, name: str, buffer: int, size: int) -> bytes:
        """The first bytes of a buffer of a library."""
        return bytes(self._ask(BOARD_SECONDS, "get", name, buffer, size))

    def run(self, names: list[str], rounds: int, shape: tuple[int, int], active: int, limit: float) -> np.ndarray:
        """Seconds `[rounds, library, contender, part]`, in turns, each library with `shape` contenders and parts; at most `limit` seconds."""
        return np.asarray(self._ask(limit + (BOARD_SECONDS if self.tracker else 0.0), "run", names, rounds, shape, active))

    def cpu(self, name: str) -> str:
        """The processor, as a loaded library sees it."""
        return str(self._ask(BOARD_SECONDS, "cpu", name))

    def _ask(self, limit: float, *message: Any) -> Any:
        """A request and its answer.

        Raises:
            MeasureError: the request failed, the process died, or there was no answer in time; the process ends, and libraries must be loaded again.
        """
        if self.process is None:
            self._start()
        assert self.process is not None and self.process.stdin is not None and self.process.stdout is not None
        write_message(self.process.stdin, message)
        if not select.select([self.process.stdout], [], [], limit)[0]:
            self._stop()
            raise MeasureError(f"no answer within {limit:.0f} seconds")
        answer = read_message(self.process.stdout)
        if not isinstance(answer, tuple):
            self._stop()
            raise MeasureError([answer] if isinstance(answer, Diagnostic) else "the measuring process died")
        return answer[0]

    def _start(self) -> None:
        root = str(Path(lepton_compiler.__file__).resolve().parents[1])
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([p for p in (*sys.path, root) if p])}
        command = [sys.executable, "-P", "-m", "lepton_compiler.backends.tvm.tuning.runner"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        where = (self.tracker.host, self.tracker.port, self.tracker.key) if self.tracker else None
        try:
            self._ask(BOARD_SECONDS, "open", where, self.seconds + BOARD_SECONDS)
        except MeasureError as error:
            reason = error.diagnostics[0].message
            raise LeptonError(
                f"no board from the tracker at {self.tracker}: {reason}", hint="python -m tvm.exec.query_rpc_tracker shows its boards"
            ) from error

    def _stop(self) -> None:
        process, self.process = self.process, None
        self.loaded.clear()
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()


def check_tracker(tracker: Tracker) -> None:
    """Refuse a tracker that cannot be reached.

    Raises:
        MissingDependency: TVM's RPC needs packages that are not there.
        LeptonError: nobody answers at its address.
    """
    missing = [name for name in ("tornado", "psutil", "cloudpickle") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependency(f"TVM's RPC needs {', '.join(missing)}", hint="pip install 'lepton-compiler[tune]'")
    try:
        socket.create_connection((tracker.host, tracker.port), CONNECT_SECONDS).close()
    except OSError as error:
        raise LeptonError(
            f"no tracker answers at {tracker}: {error.strerror or error}", hint="start one: python -m tvm.exec.rpc_tracker --port 9190"
        ) from error
