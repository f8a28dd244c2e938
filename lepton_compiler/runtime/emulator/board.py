"""An emulated board: qemu-system-arm's mps3-an547, a Cortex-M55 with Helium vectors.

The program of the artefact, and what it works on, are put into the memory of the board; start-up code (`start_up.py`) makes the calls and writes
what they leave behind to a file. QEMU's clock counts instructions: each takes 2^10 nanoseconds, and a counter of the board advances every
31.25, so that instructions are told apart.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from lepton_compiler.errors import LeptonError, MissingDependency
from lepton_compiler.runtime.emulator import image
from lepton_compiler.runtime.emulator.firmware import link_firmware
from lepton_compiler.runtime.emulator.machine import Call, CallCount, Outcome, Stats, entries
from lepton_compiler.runtime.emulator.start_up import RESULTS, THUNK_BYTES, start_up
from lepton_compiler.target import Target

EMULATOR = "qemu-system-arm"
BOARD = "mps3-an547"
VECTORS, CODE, LOG, STACK_TOP, JOB, HEAP = 0, 0x6000_0000, 0x6D00_0000, 0x6F00_0000, 0x6F00_0000, 0x7000_0000
"""Addresses: the vector table, the program, times of kernel calls, the end of the stack, what is to be done, data."""
STACK_BYTES = 1 << 20
EXCEPTIONS = 16
MOST_EVENTS = 1 << 20
"""Kernel calls of a run that can be counted one by one."""
SHIFT = 10
TICKS = (1 << SHIFT) / 31.25
"""Of the board's counter, for each instruction."""
TIMEOUT = 300
"""Seconds after which a run is given up."""
HEADER = struct.Struct("<6I5Q")
EVENT = struct.Struct("<2IQ")


class _Header(NamedTuple):
    """What the program writes first: see `outcome` in the start-up code. Times are those of the board's counter."""

    status: int
    failed: int
    stack: int
    events: int
    fault: int
    where: int
    begin: int
    end: int
    nothing: int
    trace: int
    after: int


def check_installed() -> None:
    """Say what to install where the emulator is not there.

    Raises:
        MissingDependency: it is not.
    """
    if shutil.which(EMULATOR) is None:
        raise MissingDependency(
            f"code with Helium vectors runs in {EMULATOR}, which is not installed",
            hint=f"apt-get install {EMULATOR} (6.2 or newer), or compile without vectors: --target cortex-m55,-mve",
        )


