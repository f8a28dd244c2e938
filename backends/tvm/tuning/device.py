"""The machine that measures, as the compiler sees it: a process with time limits, started anew after a crash."""

from __future__ import annotations

import importlib.util
import socket
from types import TracebackType
from typing import Any, Self

import numpy as np

from lepton_compiler.backends.tvm.tuning.process import MeasureError, MeasuringProcess
from lepton_compiler.errors import LeptonError, MissingDependency
from lepton_compiler.tuning import Tracker

CONNECT_SECONDS = 10.0
"""How long a tracker may take to answer."""
BOARD_SECONDS = 60.0
"""How long to wait for a board, and for its answers beyond the time of measuring."""


class Device:
    """This machine, or a board of a tracker; a context manager.

    Args:
        tracker: where boards are; None for this machine.
        seconds: how long a board may be held.
    """

    def __init__(self, tracker: Tracker | None, seconds: float) -> None:
        self.tracker, self.seconds = tracker, seconds
        self.process = MeasuringProcess("lepton_compiler.backends.tvm.tuning.runner")
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
        """See `MeasuringProcess.ask`; where the process ended, libraries must be loaded again."""
        if not self.process.is_open:
            self._start()
        try:
            return self.process.ask(limit, *message)
        finally:
            if not self.process.is_open:
                self.loaded.clear()

    def _start(self) -> None:
        where = (self.tracker.host, self.tracker.port, self.tracker.key) if self.tracker else None
        try:
            self.process.ask(BOARD_SECONDS, "open", where, self.seconds + BOARD_SECONDS)
        except MeasureError as error:
            reason = error.diagnostics[0].message
            raise LeptonError(
                f"no board from the tracker at {self.tracker}: {reason}", hint="python -m tvm.exec.query_rpc_tracker shows its boards"
            ) from error

    def _stop(self) -> None:
        self.process.stop()
        self.loaded.clear()


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
