"""One artefact in the emulator: memory, calls, counts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_compiler.errors import LeptonError
from lepton_compiler.ir.types import dtype
from lepton_compiler.runtime.emulator import clib, image
from lepton_compiler.runtime.emulator.cores import Core, make_core
from lepton_compiler.runtime.emulator.counting import Counter
from lepton_compiler.runtime.library import ARENA_ALIGNMENT, STATUS
from lepton_compiler.target import Target

STOP, STUBS, CODE = 0x1000, 0x2000, 0x0010_0000
"""Addresses: where a call returns to, the functions of the C library, the artefact."""
STACK_TOP = {"linux": 0x7000_0000, "none": 0x3000_0000}
STACK_BYTES = {"linux": 8 << 20, "none": 1 << 20}
PAINT = 0xA5
"""What untouched stack is filled with."""
STUB_BYTES = 16
PAGE = 0x1000


@dataclass(frozen=True)
class CallCount:
    """Instructions of one kernel call, those of the functions that it calls included."""

    symbol: str
    instructions: int


@dataclass(frozen=True)
class Stats:
    """What a run took.

    Attributes:
        instructions: executed, without those of the C library; None where they were not counted.
        peak_stack_bytes: the deepest use of the stack.
        calls: instructions of each kernel call, in order of execution; what the program does between them counts to the call before.
    """

    instructions: int | None
    peak_stack_bytes: int
    calls: tuple[CallCount, ...] = ()


class Emulation:
    """A loaded artefact.

    Args:
        code: a shared library, or a static program that has no other parts.
        manifest: what `NAME.json` says.
        target: the machine it was built for.

    Raises:
        UnsupportedError: the emulator cannot run such code.
    """

    def __init__(self, code: bytes, manifest: Mapping[str, Any], target: Target) -> None:
        self.manifest, self.target = manifest, target
        self.core: Core = make_core(target)
        wanted = image.imports(code) if target.system == "linux" else []
        self.functions = {STUBS + STUB_BYTES * k: clib.function(name) for k, name in enumerate(wanted)}
        known = {name: address | self.core.thumb for address, name in zip(self.functions, wanted, strict=True)}
        self.image = image.load(code, CODE, known)
        self._map(self.image.base, self.image.memory)
        self._map(STOP, self.core.returns)
        self._map(STUBS, b"".join(self.core.returns.ljust(STUB_BYTES, b"\0") for _ in self.functions) or bytes(STUB_BYTES))
        top, size = STACK_TOP[target.system], STACK_BYTES[target.system]
        self.core.engine.mem_map(top - size, size)
        self.heap = 0x2000_0000 if target.is_firmware else 0x8000_0000
        self._hook_functions()
        self._is_reset = False

    def reset(self) -> None:
        """Let a stateful model begin anew at the next run."""
        self._is_reset = False

    def run(self, feeds: Sequence[np.ndarray], count: bool = True) -> tuple[dict[str, np.ndarray], Stats]:
        """Run once.

        Args:
            feeds: dense arrays in the order of the manifest.
            count: whether to count instructions, which takes some of the time.

        Raises:
            LeptonError: the code failed: a bad address, an unknown instruction, or an error of its own.
        """
        rows = self.manifest["outputs"]
        outputs = [np.zeros(row["shape"], dtype(row["dtype"]).numpy) for row in rows]
        arena = bytes([0xCD]) * max(self.manifest["arena_bytes"], ARENA_ALIGNMENT)
        blocks = [a.tobytes() for a in feeds] + [a.tobytes() for a in outputs] + [arena]
        ranks = [len(row["shape"]) for row in rows if "dynamic" in row]
        places, end = self._places(blocks)
        inputs = self._struct(places[: len(feeds)], self._sizes(feeds))
        results = self._struct(places[len(feeds) : -1], [0] * sum(ranks))
        (at_inputs, at_results), end = self._places([inputs, results], end)
        self._allocate(end)
        stateful = bool(self.manifest.get("states"))
        for place, data in zip([*places, at_inputs, at_results], [*blocks, inputs, results], strict=True):
            if not (stateful and self._is_reset and place == places[-1]):
                self.core.engine.mem_write(place, data)
        if stateful and not self._is_reset:
            self._call("reset", [places[-1]], False)
            self._check_status("reset")
            self._is_reset = True
        stats = self._call("run", [at_inputs, at_results, places[-1]], count)
        self._check_status("run")
        shapes = self._shapes(at_results, len(results), ranks)
        found = {}
        for row, array, place in zip(rows, outputs, places[len(feeds) : -1], strict=True):
            data = bytes(self.core.engine.mem_read(place, array.nbytes)) if array.nbytes else b""
            whole = np.frombuffer(data, array.dtype).reshape(array.shape)
            shape = next(shapes) if "dynamic" in row else array.shape
            found[row["name"]] = whole.reshape(-1)[: math.prod(shape)].reshape(shape).copy()
        return found, stats

    def _call(self, function: str, arguments: Sequence[int], count: bool) -> Stats:
        import unicorn

        core, engine = self.core, self.core.engine
        name = f"{self.manifest['name']}_{function}"
        top, size = STACK_TOP[self.target.system], STACK_BYTES[self.target.system]
        engine.mem_write(top - size, bytes([PAINT]) * size)
        for register, value in zip(core.arguments, arguments, strict=False):
            engine.reg_write(register, value)
        engine.reg_write(core.stack, top - 64)
        engine.reg_write(core.link, STOP | core.thumb)
        counter = self._counter() if count else None
        try:
            with nullcontext() if counter is None else counter.attached(engine):
                engine.emu_start(self.image.symbols[name] | core.thumb, STOP)
        except unicorn.UcError as error:
            raise LeptonError(f"{name} failed in the emulator: {error}", where=self._where()) from error
        used = bytes(engine.mem_read(top - size, size - 64))
        deep = len(used) - (len(used) - len(used.lstrip(bytes([PAINT]))))
        if counter is None:
            return Stats(None, deep)
        calls = counter.take()
        return Stats(sum(n for _, n in calls), deep, tuple(CallCount(symbol, n) for symbol, n in calls if symbol))

    def _counter(self) -> Counter:
        """Counts by kernel call; all phases of a kernel belong to the call of the first."""
        kernels = {row["symbol"] for row in self.manifest.get("calls", [])}
        found = {name.removesuffix("_0") if name not in kernels else name: address for name, address in self.image.symbols.items()}
        return Counter(self.image, self.target.arch, {found[name] & ~self.core.thumb: name for name in kernels & found.keys()})

    def _check_status(self, function: str) -> None:
        status = self.core.engine.reg_read(self.core.result) & 0xFFFFFFFF
        if status:
            raise LeptonError(f"{self.manifest['name']}_{function} returned {status}: {STATUS.get(status, 'an unknown error')}")

    def _where(self) -> str:
        """The function that was running."""
        import unicorn.arm64_const as a64
        import unicorn.arm_const as a32
        import unicorn.riscv_const as rv

        register = {"aarch64": a64.UC_ARM64_REG_PC, "riscv64": rv.UC_RISCV_REG_PC}.get(self.target.arch, a32.UC_ARM_REG_PC)
        at = self.core.engine.reg_read(register)
        below = [(address, name) for name, address in self.image.symbols.items() if address <= at]
        return f"{max(below)[1]} at {at:#x}" if below else f"{at:#x}"

    def _sizes(self, feeds: Sequence[np.ndarray]) -> Sequence[int]:
        """The values of the dimension members of the input struct."""
        variants = self.manifest.get("sizes", {}).get("variants", [])
        shapes = [list(a.shape) for a in feeds]
        return next((v["sizes"] for v in variants if v["inputs"] == shapes), [])

    def _shapes(self, at: int, size: int, ranks: Sequence[int]) -> Any:
        data = bytes(self.core.engine.mem_read(at, size))[size - 8 * sum(ranks) :]
        numbers = iter(np.frombuffer(data, np.int64).tolist())
        return iter([tuple(next(numbers) for _ in range(rank)) for rank in ranks])

    def _struct(self, pointers: Sequence[int], sizes: Sequence[int]) -> bytes:
        """Pointers, then 64-bit numbers, which are aligned."""
        width = self.target.pointer_bits // 8
        data = b"".join(p.to_bytes(width, "little") for p in (pointers or [self.heap]))
        data += bytes(-len(data) % 8) if sizes else b""
        return data + b"".join(n.to_bytes(8, "little", signed=True) for n in sizes)

    def _places(self, blocks: Sequence[bytes], at: int | None = None) -> tuple[list[int], int]:
        """Aligned addresses for some blocks, one after another, and the end."""
        places, at = [], self.heap if at is None else at
        for data in blocks:
            places.append(at)
            at += -(-max(len(data), 1) // ARENA_ALIGNMENT) * ARENA_ALIGNMENT
        return places, at

    def _allocate(self, end: int) -> None:
        """Map the heap up to `end`, unless it is there already."""
        regions = [r for r in self.core.engine.mem_regions() if r[0] == self.heap]
        size = -(-(end - self.heap) // PAGE) * PAGE
        if regions and regions[0][1] + 1 - self.heap < size:
            self.core.engine.mem_unmap(self.heap, regions[0][1] + 1 - self.heap)
            regions = []
        if not regions:
            self.core.engine.mem_map(self.heap, size)

    def _map(self, base: int, data: bytes) -> None:
        self.core.engine.mem_map(base & ~(PAGE - 1), -(-(len(data) + base % PAGE) // PAGE) * PAGE)
        self.core.engine.mem_write(base, data)

    def _hook_functions(self) -> None:
        import unicorn

        if not self.functions:
            return

        def called(engine: Any, address: int, size: int, data: Any) -> None:
            if address in self.functions:
                self.functions[address](self.core)

        end = STUBS + STUB_BYTES * len(self.functions)
        self.core.engine.hook_add(unicorn.UC_HOOK_CODE, called, begin=STUBS, end=end)
