"""Frames read from Thumb instructions, and the deepest chain of calls."""

from __future__ import annotations

import struct

import pytest

from lepton_compiler.binary.objects import Object, Section, Symbol
from lepton_compiler.binary.stack import OUTSIDE_BYTES, _modified, functions, stack_bound


def thumb(halves: list[int], name: str, calls: str | None = None) -> Object:
    """An object with one function, which may call another at its first instruction."""
    code = b"".join(struct.pack("<H", half) for half in halves)
    symbols = [Symbol("", 0, 0, 0, 0, 0), Symbol(name, 1, len(code), 1, 2, 1), Symbol(calls or "", 0, 0, 0, 0, 1)]
    table = struct.pack("<II", 0, 2 << 8) if calls else b""
    sections = (
        Section("", 0, 0, b"", 0, 0, 0),
        Section(".text", 1, 6, code, len(code), 0, 0),
        Section(".rel.text", 9, 0, table, len(table), 3, 1),
        Section(".symtab", 2, 0, b"", 16 * len(symbols), 0, 0),
    )
    return Object(sections, tuple(symbols))


@pytest.mark.parametrize(
    ("halves", "frame"),
    [
        ([0xB5F0], 20),  # push {r4-r7, lr}
        ([0xE92D, 0x4FF0], 36),  # push.w {r4-r11, lr}
        ([0xB084], 16),  # sub sp, #16
        ([0xED2D, 0x8B0A], 40),  # vpush {d8-d12}
        ([0xF5AD, 0x7DD8], 432),  # sub.w sp, sp, #432
        ([0xF2AD, 0x4D0C], 1036),  # subw sp, sp, #1036
        ([0xF84D, 0x8D04], 4),  # str r8, [sp, #-4]!
        ([0xF241, 0x0604, 0xEBAD, 0x0D06], 0x1004),  # movw r6, #4100; sub.w sp, sp, r6
        ([0xBF00, 0x4770], 0),  # nop; bx lr
    ],
)
def test_frames(halves: list[int], frame: int) -> None:
    assert functions(thumb(halves, "f"))["f"].frame == frame


def test_constants_of_thumb() -> None:
    assert [_modified(code) for code in (0x0AB, 0x1AB, 0x2AB, 0x3AB, 0x4FF)] == [0xAB, 0xAB00AB, 0xAB00AB00, 0xABABABAB, 0x7F800000]


def test_the_deepest_chain_counts() -> None:
    chain = [thumb([0xB5F0], "top", "middle"), thumb([0xB084], "middle", "memcpy"), thumb([0xB5F0], "alone")]
    assert stack_bound(chain, "top") == 20 + 16 + OUTSIDE_BYTES
    assert stack_bound(chain, "alone") == 20
