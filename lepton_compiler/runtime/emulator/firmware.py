"""A firmware library becomes a program at a fixed address: what a project's linker would do, without the project."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from lepton_compiler.target import Target
from lepton_compiler.toolchain import find_toolchain

MEMORY_FUNCTIONS = """\
#include <stddef.h>
#include <stdint.h>

void *memcpy(void *restrict target, const void *restrict source, size_t size) {
  uint8_t *to = target;
  const uint8_t *from = source;
  if ((((uintptr_t)to | (uintptr_t)from) & 3) == 0)
    for (; size >= 4; size -= 4, to += 4, from += 4) *(uint32_t *)to = *(const uint32_t *)from;
  while (size--) *to++ = *from++;
  return target;
}

void *memset(void *target, int value, size_t size) {
  uint8_t *to = target;
  while (size--) *to++ = (uint8_t)value;
  return target;
}
"""
"""What the firmware's C library gives."""


ENTRY = """
int NAME_run(const void *inputs, void *outputs, void *arena);
int NAME_reset(void *arena);

int lepton_entry(const void *inputs, void *outputs, void *arena) {
  return inputs ? NAME_run(inputs, outputs, arena) : NAME_reset(arena);
}
"""
"""What keeps both functions of a stateful model in the program."""


def link_firmware(files: Mapping[str, bytes], name: str, target: Target, base: int, start_up: str = "", stateful: bool = False) -> bytes:
    """The program of a static library.

    Args:
        files: of the artefact.
        name: of the artefact.
        target: the machine.
        base: the address of the program.
        start_up: C that defines `lepton_start` and calls the model; without any, somebody else will call it.
        stateful: whether the library has a function that resets it.

    Raises:
        MissingDependency: there is no linker for it.
        LeptonError: the linker failed, for instance because the library needs something that firmware does not have.
    """
    tools = find_toolchain(target)
    entry = "lepton_start" if start_up else "lepton_entry" if stateful else f"{name}_run"
    with tempfile.TemporaryDirectory(prefix="lepton-") as temporary:
        folder = Path(temporary)
        (folder / f"lib{name}.a").write_bytes(files[f"lib{name}.a"])
        (folder / "memory.c").write_text(MEMORY_FUNCTIONS + (ENTRY.replace("NAME", name) if entry == "lepton_entry" else ""))
        sources = ["memory.c"]
        if start_up:
            (folder / "start_up.c").write_text(start_up)
            sources.append("start_up.c")
        objects = [tools.compile(folder, file, "-O1", "-ffreestanding", "-fno-builtin") for file in sources]
        tools.executable(folder, [*objects, f"lib{name}.a"], "program", entry, base)
        return (folder / "program").read_bytes()
