"""A compiled library for a GPU, in this process: called on arrays of the host, or on tensors of the device, which are not copied."""

from __future__ import annotations

import contextlib
import ctypes
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lepton_compiler.errors import LeptonError, UsageError
from lepton_compiler.ir.types import dtype
from lepton_compiler.runtime.device_arrays import DeviceArray, device_arrays, is_on_device, leader
from lepton_compiler.runtime.device_tensor import finish
from lepton_compiler.runtime.library import checked_feeds, cut, loaded

HINTS = {
    6: "install a driver of NVIDIA, 580 or newer for kernels compiled by CUDA 13; nothing else is needed to run",
    7: "is a GPU installed, and visible (CUDA_VISIBLE_DEVICES)? compile with --target native to run on the processor",
    8: "compile with --target cuda:sm_NN for it, and run on all of its multiprocessors",
    9: "a smaller batch takes less; other processes may hold memory of the GPU",
}


class GpuLibrary:
    """`libNAME.so` for GPUs, with its manifest. A session on the device is opened at the first run; calls take turns.

    Args:
        path: the shared library.
        manifest: what `NAME.json` says.

    Raises:
        LeptonError: the library cannot be loaded.
    """

    def __init__(self, path: Path, manifest: Mapping[str, Any]) -> None:
        self.manifest = manifest
        name = manifest["name"]
        try:
            self.handle = ctypes.CDLL(str(path))
            self._run, self._open, self._close = (getattr(self.handle, f"{name}_{door}") for door in ("run_async", "open", "close"))
            self._message = getattr(self.handle, f"{name}_message")
        except (OSError, AttributeError) as error:
            raise LeptonError(f"cannot load {path.name}: {error}", hint="was it built for this machine's processor?") from error
        self._message.restype = ctypes.c_char_p
        self._open.argtypes = [ctypes.c_int, ctypes.POINTER(ctypes.c_void_p)]
        self._close.argtypes, self._close.restype = [ctypes.c_void_p], None
        self._run.argtypes = [ctypes.c_void_p] * 4
        self._wait = getattr(self.handle, f"{name}_run")
        self._wait.argtypes = [ctypes.c_void_p] * 3
        self._sessions: dict[int, tuple[ctypes.c_void_p, weakref.finalize]] = {}
        self._turn = threading.Lock()
        variants = manifest.get("sizes", {}).get("variants", [])
        self._sizes = {tuple(map(tuple, v["inputs"])): v["sizes"] for v in variants}

    @staticmethod
    def from_bytes(code: bytes, manifest: Mapping[str, Any]) -> GpuLibrary:
        """Load a library from memory; the file it needs is removed with the object."""
        return loaded(GpuLibrary, code, manifest)

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Run once.

        Args:
            feeds: per input name an array of the host, or a dense tensor of the device: torch's, cupy's, or anything with DLPack or a
                `__cuda_array_interface__`, as jax's.

        Returns:
            Output name to a fresh array: numpy arrays; or, where a feed is on the device, tensors there. Beside a feed of torch or cupy they
            are its library's, and complete when the current stream of that has come so far. Beside others they are of the class
            `DeviceTensor`, and complete: such a run waits.

        Raises:
            UsageError: feeds that do not fit the inputs, all problems at once.
            LeptonError: there is no GPU, or it cannot run the model; nothing runs on the processor instead.
        """
        on_device = {name: feed for name, feed in feeds.items() if is_on_device(feed)}
        if not on_device:
            return self._on_host(feeds)
        with contextlib.ExitStack() as until:
            return self._on_device(feeds, device_arrays(on_device, until))

    def _on_host(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        arrays = checked_feeds(self.manifest, feeds)
        outputs = [np.empty(row["shape"], dtype(row["dtype"]).numpy) for row in self.manifest["outputs"]]
        shapes = iter(self.call([a.ctypes.data for a in arrays], [a.shape for a in arrays], [o.ctypes.data for o in outputs]))
        return {
            row["name"]: cut(array, next(shapes)) if "dynamic" in row else array
            for row, array in zip(self.manifest["outputs"], outputs, strict=True)
        }

    def _on_device(self, feeds: Mapping[str, Any], located: Mapping[str, DeviceArray]) -> dict[str, Any]:
        devices = {array.device for array in located.values()}
        if len(devices) > 1:
            raise UsageError(f"the feeds are on {len(devices)} GPUs", hint="move them to one")
        host = {name: feed for name, feed in feeds.items() if name not in located}
        stand_ins = {name: array.stand_in() for name, array in located.items()}
        arrays = dict(
            zip((row["name"] for row in self.manifest["inputs"]), checked_feeds(self.manifest, {**host, **stand_ins}), strict=True)
        )
        addresses = [located[name].address if name in located else array.ctypes.data for name, array in arrays.items()]
        model, device = leader(located), devices.pop()
        outputs = [model.empty_like(tuple(row["shape"]), dtype(row["dtype"])) for row in self.manifest["outputs"]]
        for stream in {array.stream for array in located.values()} - {model.stream}:
            finish(device, stream)
        try:
            found = self.call(
                addresses, [a.shape for a in arrays.values()], [o.address for o in outputs], device, model.stream, waits=False
            )
        finally:
            if not all(array.in_order for array in located.values()):
                finish(device, model.stream)
        shapes = iter(found)
        return {
            row["name"]: output.cut(next(shapes)) if "dynamic" in row else output.tensor
            for row, output in zip(self.manifest["outputs"], outputs, strict=True)
        }

    def call(
        self,
        inputs: Sequence[int],
        shapes: Sequence[tuple[int, ...]],
        outputs: Sequence[int],
        device: int = 0,
        stream: int = 0,
        waits: bool = True,
    ) -> list[tuple[int, ...]]:
        """Run on addresses in the order of the manifest, without any check of theirs: the bare call, for benchmarks too.

        Gives the actual shapes of those outputs whose size data decides. Without `waits`, work goes into `stream` and may still be going on.
        """
        ranks = [len(row["shape"]) for row in self.manifest["outputs"] if "dynamic" in row]
        sizes = self._sizes[tuple(shapes)] if self._sizes else ()
        given = (ctypes.c_int64 * (max(1, len(inputs)) + len(sizes)))(*(inputs or [0]), *sizes)
        wanted = (ctypes.c_int64 * (max(1, len(outputs)) + sum(ranks)))(*(outputs or [0]))
        with self._turn:
            session = self.session(device)
            status = self._wait(given, wanted, session) if waits else self._run(given, wanted, session, stream)
            if status:
                raise self._failure(status)
        dims = iter(wanted[max(1, len(outputs)) :])
        return [tuple(next(dims) for _ in range(rank)) for rank in ranks]

    def bound(self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> Callable[[], None]:
        """A function without arguments that runs on these dense arrays of the host, each call from and into the same memory, for benchmarks."""
        given, shapes, wanted = [a.ctypes.data for a in inputs], [a.shape for a in inputs], [a.ctypes.data for a in outputs]

        def call(_kept: Sequence[np.ndarray] = (*inputs, *outputs)) -> None:
            self.call(given, shapes, wanted)

        return call

    def session(self, device: int = 0) -> ctypes.c_void_p:
        """The session on a GPU, opened at its first use."""
        if device not in self._sessions:
            session = ctypes.c_void_p()
            if status := self._open(device, ctypes.byref(session)):
                raise self._failure(status)
            self._sessions[device] = session, weakref.finalize(self, self._close, session)
        return self._sessions[device][0]

    def close(self) -> None:
        """Give back what the sessions hold on their GPUs; the next run opens a new one. Without it that happens when the library is collected."""
        with self._turn:
            for _, close in self._sessions.values():
                close()
            self._sessions.clear()

    def reset(self) -> None:
        """Set the states of a stateful model to what they are at first; nothing to do for others."""
        if not self.manifest.get("states"):
            return
        function = getattr(self.handle, f"{self.manifest['name']}_reset")
        function.argtypes = [ctypes.c_void_p]
        with self._turn:
            for session, _ in self._sessions.values():
                if status := function(session):
                    raise self._failure(status)

    def _failure(self, status: int) -> LeptonError:
        text = (self._message() or b"").decode(errors="replace")
        return LeptonError(text or f"{self.manifest['name']}_run returned {status}", hint=HINTS.get(status, ""))
