"""From vectors of int32 to vectors of bytes by the instructions of x86 that saturate, as LLVM IR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

TOGETHER = 4
"""Vectors of int32 to one of bytes."""
QUARTER = 4
"""Numbers of int32 in the 128 bits within which instructions pack."""
PACK_WORDS = {4: "llvm.x86.sse2.packssdw.128", 8: "llvm.x86.avx2.packssdw", 16: "llvm.x86.avx512.packssdw.512"}
PACK_BYTES = {
    True: {4: "llvm.x86.sse2.packsswb.128", 8: "llvm.x86.avx2.packsswb", 16: "llvm.x86.avx512.packsswb.512"},
    False: {4: "llvm.x86.sse2.packuswb.128", 8: "llvm.x86.avx2.packuswb", 16: "llvm.x86.avx512.packuswb.512"},
}
"""LLVM's names by the numbers of int32 in a vector; of those that make bytes, by whether these are signed."""
NARROWS = 16
"""Numbers of int32 in a vector for which there is an instruction that makes bytes of one."""


class Writer(Protocol):
    """What writes the instructions of a function."""

    declarations: set[str]

    def emit(self, text: str) -> str:
        """The name of the result of an instruction."""
        ...


def pack_bytes(writer: Writer, vectors: Sequence[str], width: int, zero: int, signed: bool) -> str:
    """Vectors of `width` int32, at most 2^30 either way, plus `zero`, saturated to 8 bits: one vector of bytes.

    To 16 bits first, where `zero` is added with saturation: what that cuts off is beyond 8 bits in any case.
    """
    whole = len(vectors) // TOGETHER * TOGETHER
    found = [_packed(writer, vectors[k : k + TOGETHER], width, zero, signed) for k in range(0, whole, TOGETHER)]
    sizes = [TOGETHER * width] * len(found)
    rest = vectors[whole:]
    if rest and width == NARROWS:
        found += [_narrowed(writer, vector, width, zero, signed) for vector in rest]
        sizes += [width] * len(rest)
    elif rest:
        quarters = [part for vector in rest for part in _quarters(writer, vector, width)]
        for k in range(0, len(quarters), TOGETHER):
            some = quarters[k : k + TOGETHER]
            found.append(_packed(writer, [*some, *[some[-1]] * (TOGETHER - len(some))], QUARTER, zero, signed))
            sizes.append(len(some) * QUARTER)
    return _joined(writer, found, sizes)


def _packed(writer: Writer, vectors: Sequence[str], width: int, zero: int, signed: bool) -> str:
    """The bytes of four vectors. Instructions pack within 128 bits, so quarters of the vectors are put in order at the end."""
    words = [_pack(writer, PACK_WORDS[width], vectors[k : k + 2], width, 32) for k in (0, 2)]
    if zero:
        kind = f"<{2 * width} x i16>"
        name = f"@llvm.sadd.sat.v{2 * width}i16"
        writer.declarations.add(f"declare {kind} {name}({kind}, {kind})")
        words = [writer.emit(f"call {kind} {name}({kind} {w}, {kind} {_splat('i16', zero, 2 * width)})") for w in words]
    mixed = _pack(writer, PACK_BYTES[signed][width], words, 2 * width, 16)
    parts = width // QUARTER
    order = [(part * TOGETHER + k) * QUARTER + n for k in range(TOGETHER) for part in range(parts) for n in range(QUARTER)]
    return mixed if parts == 1 else _shuffled(writer, mixed, TOGETHER * width, order)


def _narrowed(writer: Writer, vector: str, width: int, zero: int, signed: bool) -> str:
    """The bytes of one vector, in words for which LLVM knows the instruction."""
    kind = f"<{width} x i32>"
    value = writer.emit(f"add {kind} {vector}, {_splat('i32', zero, width)}") if zero else vector
    for function, bound in (("smax", -128 if signed else 0), ("smin", 127 if signed else 255)):
        name = f"@llvm.{function}.v{width}i32"
        writer.declarations.add(f"declare {kind} {name}({kind}, {kind})")
        value = writer.emit(f"call {kind} {name}({kind} {value}, {kind} {_splat('i32', bound, width)})")
    return writer.emit(f"trunc {kind} {value} to <{width} x i8>")


def _quarters(writer: Writer, vector: str, width: int) -> list[str]:
    """The 128-bit parts of a vector."""
    if width == QUARTER:
        return [vector]
    whole, part = f"<{width} x i32>", f"<{QUARTER} x i32>"
    name = f"@llvm.vector.extract.v{QUARTER}i32.v{width}i32"
    writer.declarations.add(f"declare {part} {name}({whole}, i64)")
    return [writer.emit(f"call {part} {name}({whole} {vector}, i64 {first})") for first in range(0, width, QUARTER)]


def _pack(writer: Writer, name: str, pair: Sequence[str], width: int, bits: int) -> str:
    given, made = f"<{width} x i{bits}>", f"<{2 * width} x i{bits // 2}>"
    writer.declarations.add(f"declare {made} @{name}({given}, {given})")
    return writer.emit(f"call {made} @{name}({given} {pair[0]}, {given} {pair[1]})")


def _joined(writer: Writer, pieces: Sequence[str], sizes: Sequence[int]) -> str:
    """The first `sizes` bytes of vectors, in one vector; a vector is cut where it is longer than that."""
    result, length = pieces[0], sizes[0]
    if len(pieces) == 1:
        return result if length >= TOGETHER * QUARTER else _shuffled(writer, result, TOGETHER * QUARTER, list(range(length)))
    for piece, size in zip(pieces[1:], sizes[1:], strict=True):
        longest = max(length, TOGETHER * QUARTER, size)
        wide = _resized(writer, result, length, longest)
        given = max(size, TOGETHER * QUARTER)
        other = _resized(writer, piece, given, longest)
        order = [*range(length), *(longest + k for k in range(size))]
        mask = ", ".join(f"i32 {k}" for k in order)
        kind = f"<{longest} x i8>"
        result = writer.emit(f"shufflevector {kind} {wide}, {kind} {other}, <{len(order)} x i32> <{mask}>")
        length += size
    return result


def _resized(writer: Writer, value: str, size: int, wanted: int) -> str:
    """A vector of bytes with undefined ones behind."""
    return value if size == wanted else _shuffled(writer, value, size, [*range(size), *[-1] * (wanted - size)])


def _shuffled(writer: Writer, value: str, size: int, order: Sequence[int]) -> str:
    mask = ", ".join(f"i32 {k}" if k >= 0 else "i32 poison" for k in order)
    return writer.emit(f"shufflevector <{size} x i8> {value}, <{size} x i8> poison, <{len(order)} x i32> <{mask}>")


def _splat(element: str, number: int, lanes: int) -> str:
    return "<" + ", ".join([f"{element} {number}"] * lanes) + ">"
