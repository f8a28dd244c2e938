"""Compiler processes. They load TVM once and stay for the next build; none outlives this process."""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import select
import struct
import threading
from collections.abc import Iterator
from typing import IO, Any

from lepton_compiler.backends.tvm.child import Child
from lepton_compiler.errors import Diagnostic

KERNEL_SECONDS = 300
"""A kernel that takes longer is given up: no hang, but a diagnostic."""

_idle: list[Worker] = []
_lock = threading.Lock()


class Worker(Child):
    """A process that compiles one kernel at a time; started again after it died or was stopped."""

    def __init__(self) -> None:
        super().__init__("lepton_compiler.backends.tvm.worker")

    def ask(self, message: object) -> Any:
        """Send a request; returns the answer, or a Diagnostic where the process died or took too long."""
        process = self.process if self.process is not None and self.process.poll() is None else self.start()
        assert process.stdin is not None and process.stdout is not None
        write_message(process.stdin, message)
        if not select.select([process.stdout], [], [], KERNEL_SECONDS)[0]:
            self.stop()
            return Diagnostic(
                f"TVM did not compile it within {KERNEL_SECONDS} seconds",
                hint="report the model; --passes without fuse makes smaller kernels",
            )
        answer = read_message(process.stdout)
        if answer is None:
            self.stop()
            return Diagnostic("the compiler process died", hint="it may have run out of memory: try --jobs 1")
        return answer


@contextlib.contextmanager
def lend() -> Iterator[Worker]:
    """A worker for as long as the block runs."""
    with _lock:
        worker = _idle.pop() if _idle else Worker()
    try:
        yield worker
    finally:
        with _lock:
            _idle.append(worker)


@atexit.register
def _stop_all() -> None:
    for worker in _idle:
        worker.stop()


def _forget() -> None:
    """A forked child shares no process with its parent."""
    _idle.clear()


os.register_at_fork(after_in_child=_forget)


def write_message(pipe: IO[bytes], message: object) -> None:
    """Send one pickled object, preceded by its length."""
    data = pickle.dumps(message)
    with contextlib.suppress(BrokenPipeError):
        pipe.write(struct.pack("<Q", len(data)) + data)
        pipe.flush()


def read_message(pipe: IO[bytes]) -> Any:
    """Receive one object, or None at the end of the stream."""
    head = pipe.read(8)
    if len(head) < 8:
        return None
    (size,) = struct.unpack("<Q", head)
    data = pipe.read(size)
    return pickle.loads(data) if len(data) == size else None
