"""A compiled library in this process: loaded with ctypes, called on numpy arrays without copies."""

from __future__ import annotations

import ctypes
import functools
import math
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from lepton_compiler.errors import LeptonError, UsageError
from lepton_compiler.ir.types import dtype
from lepton_compiler.ops.evaluator import as_array

ARENA_ALIGNMENT = 64
STATUS = {
    1: "an argument or a tensor pointer is NULL",
    2: "the arena is not aligned",
    3: "the inputs led to a branch that cannot run on the shapes compiled for",
    4: "a dimension has a size that the artefact does not hold",
    5: "a size that the data decides is larger than it was bounded to",
}
"""What the results of `NAME_run` mean."""

Library = TypeVar("Library")


@dataclass(frozen=True)
class _Port:
    """An input or output of a manifest, ready to be compared and made.

    Attributes:
        name: in feeds and results.
        element: its numpy dtype.
        shape: that of its array.
        varies: whether feeds may have other shapes.
        dynamic: whether data decides how much of the array is the result.
    """

    name: str
    element: np.dtype
    shape: tuple[int, ...]
    varies: bool
    dynamic: bool

    @staticmethod
    def of(row: Mapping[str, Any]) -> _Port:
        """From a row of the manifest."""
        return _Port(row["name"], dtype(row["dtype"]).numpy, tuple(row["shape"]), "varies" in row, "dynamic" in row)

    def takes(self, feed: Any) -> bool:
        """Whether a feed is an array that needs no conversion and no further check."""
        return type(feed) is np.ndarray and feed.dtype == self.element and feed.shape == self.shape and feed.flags.c_contiguous


