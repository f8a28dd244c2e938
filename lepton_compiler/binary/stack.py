"""How much stack Thumb code can need: frames from the instructions that lower the stack pointer, summed along the deepest chain of calls.

A bound, not a guess: every instruction of a function that takes stack is counted once, wherever it stands. Compilers do not take stack in
loops, and these artefacts have neither recursion nor calls through pointers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lepton_compiler.binary.objects import EXECUTE, Object

OUTSIDE_BYTES = 128
"""Allowed for a function of the compiler's library or the C library."""
ALIGNING_BYTES = 16
"""Lost where a function aligns its frame."""


@dataclass(frozen=True)
class Function:
    """A function: bytes of its frame, and what it calls."""

    frame: int
    calls: frozenset[str]


def functions(code: Object) -> dict[str, Function]:
    """The functions of a Thumb object by name."""
    found = {}
    for number, section in enumerate(code.sections):
        if not section.flags & EXECUTE:
            continue
        references = code.references(number)
        data = _data_ranges(code, number, section.size)
        for symbol in code.symbols:
            if symbol.section == number and symbol.kind == 2 and symbol.name:
                begin = symbol.value & ~1
                end = begin + symbol.size
                calls = frozenset(name for offset, name in references if begin <= offset < end and name and not name.startswith("."))
                found[symbol.name] = Function(_frame(section.data, begin, end, data), calls)
    return found


def stack_bound(objects: Iterable[Object], entry: str) -> int:
    """The deepest stack of a call of `entry`, in bytes."""
    known = {name: function for code in objects for name, function in functions(code).items()}
    return _depth(entry, known, {})


def _depth(name: str, known: Mapping[str, Function], done: dict[str, int]) -> int:
    if name not in known:
        return OUTSIDE_BYTES
    if name not in done:
        done[name] = 0
        function = known[name]
        done[name] = function.frame + max((_depth(callee, known, done) for callee in function.calls), default=0)
    return done[name]


def _data_ranges(code: Object, section: int, size: int) -> list[tuple[int, int]]:
    """Where constants lie between the instructions: from a mapping symbol `$d` to the next one."""
    marks = sorted((s.value & ~1, s.name[:2]) for s in code.symbols if s.section == section and s.name[:2] in ("$d", "$t", "$a"))
    ends = [*(at for at, _ in marks), size][1:]
    return [(at, end) for (at, name), end in zip(marks, ends, strict=True) if name == "$d"]


def _frame(code: bytes, begin: int, end: int, data: list[tuple[int, int]]) -> int:
    total, at, registers = 0, begin, dict[int, int]()
    while at + 2 <= end:
        inside = next((stop for start, stop in data if start <= at < stop), None)
        if inside is not None:
            at = inside
            continue
        (half,) = struct.unpack_from("<H", code, at)
        if half >> 11 < 0b11101:
            total += _narrow(half)
            at += 2
        else:
            (second,) = struct.unpack_from("<H", code, at + 2)
            total += _wide(half, second, registers)
            at += 4
    return total


def _narrow(half: int) -> int:
    """Bytes that a 16-bit instruction takes from the stack: PUSH, SUB SP; MOV SP from a register ends an alignment."""
    if half & 0xFE00 == 0xB400:
        return 4 * (half & 0x1FF).bit_count()
    if half & 0xFF80 == 0xB080:
        return 4 * (half & 0x7F)
    return ALIGNING_BYTES if half & 0xFF87 == 0x4685 and half >> 3 & 15 != 7 else 0


def _wide(first: int, second: int, registers: dict[int, int]) -> int:
    """The same for 32-bit instructions: STMDB SP!, STR [SP, #-n]!, VPUSH, SUB(W) SP with a number or a known register."""
    if first == 0xE92D:
        return 4 * second.bit_count()
    if first == 0xF84D and second & 0x0F00 == 0x0D00:
        return second & 0xFF
    if first & 0xFFBF == 0xED2D:
        return 4 * (second & 0xFF)
    if first & 0xFBFF == 0xF1AD and second & 0x8F00 == 0x0D00:
        return _modified((first >> 10 & 1) << 11 | (second >> 12 & 7) << 8 | second & 0xFF)
    if first & 0xFBFF == 0xF2AD and second & 0x8F00 == 0x0D00:
        return (first >> 10 & 1) << 11 | (second >> 12 & 7) << 8 | second & 0xFF
    immediate = (first & 15) << 12 | (first >> 10 & 1) << 11 | (second >> 12 & 7) << 8 | second & 0xFF
    if first & 0xFBF0 == 0xF240:  # MOVW
        registers[second >> 8 & 15] = immediate
    elif first & 0xFBF0 == 0xF2C0:  # MOVT
        registers[second >> 8 & 15] = registers.get(second >> 8 & 15, 0) & 0xFFFF | immediate << 16
    elif first & 0xFBEF == 0xF04F:  # MOV.W
        registers[second >> 8 & 15] = _modified(immediate & 0xFFF)
    elif first == 0xEBAD and second & 0xFFF0 == 0x0D00:
        return registers.get(second & 15, 0)
    return 0


def _modified(code: int) -> int:
    """The number that a 12-bit constant of Thumb stands for."""
    if code >> 10 == 0:
        byte = code & 0xFF
        return (byte, byte * 0x10001, byte * 0x1000100, byte * 0x1010101)[code >> 8]
    value, turn = 0x80 | code & 0x7F, code >> 7
    return (value >> turn | value << (32 - turn)) & 0xFFFFFFFF
