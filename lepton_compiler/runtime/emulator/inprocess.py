"""The emulator in this process: unicorn executes an artefact instruction by instruction."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from lepton_compiler.errors import LeptonError
from lepton_compiler.runtime.emulator import clib, image
from lepton_compiler.runtime.emulator.cores import Core, make_core
from lepton_compiler.runtime.emulator.counting import Counter
from lepton_compiler.runtime.emulator.machine import Call, CallCount, Outcome, Stats, entries
from lepton_compiler.target import Target

STOP, STUBS, CODE = 0x1000, 0x2000, 0x0010_0000
"""Addresses: where a call returns to, the functions of the C library, the artefact."""
STACK_TOP = {"linux": 0x7000_0000, "none": 0x3000_0000}
STACK_BYTES = {"linux": 8 << 20, "none": 1 << 20}
PAINT = 0xA5
"""What untouched stack is filled with."""
STUB_BYTES = 16
PAGE = 0x1000


class InProcess:
    """An artefact in unicorn's memory.

    Args:
        code: a shared library, or a static program that has no other parts.
        name: of the artefact.
        kernels: symbols of its kernels.
        target: the machine it was built for.

    Raises:
        UnsupportedError: the emulator cannot run such code.
    """

    def __init__(self, code: bytes, name: str, kernels: Sequence[str], target: Target) -> None:
        self.name, self.kernels, self.target = name, entries(kernels), target
        self.core: Core = make_core(target)
        wanted = image.imports(code) if target.system == "linux" else []
        self.functions = {STUBS + STUB_BYTES * k: clib.function(wish) for k, wish in enumerate(wanted)}
        known = {wish: address | self.core.thumb for address, wish in zip(self.functions, wanted, strict=True)}
        self.image = image.load(code, CODE, known)
        self._map(self.image.base, self.image.memory)
        self._map(STOP, self.core.returns)
        self._map(STUBS, b"".join(self.core.returns.ljust(STUB_BYTES, b"\0") for _ in self.functions) or bytes(STUB_BYTES))
        top, size = STACK_TOP[target.system], STACK_BYTES[target.system]
        self.core.engine.mem_map(top - size, size)
        self.heap = 0x2000_0000 if target.is_firmware else 0x8000_0000
        self._hook_functions()

    def run(self, memory: bytes, calls: Sequence[Call], count: bool) -> Outcome:
        """See `Machine.run`."""
        self._allocate(self.heap + len(memory))
        self.core.engine.mem_write(self.heap, memory)
        for call in calls:
            stats = self._call(call, count and call is calls[-1])
            status = self.core.engine.reg_read(self.core.result) & 0xFFFFFFFF
            if status:
                break
        return Outcome(bytes(self.core.engine.mem_read(self.heap, len(memory))), status, call.function, stats)

    def _call(self, call: Call, count: bool) -> Stats:
        import unicorn

        core, engine = self.core, self.core.engine
        name = f"{self.name}_{call.function}"
        top, size = STACK_TOP[self.target.system], STACK_BYTES[self.target.system]
        engine.mem_write(top - size, bytes([PAINT]) * size)
        for register, value in zip(core.arguments, call.arguments, strict=False):
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
        deep = len(used.lstrip(bytes([PAINT])))
        if counter is None:
            return Stats(None, deep)
        calls = counter.take()
        return Stats(sum(n for _, n in calls), deep, tuple(CallCount(symbol, n) for symbol, n in calls if symbol))

    def _counter(self) -> Counter:
        """Counts by kernel call; all phases of a kernel belong to the call of the first."""
        entries = {address & ~self.core.thumb: self.kernels[name] for name, address in self.image.symbols.items() if name in self.kernels}
        return Counter(self.image, self.target.arch, entries)

    def _where(self) -> str:
        """The function that was running."""
        import unicorn.arm64_const as a64
        import unicorn.arm_const as a32
        import unicorn.riscv_const as rv

        register = {"aarch64": a64.UC_ARM64_REG_PC, "riscv64": rv.UC_RISCV_REG_PC}.get(self.target.arch, a32.UC_ARM_REG_PC)
        return self.image.where(self.core.engine.reg_read(register))

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
