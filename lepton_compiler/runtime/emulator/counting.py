"""Counting executed instructions: a function in C, which the emulator calls at the beginning of each basic block.

A hook in Python would take most of the time of an emulation.
"""

from __future__ import annotations

import ctypes
import functools
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lepton_compiler.runtime.emulator.image import Image
from lepton_compiler.toolchain import find_toolchain

LENGTHS = {"aarch64": 0, "arm": 0, "thumb": 1, "riscv64": 2}
"""How the length of an instruction is told: it is 4 bytes; by the first halfword of Thumb code; by that of RISC-V code."""

SOURCE = """\
#include <stdint.h>
#include <stdlib.h>

typedef struct {
  uint64_t entry, instructions;
} lepton_call;

typedef struct {
  const uint8_t *code, *entries;
  uint64_t base, lengths, used, capacity;
  lepton_call *calls;
} lepton_counter;

static int is_wide(uint64_t lengths, unsigned half) {
  return lengths == 1 ? half >> 11 >= 0x1d : (half & 3) == 3;
}

static uint64_t instructions(const lepton_counter *counter, uint64_t at, uint32_t size) {
  if (counter->lengths == 0) return size / 4;
  uint64_t count = 0;
  for (uint64_t end = at + size; at < end; ++count)
    at += is_wide(counter->lengths, counter->code[at] | (unsigned)counter->code[at + 1] << 8) ? 4 : 2;
  return count;
}

static void begin_call(lepton_counter *counter, uint64_t entry) {
  if (counter->used == counter->capacity) {
    counter->capacity = counter->capacity ? 2 * counter->capacity : 256;
    counter->calls = realloc(counter->calls, counter->capacity * sizeof *counter->calls);
    if (!counter->calls) abort();
  }
  counter->calls[counter->used++] = (lepton_call){entry, 0};
}

void lepton_count(void *engine, uint64_t address, uint32_t size, void *data) {
  lepton_counter *counter = data;
  (void)engine;
  uint64_t at = address - counter->base;
  if (!counter->used || counter->entries[at / 2]) begin_call(counter, address);
  counter->calls[counter->used - 1].instructions += instructions(counter, at, size);
}

void lepton_release(lepton_counter *counter) { free(counter->calls); }
"""


class _Call(ctypes.Structure):
    _fields_ = [("entry", ctypes.c_uint64), ("instructions", ctypes.c_uint64)]


class _Counter(ctypes.Structure):
    _fields_ = [
        ("code", ctypes.c_char_p),
        ("entries", ctypes.c_void_p),
        ("base", ctypes.c_uint64),
        ("lengths", ctypes.c_uint64),
        ("used", ctypes.c_uint64),
        ("capacity", ctypes.c_uint64),
        ("calls", ctypes.POINTER(_Call)),
    ]


class Counter:
    """Instructions that the code of an image executes while `attached` to an engine.

    Args:
        image: the code.
        arch: its instruction set, as `Target.arch` says it.
        entries: functions to tell apart, by address.

    Raises:
        MissingDependency: this machine has no C compiler.
    """

    def __init__(self, image: Image, arch: str, entries: Mapping[int, str]) -> None:
        self.image, self.entries, self._library = image, entries, _library()
        self._marks = np.zeros(len(image.memory) // 2 + 1, np.uint8)
        self._marks[[(address - image.base) // 2 for address in entries]] = 1
        self._state = _Counter(image.memory, self._marks.ctypes.data, image.base, LENGTHS[arch], 0, 0, None)

    @contextmanager
    def attached(self, engine: Any) -> Iterator[None]:
        """Count what `engine` executes in the block of a `with` statement."""
        import unicorn
        from unicorn.unicorn_py3.unicorn import uclib

        handle = ctypes.c_size_t()
        first, last = ctypes.c_uint64(self.image.base), ctypes.c_uint64(self.image.base + len(self.image.memory) - 1)
        function, data = ctypes.cast(self._library.lepton_count, ctypes.c_void_p), ctypes.cast(ctypes.byref(self._state), ctypes.c_void_p)
        status = uclib.uc_hook_add(engine._uch, ctypes.byref(handle), unicorn.UC_HOOK_BLOCK, function, data, first, last)
        if status != unicorn.UC_ERR_OK:
            raise unicorn.UcError(status)
        engine.ctl_flush_tb()  # what was translated before calls no hook
        try:
            yield
        finally:
            uclib.uc_hook_del(engine._uch, handle)

    def take(self) -> list[tuple[str, int]]:
        """Name and instructions of each call in order, and forget them; what comes before the first one has no name."""
        calls = [self._state.calls[k] for k in range(self._state.used)]
        found = [(self.entries.get(call.entry, ""), int(call.instructions)) for call in calls]
        self._library.lepton_release(ctypes.byref(self._state))
        self._state.used = self._state.capacity = 0
        self._state.calls = None
        return found


@functools.cache
def _library() -> ctypes.CDLL:
    """`SOURCE`, compiled for this machine."""
    tools = find_toolchain()
    with tempfile.TemporaryDirectory(prefix="lepton-") as temporary:
        folder = Path(temporary)
        (folder / "counting.c").write_text(SOURCE)
        exports = ["lepton_count", "lepton_release"]
        tools.shared(folder, [tools.compile(folder, "counting.c", "-O2", "-fvisibility=default")], "libcounting.so", exports)
        return ctypes.CDLL(str(folder / "libcounting.so"))
