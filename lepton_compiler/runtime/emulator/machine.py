"""What the emulators have in common: memory and calls go in, memory and counts come out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol


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


@dataclass(frozen=True)
class Call:
    """A call of `NAME_run` or `NAME_reset`: which of them, and addresses."""

    function: str
    arguments: tuple[int, ...]


@dataclass(frozen=True)
class Outcome:
    """What calls left behind.

    Attributes:
        memory: the bytes from `Machine.heap` on.
        status: what the last call returned; those after one that failed are not made.
        function: which call that was.
        stats: of that call.
    """

    memory: bytes
    status: int
    function: str
    stats: Stats


def entries(kernels: Iterable[str]) -> dict[str, str]:
    """The functions with which kernels begin, with their kernels: those of a kernel of several phases have numbers."""
    return {function: kernel for kernel in kernels for function in (kernel, f"{kernel}_0")}


class Machine(Protocol):
    """A machine that holds an artefact.

    Attributes:
        heap: where its data memory begins.
    """

    heap: int

    def run(self, memory: bytes, calls: Sequence[Call], count: bool) -> Outcome:
        """Put `memory` at `heap`, make the calls one after another, and count the instructions of the last one if that is wanted.

        Raises:
            LeptonError: the code failed: a bad address, an unknown instruction.
        """
        ...
