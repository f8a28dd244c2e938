"""Whole models on a GPU, timed in turns: their libraries as they are shipped, with tensors on the device."""

from __future__ import annotations

import ctypes
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lepton_compiler.cuda_driver import DeviceSession
from lepton_compiler.errors import LeptonError
from lepton_compiler.ir.types import dtype

FEWEST, MOST = 9, 201
"""Rounds of a measurement."""
SAMPLE_SECONDS = 1e-3
"""Time of the runs between two events, at least."""


class Model:
    """One artefact, with its session and tensors.

    Raises:
        LeptonError: it cannot be loaded or opened.
    """

    def __init__(self, session: DeviceSession, code: bytes, manifest: Mapping[str, Any], feeds: Mapping[str, np.ndarray]) -> None:
        name, self.session = manifest["name"], session
        with tempfile.TemporaryDirectory(prefix="lepton-tune-") as folder:
            path = Path(folder, "model.so")
            path.write_bytes(code)
            self.library = ctypes.CDLL(str(path))
        self.run_async, self.shut = getattr(self.library, f"{name}_run_async"), getattr(self.library, f"{name}_close")
        self.message = getattr(self.library, f"{name}_message")
        self.message.restype, self.shut.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
        self.run_async.argtypes = [ctypes.c_void_p] * 4
        self.handle = ctypes.c_void_p()
        self._check(getattr(self.library, f"{name}_open")(0, ctypes.byref(self.handle)))
        inputs = [self._place(np.ascontiguousarray(feeds[row["name"]])) for row in manifest["inputs"]]
        outputs = [session.allocate(math.prod(row["shape"]) * dtype(row["dtype"]).numpy.itemsize) for row in manifest["outputs"]]
        loose = sum(len(row["shape"]) for row in manifest["outputs"] if "dynamic" in row)
        self.places = [*inputs, *outputs]
        self.given = (ctypes.c_uint64 * max(1, len(inputs)))(*(inputs or [0]))
        self.wanted = (ctypes.c_uint64 * (max(1, len(outputs)) + loose))(*(outputs or [0]))
        self.run()
        session.synchronize()

    def run(self) -> None:
        """Run once, in the stream."""
        self._check(self.run_async(self.given, self.wanted, self.handle, self.session.stream))

    def close(self) -> None:
        """Give all memory back."""
        self.shut(self.handle)
        for address in self.places:
            self.session.free(address)

    def _place(self, array: np.ndarray) -> int:
        address = self.session.allocate(array.nbytes)
        self.session.upload(address, array)
        return address

    def _check(self, status: int) -> None:
        if status:
            raise LeptonError((self.message() or b"it cannot run").decode(errors="replace"))


def model_times(session: DeviceSession, models: Sequence[Model], seconds: float) -> np.ndarray:
    """Seconds `[rounds, model]` of a run, in turns, for about so many seconds."""
    begin, end = session.event(), session.event()

    def timed(model: Model, count: int) -> float:
        session.record(begin)
        for _ in range(count):
            model.run()
        session.record(end)
        return session.seconds(begin, end) / count

    once = max(timed(model, 3) for model in models)
    count = max(1, math.ceil(SAMPLE_SECONDS / max(once, 1e-7)))
    rounds = max(FEWEST, min(MOST, int(seconds / (len(models) * count * max(once, 1e-7)))))
    samples = np.zeros((rounds, len(models)))
    for r in range(rounds):
        for k in range(len(models)) if r % 2 == 0 else reversed(range(len(models))):
            samples[r, k] = timed(models[k], count)
    return samples