class Board:
    """A firmware library on the board.

    Args:
        files: of the artefact.
        name: of the artefact.
        kernels: symbols of its kernels.
        stateful: whether it has a function that resets it.
        target: the machine it was built for.

    Raises:
        MissingDependency: the emulator, or a linker, is not installed.
    """

    heap = HEAP

    def __init__(self, files: Mapping[str, bytes], name: str, kernels: Sequence[str], stateful: bool, target: Target) -> None:
        check_installed()
        self.name, found = name, entries(kernels)
        self.functions, self.kernels = tuple(found), tuple(found.values())
        program = link_firmware(files, name, target, CODE, start_up(name, self.functions, stateful, JOB))
        self.image = image.load(program, CODE, {})

    def run(self, memory: bytes, calls: Sequence[Call], count: bool) -> Outcome:
        """See `Machine.run`."""
        with tempfile.TemporaryDirectory(prefix="lepton-") as temporary:
            folder = Path(temporary)
            entry, fault = (self.image.symbols[f"lepton_{name}"] | 1 for name in ("start", "fault"))
            parts = {
                VECTORS: struct.pack(f"<{EXCEPTIONS}I", STACK_TOP, entry, *[fault] * (EXCEPTIONS - 2)),
                self.image.base: self._traced() if count else self.image.memory,
                JOB: self._job(calls, len(memory), count),
                HEAP: memory,
            }
            self._emulate(folder, parts)
            written = folder / RESULTS
            if not written.is_file() or written.stat().st_size < HEADER.size + len(memory):
                raise LeptonError(f"{self.name} stopped {EMULATOR} without a result")
            return self._outcome(written.read_bytes(), calls, len(memory), count)

    def _emulate(self, folder: Path, parts: Mapping[int, bytes]) -> None:
        command = [EMULATOR, "-machine", BOARD, "-display", "none", "-monitor", "none", "-serial", "none", "-nodefaults", "-no-reboot"]
        command += ["-semihosting-config", "enable=on,target=native", "-icount", f"shift={SHIFT}"]
        for address, data in parts.items():
            (folder / f"{address:x}.bin").write_bytes(data)
            command += ["-device", f"loader,file={address:x}.bin,addr={address:#x},force-raw=on"]
        with (folder / "messages").open("w+b") as messages:
            try:
                done = subprocess.run(
                    command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=messages, timeout=TIMEOUT
                )
            except subprocess.TimeoutExpired as error:
                raise LeptonError(f"{self.name} took longer than {TIMEOUT} seconds in {EMULATOR}") from error
            messages.seek(0)
            said = messages.read(4000).decode(errors="replace").strip().splitlines()
        if done.returncode:
            raise LeptonError(
                f"{EMULATOR} failed while it ran {self.name}: {said[0] if said else f'status {done.returncode}'}",
                hint=f"{BOARD} with Helium vectors needs {EMULATOR} 6.2 or newer",
            )

    def _job(self, calls: Sequence[Call], size: int, count: bool) -> bytes:
        """See `job` in the start-up code."""
        rows = [(int(call.function == "reset"), *(*call.arguments, 0, 0)[:3]) for call in calls]
        numbers = [len(calls), int(count), HEAP, size, LOG, MOST_EVENTS, STACK_TOP - STACK_BYTES, 0, *(n for row in rows for n in row)]
        return struct.pack(f"<{len(numbers)}I", *numbers)

    def _traced(self) -> bytes:
        """The program with its calls of kernels sent through thunks, which note the time."""
        memory, base = bytearray(self.image.memory), self.image.base
        thunks, trace = self.image.symbols["lepton_thunks"], self.image.symbols["lepton_trace"] & ~1
        redirected = {}
        for k, function in enumerate(self.functions):
            if function not in self.image.symbols:
                continue
            at = thunks + k * THUNK_BYTES
            memory[at - base : at - base + THUNK_BYTES] = _move_to_r12(k) + _branch(at + 4, trace, link=False)
            redirected[self.image.symbols[function] & ~1] = at
        for start, size in self.image.executable:
            for at in range(start, start + size - 3, 2):
                branch = _branched(bytes(memory[at - base : at - base + 4]), at)
                if branch is not None and branch[0] in redirected:
                    memory[at - base : at - base + 4] = _branch(at, redirected[branch[0]], branch[1])
        return bytes(memory)

    def _outcome(self, data: bytes, calls: Sequence[Call], size: int, count: bool) -> Outcome:
        found = _Header(*HEADER.unpack_from(data))
        call = calls[min(found.failed, len(calls) - 1)]
        if found.fault:
            reason = f"{self.name}_{call.function} failed on the board: fault {found.fault & 0x7FFFFFFF:#x}"
            raise LeptonError(reason, where=self.image.where(found.where))
        if found.events > MOST_EVENTS:
            raise LeptonError(f"a run calls more than {MOST_EVENTS:,} kernels", hint="run it without counting")
        stats = self._counted(found, data) if count else Stats(None, found.stack)
        return Outcome(data[len(data) - size :], found.status, call.function, stats)

    def _counted(self, found: _Header, data: bytes) -> Stats:
        """The instructions between the times that were noted, without those that noting them took."""
        marks = [EVENT.unpack_from(data, HEADER.size + k * EVENT.size) for k in range(found.events)]
        own = _instructions(found.trace) - 2  # without the call of a kernel that only returns, and its return
        spans = [_instructions(later[2] - mark[2]) - own for mark, later in pairwise(marks)]
        spans += [_instructions(found.end - found.after - marks[-1][2]) + 1] if marks else []
        counts = tuple(CallCount(self.kernels[function], span) for (function, _, _), span in zip(marks, spans, strict=True))
        total = _instructions(found.end - found.begin) - _instructions(found.nothing) - found.events * own
        return Stats(total, found.stack, counts)


def _instructions(ticks: int) -> int:
    return round(ticks / TICKS)


def _move_to_r12(number: int) -> bytes:
    """`movw r12, #number`."""
    first = 0xF240 | (number >> 12 & 0xF) | (number >> 11 & 1) << 10
    return struct.pack("<2H", first, 0x0C00 | (number >> 8 & 7) << 12 | number & 0xFF)


def _branch(at: int, to: int, link: bool) -> bytes:
    """`bl to`, or `b.w to`, for the address `at`."""
    offset = to - at - 4
    sign, bits = int(offset < 0), offset & 0x1FFFFFF
    j1, j2 = (1 - (bits >> position & 1) ^ sign for position in (23, 22))
    return struct.pack(
        "<2H", 0xF000 | sign << 10 | (bits >> 12 & 0x3FF), (0xD000 if link else 0x9000) | j1 << 13 | j2 << 11 | bits >> 1 & 0x7FF
    )


def _branched(code: bytes, at: int) -> tuple[int, bool] | None:
    """Where a `bl` or `b.w` at an address goes to, and whether it comes back; None for other instructions."""
    first, second = struct.unpack("<2H", code)
    if first & 0xF800 != 0xF000 or second & 0x9000 != 0x9000:
        return None
    sign = first >> 10 & 1
    i1, i2 = (1 - (second >> position & 1) ^ sign for position in (13, 11))
    offset = i1 << 23 | i2 << 22 | (first & 0x3FF) << 12 | (second & 0x7FF) << 1
    return at + 4 + offset - (sign << 24), bool(second & 0x4000)