class NativeLibrary:
    """`libNAME.so` with its manifest. Calls from several threads are safe: each takes an arena of its own.

    A stateful model has one arena, which keeps its states from call to call.

    Args:
        path: the shared library.
        manifest: what `NAME.json` says: name, inputs, outputs, arena_bytes.

    Raises:
        LeptonError: the library cannot be loaded, for instance because it was built for another machine.
    """

    def __init__(self, path: Path, manifest: Mapping[str, Any]) -> None:
        self.manifest = manifest
        try:
            self.handle = ctypes.CDLL(str(path))
            self._run = getattr(self.handle, f"{manifest['name']}_run")
        except (OSError, AttributeError) as error:
            raise LeptonError(f"cannot load {path.name}: {error}", hint="was it built for this machine?") from error
        self._run.restype = ctypes.c_int
        self._run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
        self._reset = getattr(self.handle, f"{manifest['name']}_reset") if manifest.get("states") else None
        if self._reset is not None:
            self._reset.restype, self._reset.argtypes = ctypes.c_int, [ctypes.c_void_p]
        self._stream: np.ndarray | None = None
        self._turn = threading.Lock()
        self._arenas: list[np.ndarray] = []
        variants = manifest.get("sizes", {}).get("variants", [])
        self._sizes = {tuple(map(tuple, v["inputs"])): v["sizes"] for v in variants}
        self._inputs, self._outputs = ([_Port.of(row) for row in manifest[rows]] for rows in ("inputs", "outputs"))
        self._ranks = [len(port.shape) for port in self._outputs if port.dynamic]

    @staticmethod
    def from_bytes(code: bytes, manifest: Mapping[str, Any]) -> NativeLibrary:
        """Load a library from memory; the file it needs is removed with the object."""
        return loaded(NativeLibrary, code, manifest)

    def run(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Run once.

        Args:
            feeds: per input name an array, or anything with `__array__` or DLPack, of its dtype and shape.

        Returns:
            Output name to a fresh array, in the order of the outputs.

        Raises:
            UsageError: feeds that do not fit the inputs, all problems at once.
        """
        arrays = self._plain(feeds)
        if arrays is None:
            arrays = checked_feeds(self.manifest, feeds)
        outputs = [np.empty(port.shape, port.element) for port in self._outputs]
        shapes = iter(self.call(arrays, outputs))
        return {port.name: cut(array, next(shapes)) if port.dynamic else array for port, array in zip(self._outputs, outputs, strict=True)}

    def _plain(self, feeds: Mapping[str, Any]) -> list[np.ndarray] | None:
        """The feeds in the order of the inputs, where each is an array that fits as it is; None otherwise: `checked_feeds` converts or refuses."""
        if len(feeds) != len(self._inputs) or self._sizes:
            return None
        arrays = [feeds.get(port.name) for port in self._inputs]
        return arrays if all(port.takes(array) for port, array in zip(self._inputs, arrays, strict=True)) else None  # type: ignore[return-value]

    def call(self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], arena: np.ndarray | None = None) -> list[tuple[int, ...]]:
        """Run on dense arrays in the order of the manifest, without any check: the bare call, for benchmarks too.

        Gives the actual shapes of those outputs whose size data decides; they lie at the front of their arrays. An `arena` of the
        caller must have the bytes and the alignment that the manifest and `ARENA_ALIGNMENT` say.
        """
        if arena is None and self._reset is not None:
            with self._turn:
                return self.call(inputs, outputs, self._kept())
        memory = arena if arena is not None else self._arenas.pop() if self._arenas else self._new_arena()
        results = _struct(outputs, [0] * sum(self._ranks))
        try:
            sizes = self._sizes[tuple(a.shape for a in inputs)] if self._sizes else ()
            status = self._run(_struct(inputs, sizes), results, _address(memory))
        finally:
            if arena is None:
                self._arenas.append(memory)
        if status:
            raise self._failure(status)
        if not self._ranks:
            return []
        dims = iter(results[max(1, len(outputs)) :])
        return [tuple(next(dims) for _ in range(rank)) for rank in self._ranks]

    def bound(
        self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], caller: Callable[[Any, Any, Any, Any], int] | None = None
    ) -> Callable[[], None]:
        """A function without arguments that runs on these dense arrays, each call from and into the same memory, for benchmarks.

        The arrays are in the order of the manifest; each function has an arena of its own and must not run twice at the same time. A `caller`
        gets the artefact's function and its three arguments and gives what it returns, such as a loop in C.
        """
        memory = self._new_arena()
        sizes = self._sizes[tuple(a.shape for a in inputs)] if self._sizes else ()
        structs = _struct(inputs, sizes), _struct(outputs, [0] * sum(self._ranks))
        run = self._run if caller is None else functools.partial(caller, self._run)
        arena = ctypes.c_void_p(memory.ctypes.data)

        def call(_kept: Sequence[np.ndarray] = (*inputs, *outputs, memory)) -> None:
            if status := run(*structs, arena):
                raise self._failure(status)

        return call

    def reset(self) -> None:
        """Set the states of a stateful model to what they are at first; nothing to do for others."""
        with self._turn:
            self._stream = None

    def _kept(self) -> np.ndarray:
        """The arena that holds the states."""
        if self._stream is None:
            self._stream = self._new_arena()
        return self._stream

    def _new_arena(self) -> np.ndarray:
        raw = np.empty(max(self.manifest["arena_bytes"], ARENA_ALIGNMENT) + ARENA_ALIGNMENT, np.uint8)
        arena: np.ndarray = raw[-raw.ctypes.data % ARENA_ALIGNMENT :]
        if self._reset is not None and (status := self._reset(arena.ctypes.data)):
            raise self._failure(status)
        return arena

    def _failure(self, status: int) -> LeptonError:
        return LeptonError(f"{self.manifest['name']}_run returned {status}: {STATUS.get(status, 'an unknown error')}")


def loaded(make: Callable[[Path, Mapping[str, Any]], Library], code: bytes, manifest: Mapping[str, Any]) -> Library:
    """What `make` loads from a file with this code, which is removed with the object."""
    folder = tempfile.TemporaryDirectory(prefix="lepton-")
    path = Path(folder.name) / f"lib{manifest['name']}.so"
    path.write_bytes(code)
    library = make(path, manifest)
    weakref.finalize(library, folder.cleanup)
    return library


def checked_feeds(manifest: Mapping[str, Any], feeds: Mapping[str, Any]) -> list[np.ndarray]:
    """Dense arrays in the order of the inputs.

    Raises:
        UsageError: feeds that do not fit the inputs, all problems at once.
    """
    rows = manifest["inputs"]
    known = [row["name"] for row in rows]
    problems = [f"no input '{name}'; the model has {', '.join(known)}" for name in feeds if name not in known]
    problems += [f"input '{name}' is missing" for name in known if name not in feeds]
    arrays = []
    for row in rows:
        if row["name"] in feeds:
            array = as_array(feeds[row["name"]], dtype(row["dtype"]).numpy)
            shape = list(array.shape) if "varies" in row and array.ndim == len(row["shape"]) else row["shape"]
            if array.dtype != dtype(row["dtype"]).numpy or list(array.shape) != shape:
                problems.append(f"input '{row['name']}' is {row['dtype']}{row['shape']}, the feed is {array.dtype}{list(array.shape)}")
            arrays.append(array if array.flags.c_contiguous else np.ascontiguousarray(array))
    if problems:
        raise UsageError("; ".join(problems))
    variants = manifest.get("sizes", {}).get("variants", [])
    shapes = [list(a.shape) for a in arrays]
    if variants and shapes not in [v["inputs"] for v in variants]:
        raise UsageError(f"the feeds have shapes {', '.join(map(str, shapes))}", hint=_choices(manifest))
    return arrays


def _choices(manifest: Mapping[str, Any]) -> str:
    """What sizes there are."""
    known = manifest["sizes"]
    found = [", ".join(f"{d}={n}" for d, n in zip(known["dimensions"], v["sizes"], strict=True)) for v in known["variants"]]
    return f"the artefact was compiled for {'; '.join(found)}"


def _struct(arrays: Sequence[np.ndarray], sizes: Sequence[int] = ()) -> Any:
    """The struct of inputs or outputs: a pointer each, then sizes, all of 64 bits."""
    pointers = [_address(a) for a in arrays] or [0]
    return _longs(len(pointers) + len(sizes))(*pointers, *sizes)


@functools.cache
def _longs(count: int) -> type[ctypes.Array[ctypes.c_int64]]:
    """The C type of so many numbers of 64 bits."""
    return ctypes.c_int64 * count


def _address(array: np.ndarray) -> int:
    """Where an array lies: `array.ctypes.data`, in half of the time where it can be written."""
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))  # type: ignore[arg-type]
    except (TypeError, ValueError, BufferError):  # read-only, empty, or of elements that buffers do not know
        return int(array.ctypes.data)


def cut(buffer: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The first elements of a buffer, in a shape that they fill."""
    return buffer.reshape(-1)[: math.prod(shape)].reshape(shape)
