"""The measuring process: libraries come in on standard input, seconds go out on standard output.

It runs them itself, or hands them to a board that it got from TVM's RPC tracker. A library that crashes or hangs ends this process
and not the compiler.
"""

from __future__ import annotations

import _ctypes
import ctypes
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lepton_compiler.backends.tvm.tuning.process import serve

CPU_TEXT = 1024
"""Bytes for the name of a processor."""


class Library(Protocol):
    """A loaded library: the functions of `harness`; each returns 0 where all is well."""

    def put(self, buffer: int, data: np.ndarray) -> int:
        """Fill a buffer with bytes."""

    def get(self, buffer: int, data: np.ndarray) -> int:
        """Read a buffer's first bytes."""

    def run(self, samples: np.ndarray, rounds: int, active: int) -> int:
        """Measure."""

    def cpu(self, text: np.ndarray) -> int:
        """Name the processor."""

    def close(self) -> None:
        """Free the buffers, and the library where that can be."""


class LocalLibrary:
    """In this process."""

    def __init__(self, path: Path) -> None:
        self.handle = ctypes.CDLL(str(path))

    def put(self, buffer: int, data: np.ndarray) -> int:
        """Fill a buffer with bytes."""
        return int(self.handle.lepton_tune_put(ctypes.c_int64(buffer), ctypes.c_void_p(data.ctypes.data), ctypes.c_int64(data.nbytes)))

    def get(self, buffer: int, data: np.ndarray) -> int:
        """Read a buffer's first bytes."""
        return int(self.handle.lepton_tune_get(ctypes.c_int64(buffer), ctypes.c_void_p(data.ctypes.data), ctypes.c_int64(data.nbytes)))

    def run(self, samples: np.ndarray, rounds: int, active: int) -> int:
        """Measure."""
        return int(self.handle.lepton_tune_run(ctypes.c_void_p(samples.ctypes.data), ctypes.c_int64(rounds), ctypes.c_int64(active)))

    def cpu(self, text: np.ndarray) -> int:
        """Name the processor."""
        return int(self.handle.lepton_tune_cpu(ctypes.c_void_p(text.ctypes.data), ctypes.c_int64(text.nbytes)))

    def close(self) -> None:
        """Free the buffers and the library."""
        self.handle.lepton_tune_free()
        _ctypes.dlclose(self.handle._handle)


class RemoteLibrary:
    """On a board, through a session of TVM's RPC."""

    def __init__(self, session: Any, path: Path) -> None:
        session.upload(str(path))
        self.session, self.module = session, session.load_module(path.name)

    def _tensor(self, array: np.ndarray) -> Any:
        import tvm

        return tvm.runtime.empty(array.shape, str(array.dtype), self.session.cpu(0))

    def put(self, buffer: int, data: np.ndarray) -> int:
        """Fill a buffer with bytes."""
        tensor = self._tensor(data)
        tensor.copyfrom(data)
        return int(self.module["lepton_tune_put"](buffer, tensor, data.nbytes))

    def get(self, buffer: int, data: np.ndarray) -> int:
        """Read a buffer's first bytes."""
        return self._filled(data, lambda tensor: self.module["lepton_tune_get"](buffer, tensor, data.nbytes))

    def run(self, samples: np.ndarray, rounds: int, active: int) -> int:
        """Measure."""
        return self._filled(samples, lambda tensor: self.module["lepton_tune_run"](tensor, rounds, active))

    def cpu(self, text: np.ndarray) -> int:
        """Name the processor."""
        return self._filled(text, lambda tensor: self.module["lepton_tune_cpu"](tensor, text.nbytes))

    def close(self) -> None:
        """Free the buffers; the server keeps the library as long as the session."""
        self.module["lepton_tune_free"]()

    def _filled(self, array: np.ndarray, call: Any) -> int:
        tensor = self._tensor(array)
        tensor.copyfrom(array)
        status = int(call(tensor))
        array[...] = tensor.numpy()
        return status


class Runner:
    """Answers requests: `load`, `put`, `get`, `run`, `cpu`."""

    def __init__(self, session: Any) -> None:
        self.session, self.libraries, self.count = session, dict[str, Library](), 0
        self.folder = tempfile.TemporaryDirectory(prefix="lepton-tune-")

    def load(self, name: str, code: bytes) -> None:
        """Load a library; another one of this name is given up."""
        if name in self.libraries:
            self.libraries.pop(name).close()
        self.count += 1
        path = Path(self.folder.name) / f"measured{self.count}.so"
        path.write_bytes(code)
        self.libraries[name] = LocalLibrary(path) if self.session is None else RemoteLibrary(self.session, path)

    def put(self, name: str, buffer: int, data: bytes) -> None:
        """Fill a buffer."""
        _check(self.libraries[name].put(buffer, np.frombuffer(data, np.uint8)))

    def get(self, name: str, buffer: int, size: int) -> bytes:
        """The first bytes of a buffer."""
        data = np.zeros(size, np.uint8)
        _check(self.libraries[name].get(buffer, data))
        return data.tobytes()

    def run(self, names: list[str], rounds: int, shape: tuple[int, int], active: int) -> np.ndarray:
        """Seconds `[rounds, library, contender, part]`; several libraries take turns."""
        if len(names) == 1:
            samples = np.zeros((rounds, *shape))
            _check(self.libraries[names[0]].run(samples, rounds, active))
            return samples[:, None]
        result = np.zeros((rounds, len(names), *shape))
        for r in range(rounds):
            for k in range(len(names)) if r % 2 == 0 else reversed(range(len(names))):
                once = np.zeros((1, *shape))
                _check(self.libraries[names[k]].run(once, 1, active))
                result[r, k] = once[0]
        return result

    def cpu(self, name: str) -> str:
        """The processor, as a library sees it."""
        text = np.zeros(CPU_TEXT, np.uint8)
        _check(self.libraries[name].cpu(text))
        return text.tobytes().split(b"\0")[0].decode(errors="replace")


def _check(status: int) -> None:
    if status != 0:
        raise RuntimeError(f"the measured code returned {status}")


def connect(tracker: tuple[str, int, str], seconds: float) -> Any:
    """A session with a free board of the tracker.

    Raises:
        RuntimeError: there is no board with this key.
    """
    from tvm import rpc

    host, port, key = tracker
    client = rpc.connect_tracker(host, port)
    keys = {row["key"].partition(":")[2] for row in client.summary()["server_info"]}
    if key not in keys:
        raise RuntimeError(f"it has no board with key '{key}'; there are: {', '.join(sorted(keys)) or 'none'}")
    return client.request(key, session_timeout=seconds, max_retry=1)


def main() -> None:
    """Serve until standard input ends; the first request opens a session, on this machine or on a board."""
    made: list[Runner] = []

    def answer(request: str, arguments: Sequence[Any]) -> Any:
        if request == "open":
            tracker, seconds = arguments
            made[:] = [Runner(None if tracker is None else connect(tracker, seconds))]
            return None
        return getattr(made[0], request)(*arguments)

    serve(answer)


if __name__ == "__main__":
    main()
