"""Reading ELF objects and archives. No library: a few tables of fixed layout, in little-endian order."""

from __future__ import annotations

import struct
from dataclasses import dataclass

WRITE, ALLOCATE, EXECUTE = 1, 2, 4
SYMBOL_TABLE, NO_BITS, RELOCATIONS = 2, 8, (4, 9)


@dataclass(frozen=True)
class Section:
    """A section: name, type, flags, contents (empty where it has no bytes in the file), size, and the fields `link` and `info`."""

    name: str
    kind: int
    flags: int
    data: bytes
    size: int
    link: int
    info: int


@dataclass(frozen=True)
class Symbol:
    """A symbol: name, address in its section, size, section (0: undefined), type (2: function) and binding (0: local, 2: weak)."""

    name: str
    value: int
    size: int
    section: int
    kind: int
    binding: int


@dataclass(frozen=True)
class Object:
    """A relocatable object.

    Attributes:
        sections: all sections by number.
        symbols: all symbols by number.
        calls: for each executable section, (offset, symbol) of its relocations.
    """

    sections: tuple[Section, ...]
    symbols: tuple[Symbol, ...]

    @property
    def code_bytes(self) -> int:
        """Bytes of instructions."""
        return sum(s.size for s in self.sections if s.flags & EXECUTE)

    @property
    def constant_bytes(self) -> int:
        """Bytes of constants, those of unwinding tables not counted."""
        return sum(s.size for s in self.sections if s.flags & (ALLOCATE | EXECUTE | WRITE) == ALLOCATE and not _is_table(s.name))

    @property
    def writable(self) -> tuple[str, ...]:
        """Names of variables: symbols in sections that are written to."""
        sections = {k for k, s in enumerate(self.sections) if s.flags & WRITE and s.size}
        return tuple(s.name for s in self.symbols if s.section in sections and s.size)

    @property
    def defined(self) -> frozenset[str]:
        """Symbols that others can use."""
        return frozenset(s.name for s in self.symbols if s.section and s.binding and s.name)

    @property
    def undefined(self) -> frozenset[str]:
        """Symbols that others must define."""
        return frozenset(s.name for s in self.symbols if not s.section and s.binding == 1 and s.name)

    def references(self, section: int) -> list[tuple[int, str]]:
        """(offset, symbol) of what a section refers to, in order."""
        found = []
        for table in self.sections:
            if table.kind in RELOCATIONS and table.info == section:
                found += [(offset, self.symbols[symbol].name) for offset, symbol in _relocations(table, self._wide)]
        return sorted(found)

    @property
    def _wide(self) -> bool:
        table = next((s for s in self.sections if s.kind == SYMBOL_TABLE), None)
        return table is not None and bool(self.symbols) and table.size // len(self.symbols) == 24


def read_object(code: bytes) -> Object:
    """Take an ELF object of 32 or 64 bits apart."""
    wide = code[4] == 2
    table, size, count, names = (
        struct.unpack_from("<Q10xHHH", code, 40) if wide else struct.unpack_from("<I10xHHH", code, 32)
    )  # fmt: skip
    rows = [_section_row(code, table + k * size, wide) for k in range(count)]
    strings = code[rows[names][3] : rows[names][3] + rows[names][4]] if rows else b""
    sections = tuple(
        Section(_text(strings, name), kind, flags, b"" if kind == NO_BITS else code[at : at + length], length, link, info)
        for name, kind, flags, at, length, link, info in rows
    )
    return Object(sections, _symbols(sections, wide))


def members(archive: bytes) -> dict[str, bytes]:
    """The objects of a static library by name; names that occur twice get a number."""
    found: dict[str, bytes] = {}
    at, long_names = 8, b""
    while at + 60 <= len(archive):
        name, size = archive[at : at + 16].decode().rstrip(), int(archive[at + 48 : at + 58])
        data = archive[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
        if name == "//":
            long_names = data
        elif name not in ("/", "/SYM64/"):
            if name.startswith("/"):
                name = long_names[int(name[1:]) :].split(b"\n", 1)[0].decode()
            name = name.rstrip("/")
            found[name if name not in found else f"{name}.{len(found)}"] = data
    return found


def _section_row(code: bytes, at: int, wide: bool) -> tuple[int, int, int, int, int, int, int]:
    name, kind, flags, _, offset, size, link, info = struct.unpack_from("<IIQQQQII" if wide else "<IIIIIIII", code, at)
    return name, kind, flags, offset, size, link, info


def _symbols(sections: tuple[Section, ...], wide: bool) -> tuple[Symbol, ...]:
    table = next((s for s in sections if s.kind == SYMBOL_TABLE), None)
    if table is None:
        return ()
    strings, found = sections[table.link].data, []
    for at in range(0, table.size, 24 if wide else 16):
        if wide:
            name, info, _, section, value, size = struct.unpack_from("<IBBHQQ", table.data, at)
        else:
            name, value, size, info, _, section = struct.unpack_from("<IIIBBH", table.data, at)
        found.append(Symbol(_text(strings, name), value, size, section if section < 0xFF00 else 0, info & 15, info >> 4))
    return tuple(found)


def _relocations(table: Section, wide: bool) -> list[tuple[int, int]]:
    step = (24 if table.kind == 4 else 16) if wide else (12 if table.kind == 4 else 8)
    rows = []
    for at in range(0, table.size, step):
        offset, info = struct.unpack_from("<QQ" if wide else "<II", table.data, at)
        rows.append((offset, info >> (32 if wide else 8)))
    return rows


def _text(strings: bytes, at: int) -> str:
    return strings[at : strings.index(b"\0", at)].decode() if at < len(strings) else ""


def _is_table(name: str) -> bool:
    return name.startswith((".eh_frame", ".ARM.exidx", ".ARM.extab", ".note", ".comment", ".ARM.attributes"))
