"""Kernels from specs: compiled in worker processes, identical ones once, and kept in an on-disk cache by content."""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from lepton_compiler.backends.tvm import workers
from lepton_compiler.backends.tvm.launches import Launch
from lepton_compiler.backends.tvm.phases import Phase
from lepton_compiler.backends.tvm.spec import KernelSpec
from lepton_compiler.errors import Diagnostic, LeptonError, UnsupportedError
from lepton_compiler.ir.types import TensorType, tensor_type
from lepton_compiler.target import Target

CACHE_LINE = 64


@dataclass(frozen=True)
class PackedWeight:
    """How a weight operand is rearranged: name of the packing function and its arguments."""

    function: str
    arguments: tuple[int, ...]


@dataclass(frozen=True)
class KernelParameter:
    """One pointer parameter: `input`, `packed`, `table`, `workspace`, `scratch` or `output`, which one, the buffer's type, a table's contents.

    A workspace is shared by the threads that work on the kernel; of scratch memory each has its own.
    """

    kind: str
    index: int
    type: TensorType
    packed: PackedWeight | None = None
    table: bytes = b""

    @property
    def stride(self) -> int:
        """Bytes from one thread's memory to the next one's; 0 where all have the same."""
        return -(-self.type.nbytes // CACHE_LINE) * CACHE_LINE if self.kind == "scratch" else 0

    def to_json(self) -> list[Any]:
        """As a row of JSON."""
        packed = [self.packed.function, *self.packed.arguments] if self.packed else None
        return [self.kind, self.index, str(self.type), packed, self.table.hex()]

    @staticmethod
    def from_json(row: list[Any]) -> KernelParameter:
        """The inverse of `to_json`."""
        kind, index, text, packed, table = row
        weight = PackedWeight(packed[0], tuple(packed[1:])) if packed else None
        return KernelParameter(kind, index, tensor_type(text), weight, bytes.fromhex(table))


@dataclass(frozen=True)
class Kernel:
    """A compiled kernel.

    Attributes:
        symbol: its name.
        object: a relocatable object; for a GPU, or portable C, its text: chunks with empty lines between them.
        parameters: the pointers that it takes, in order.
        phases: what threads may share (`phase_symbols`).
        launches: for a GPU, what is started one after another.
        notes: what a user should know of it: why a part of it runs on one thread of a GPU.
    """

    symbol: str
    object: bytes
    parameters: tuple[KernelParameter, ...]
    phases: tuple[Phase, ...]
    launches: tuple[Launch, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Everything but the object."""
        phases = [[p.extent, p.nanoseconds] for p in self.phases]
        facts = {"symbol": self.symbol, "parameters": [p.to_json() for p in self.parameters], "phases": phases}
        if self.launches:
            facts |= {"launches": [launch.to_json() for launch in self.launches], "notes": list(self.notes)}
        return facts

    def tasks(self, threads: int) -> int:
        """How many of `threads` threads may work on it at the same time."""
        return max((phase.tasks(threads) for phase in self.phases), default=1)

    @staticmethod
    def from_json(data: dict[str, Any], code: bytes) -> Kernel:
        """The inverse of `to_json`."""
        rows = tuple(KernelParameter.from_json(row) for row in data["parameters"])
        launches = tuple(Launch.from_json(row) for row in data.get("launches", ()))
        return Kernel(data["symbol"], code, rows, tuple(Phase(*row) for row in data["phases"]), launches, tuple(data.get("notes", ())))


class KernelCache:
    """A folder of `KEY.json` and `KEY.o`, which several compilers can share: writes are atomic, and the one names the hash of the other."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def get(self, key: str) -> Kernel | None:
        """The kernel stored under `key`, if there is one and it can be read."""
        if self.folder is None:
            return None
        path = self.folder / key[:2] / key
        try:
            facts, code = json.loads(path.with_suffix(".json").read_text()), path.with_suffix(".o").read_bytes()
            return Kernel.from_json(facts, code) if facts["object_sha256"] == _digest(code) else None
        except (OSError, ValueError, KeyError, TypeError, LeptonError):
            return None

    def put(self, key: str, kernel: Kernel) -> None:
        """Store a kernel; a cache that cannot be written is no error."""
        if self.folder is None:
            return
        path = self.folder / key[:2] / key
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            _replace(path.with_suffix(".o"), kernel.object)
            facts = {**kernel.to_json(), "object_sha256": _digest(kernel.object)}
            _replace(path.with_suffix(".json"), json.dumps(facts).encode())


def _digest(code: bytes) -> str:
    return hashlib.sha256(code).hexdigest()


def _replace(path: Path, data: bytes) -> None:
    """Write a file that nobody ever sees in part; other users of the cache may read it as far as the umask lets them."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


Progress = Callable[[int, int, str], None]


def build_kernels(
    specs: Iterable[KernelSpec], target: Target, *, jobs: int, cache: KernelCache, progress: Progress | None = None
) -> dict[str, Kernel]:
    """Compile all specs for `target`; returns kernels by `spec.key(target)`.

    Args:
        specs: kernels, repetitions welcome.
        target: the machine.
        jobs: number of worker processes.
        cache: where compiled kernels are looked up and stored.
        progress: called with (done, total, label) as kernels get ready.

    Raises:
        UnsupportedError: kernels whose operators cannot be lowered, all of them.
        LeptonError: a worker process died.
    """
    wanted = {spec.key(target): spec for spec in specs}
    ready: dict[str, Kernel] = {}
    missing: list[tuple[str, KernelSpec]] = []
    for key, spec in wanted.items():
        hit = cache.get(key)
        if hit is None:
            missing.append((key, spec))
        else:
            ready[key] = hit
    if missing:
        missing.sort(key=lambda item: -sum(t.size for t in item[1].types))
        for key, kernel in _compile_all(missing, target, min(jobs, len(missing)), progress).items():
            cache.put(key, kernel)
            ready[key] = kernel
    return ready


def _compile_all(items: list[tuple[str, KernelSpec]], target: Target, jobs: int, progress: Progress | None) -> dict[str, Kernel]:
    pending: SimpleQueue[tuple[str, KernelSpec]] = SimpleQueue()
    for item in items:
        pending.put(item)
    done: dict[str, Kernel] = {}
    problems: list[Diagnostic] = []
    lock = threading.Lock()

    def serve() -> None:
        with workers.lend() as worker:
            while not pending.empty():
                try:
                    key, spec = pending.get_nowait()
                except Empty:
                    return
                answer = worker.ask((key, spec, target))
                with lock:
                    if isinstance(answer, Kernel):
                        done[key] = answer
                        if progress is not None:
                            progress(len(done), len(items), spec.label)
                    else:
                        problems.append(replace(answer, where=answer.where or _where(spec)))

    with ThreadPoolExecutor(jobs) as pool:
        for outcome in [pool.submit(serve) for _ in range(jobs)]:
            outcome.result()
    if problems:
        raise UnsupportedError(sorted(problems, key=str))
    return {key: done[key] for key, _ in items}


def _where(spec: KernelSpec) -> str:
    return f"kernel {spec.label} ({', '.join(str(t) for t in spec.types[: spec.inputs])})"
