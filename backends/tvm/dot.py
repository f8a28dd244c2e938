"""Dot products of small integers: what a target does to add several products to each 32-bit lane in an instruction or two."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from tvm import tirx
from tvm.target import codegen

from lepton_compiler.backends.tvm.codegen import tvm_target
from lepton_compiler.target import Target

Expr = Any
"""A `tvm.tirx` expression; TVM carries no types."""

LANE_BITS = 32
MULTIPLY_ADD = {512: "llvm.x86.avx512.pmaddw.d.512", 256: "llvm.x86.avx2.pmadd.wd", 128: "llvm.x86.sse2.pmadd.wd"}
"""Products of 16-bit numbers, added in pairs: exact for 9-bit numbers."""
BYTE_PAIRS = {512: "llvm.x86.avx512.pmaddubs.w.512", 256: "llvm.x86.avx2.pmadd.ub.sw", 128: "llvm.x86.ssse3.pmadd.ub.sw.128"}
"""Products of unsigned and signed bytes, added in pairs to 16 bits, where they saturate: exact for weights that `window_packing` arranged."""


def vector_type(element: str, lanes: int) -> str:
    """The type of `lanes` elements."""
    return f"{element}x{lanes}" if lanes > 1 else element


def splat(value: Expr, lanes: int) -> Expr:
    """A vector of equal elements, or the element itself."""
    return tirx.Broadcast(value, lanes) if lanes > 1 else value


@dataclass(frozen=True)
class Dot:
    """How a target multiplies vectors of small integers.

    Attributes:
        group: products that are added to each lane.
        data: type of the left operand, which is the same for all lanes.
        weights: type of the right operand.
        lanes: sums in a vector.
        instruction: LLVM's name of what multiplies; empty where ordinary arithmetic does.
        accumulates: whether it adds to the sums as well.
        pairs: LLVM's name of what multiplies bytes and adds pairs to 16 bits, before `instruction` adds pairs of those; empty where one
            instruction does both. Weights are then such that 16 bits hold every pair.
    """

    group: int
    data: str
    weights: str
    lanes: int
    instruction: str = ""
    accumulates: bool = False
    pairs: str = ""

    @property
    def kept(self) -> int:
        """Registers that it needs beside those for sums, weights and data."""
        return 2 if self.pairs else 0

    @property
    def subtracts(self) -> bool:
        """Whether data and weights are less their zero points; 8-bit operands have no room for the difference."""
        return self.data not in ("int8", "uint8")

    def offset(self, kind: str) -> int:
        """What makes 8-bit data of type `kind` data of the dot product's type: nothing, or half of the range."""
        if self.subtracts or kind == self.data:
            return 0
        return 128 if self.data == "uint8" else -128

    def broadcast(self, data: Expr) -> Expr:
        """The same `group` elements for every lane."""
        if self.group == 1:
            return splat(data, self.lanes)
        word = tirx.Broadcast(tirx.reinterpret("int32", data), self.lanes)
        return tirx.reinterpret(f"{self.data}x{self.group * self.lanes}", word)

    def add(self, sums: Expr, data: Expr, weights: Expr) -> Expr:
        """`sums` plus the dot product of `data` and `weights`, vectors of `group` elements per lane."""
        kind = vector_type("int32", self.lanes)
        if self.accumulates:
            return tirx.call_llvm_pure_intrin(kind, self.instruction, sums, data, weights)
        if self.pairs:
            halves = f"int16x{2 * self.lanes}"
            added = tirx.call_llvm_pure_intrin(halves, self.pairs, data, weights)
            return sums + tirx.call_llvm_pure_intrin(kind, self.instruction, added, splat(tirx.const(1, "int16"), 2 * self.lanes))
        if self.instruction:
            return sums + tirx.call_llvm_pure_intrin(kind, self.instruction, data, weights)
        return sums + (data * weights if self.data == "int32" else data.astype(kind) * weights.astype(kind))

    def add_couple(self, sums: Expr, one: tuple[Expr, Expr], other: tuple[Expr, Expr]) -> Expr:
        """`sums` plus two dot products of data and weights by `pairs`, added as 16-bit numbers first, which hold them (`window_couples`)."""
        halves, kind = f"int16x{2 * self.lanes}", vector_type("int32", self.lanes)
        added = tirx.call_llvm_pure_intrin(halves, self.pairs, *one) + tirx.call_llvm_pure_intrin(halves, self.pairs, *other)
        return sums + tirx.call_llvm_pure_intrin(kind, self.instruction, added, splat(tirx.const(1, "int16"), 2 * self.lanes))


@cache
def dot_of(target: Target, in_windows: bool = False) -> Dot:
    """The fastest exact dot product of 8-bit integers on `target`, in its widest vectors.

    `in_windows` says that weights come such that 16 bits hold the sums of pairs (`window_packing`).
    """
    lanes, machine = target.lanes(LANE_BITS), tvm_target(target)
    if target.arch == "x86_64" and any(codegen.target_has_features(f, machine) for f in _vnni(target.vector_bits)):
        return Dot(4, "uint8", "int8", lanes, f"llvm.x86.avx512.vpdpbusd.{target.vector_bits}", accumulates=True)
    if target.arch == "x86_64" and in_windows and codegen.target_has_features("ssse3", machine):
        return Dot(4, "uint8", "int8", lanes, MULTIPLY_ADD[target.vector_bits], pairs=BYTE_PAIRS[target.vector_bits])
    if target.arch == "x86_64":
        return Dot(2, "int16", "int16", lanes, MULTIPLY_ADD[target.vector_bits])
    if target.arch == "aarch64" and "dotprod" in target.extensions:
        return Dot(4, "int8", "int8", lanes, "llvm.aarch64.neon.sdot.v4i32.v16i8", accumulates=True)
    if target.arch in ("aarch64", "arm"):
        return Dot(1, "int16", "int16", lanes)  # SMLAL
    return Dot(1, "int32", "int32", lanes)


def wide_dot_of(target: Target) -> Dot | None:
    """The dot product of 16-bit integers modulo 2^32, in the target's widest vectors; None where there is no instruction for it."""
    if target.arch != "x86_64":
        return None
    lanes = target.lanes(LANE_BITS)
    if dot_of(target).accumulates:
        return Dot(2, "int16", "int16", lanes, f"llvm.x86.avx512.vpdpwssd.{target.vector_bits}", accumulates=True)
    return Dot(2, "int16", "int16", lanes, MULTIPLY_ADD[target.vector_bits])


def _vnni(bits: int) -> tuple[str, ...]:
    return ("avx512vnni",) if bits == 512 else ("avxvnni",)
