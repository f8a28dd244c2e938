"""ELF files as they lie in memory: segments, relocations, symbols."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lepton_compiler.errors import UnsupportedError

RELATIVE = {"EM_AARCH64": 1027, "EM_ARM": 23, "EM_RISCV": 3}
"""Relocations that add the place where the file was loaded."""
ADDRESS = {"EM_AARCH64": {257, 1025, 1026}, "EM_ARM": {2, 21, 22}, "EM_RISCV": {2, 5}}
"""Relocations that store the address of a symbol."""
EXECUTABLE = 4
"""The flag of sections of instructions."""


@dataclass(frozen=True)
class Image:
    """A loaded file.

    Attributes:
        base: address of its first page.
        memory: its bytes from there on, relocated.
        symbols: addresses of functions and data by name; the lowest bit of Thumb functions is set.
        executable: where instructions lie: (address, size) of each section of them.
    """

    base: int
    memory: bytes
    symbols: Mapping[str, int]
    executable: tuple[tuple[int, int], ...] = ()

    def where(self, address: int) -> str:
        """The function at an address."""
        below = [(at, name) for name, at in self.symbols.items() if at <= address | 1]
        return f"{max(below)[1]} at {address:#x}" if below else f"{address:#x}"


def imports(code: bytes) -> list[str]:
    """The functions that a shared library wants from others, in order."""
    elf = _open(code)
    table = elf.get_section_by_name(".dynsym")
    if table is None:
        return []
    return [s.name for s in table.iter_symbols() if s["st_shndx"] == "SHN_UNDEF" and s.name and s["st_info"]["bind"] != "STB_WEAK"]


def load(code: bytes, base: int, known: Mapping[str, int]) -> Image:
    """Put a shared library at `base`, or a static program where it was linked for.

    Args:
        code: the file.
        base: for a shared library, where to.
        known: addresses of the functions that it imports.

    Raises:
        UnsupportedError: a relocation of a kind that these artefacts do not have.
    """
    elf = _open(code)
    segments = [s for s in elf.iter_segments() if s["p_type"] == "PT_LOAD" and s["p_memsz"]]
    start = min(s["p_vaddr"] for s in segments) & ~0xFFF
    shift = base - start if elf["e_type"] == "ET_DYN" else 0
    memory = bytearray(max(s["p_vaddr"] + s["p_memsz"] for s in segments) - start)
    for segment in segments:
        at = segment["p_vaddr"] - start
        memory[at : at + segment["p_filesz"]] = segment.data()
    if shift:
        _relocate(elf, memory, start, shift, known)
    table = elf.get_section_by_name(".symtab") or elf.get_section_by_name(".dynsym")
    symbols = {s.name: s["st_value"] + shift for s in table.iter_symbols() if s.name and s["st_shndx"] != "SHN_UNDEF"} if table else {}
    code_sections = tuple((s["sh_addr"] + shift, s["sh_size"]) for s in elf.iter_sections() if s["sh_flags"] & EXECUTABLE)
    return Image(start + shift, bytes(memory), symbols, code_sections)


def _relocate(elf: Any, memory: bytearray, start: int, shift: int, known: Mapping[str, int]) -> None:
    machine, width = elf["e_machine"], elf.elfclass // 8
    for section in elf.iter_sections():
        if section["sh_type"] not in ("SHT_REL", "SHT_RELA"):
            continue
        names = elf.get_section(section["sh_link"])
        for entry in section.iter_relocations():
            at, kind = entry["r_offset"] - start, entry["r_info_type"]
            addend = entry["r_addend"] if section["sh_type"] == "SHT_RELA" else int.from_bytes(memory[at : at + width], "little")
            if kind == RELATIVE[machine]:
                value = addend + shift
            elif kind in ADDRESS[machine]:
                symbol = names.get_symbol(entry["r_info_sym"])
                defined = symbol["st_shndx"] != "SHN_UNDEF"
                place = symbol["st_value"] + shift if defined else known.get(symbol.name, 0)
                value = place + (addend if section["sh_type"] == "SHT_RELA" or kind == 2 else 0)
            else:
                raise UnsupportedError(f"the library has a relocation of kind {kind}, which the emulator does not know")
            memory[at : at + width] = (value & (1 << 8 * width) - 1).to_bytes(width, "little")


def _open(code: bytes) -> Any:
    from elftools.elf.elffile import ELFFile

    return ELFFile(io.BytesIO(code))
