"""What follows the sums of a product of integers, and how its results are stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from lepton_compiler.backends.tvm.lower.context import Arg, Expr, expression
from lepton_compiler.backends.tvm.lower.procedure import Buffer, load, store
from lepton_compiler.backends.tvm.lower.whole import Result
from lepton_compiler.ir.types import INT8, UINT8
from lepton_compiler.target import Target

TOGETHER = 4
"""Vectors of 32-bit numbers to one of bytes."""


@dataclass(frozen=True)
class Results:
    """Computes and stores results: `last` is an element of `y` in terms of the sum that is in `result` meanwhile."""

    y: Buffer
    result: Result
    last: Arg

    def store(self, at: Sequence[Expr], value: Expr) -> None:
        """Store what follows from a sum."""
        self.result.value = value
        store(self.y, at, expression(self.last, at))

    def code(self, at: Sequence[Expr], value: Expr) -> Expr:
        """What follows from a sum as an int32 of which the lower byte counts."""
        self.result.value = value
        return _before_narrowing(expression(self.last, at))

    def narrows_together(self, target: Target) -> bool:
        """Whether results are bytes that are better narrowed `TOGETHER` vectors at a time: x86 without the instruction for one vector."""
        return self.last.type.dtype in (INT8, UINT8) and target.arch == "x86_64" and 0 < target.vector_bits < 512

    def store_together(self, vectors: Sequence[tuple[Callable[[Expr], list[Expr]], Callable[[Expr], Expr]]], lanes: int) -> None:
        """Store vectors of results, narrowed together.

        Of each two functions of the lane: the index of its element, and the sum that this follows from.
        """
        codes = T.alloc_buffer((len(vectors) * lanes,), "int32", scope="global")
        narrow = T.alloc_buffer((len(vectors) * lanes,), "uint8", scope="global")
        for k, (at, value) in enumerate(vectors):
            with T.vectorized(0, lanes) as lane:
                store(codes, [k * lanes + lane], self.code(at(lane), value(lane)))
        whole = [tirx.Ramp(0, 1, len(vectors) * lanes)]
        store(narrow, whole, load(codes, whole).astype(f"uint8x{len(vectors) * lanes}"))
        kind = self.last.type.dtype.name
        for k, (at, _) in enumerate(vectors):
            with T.vectorized(0, lanes) as lane:
                value = load(narrow, [k * lanes + lane])
                store(self.y, at(lane), value if kind == "uint8" else tirx.reinterpret(kind, value))


def _before_narrowing(value: Expr) -> Expr:
    if isinstance(value, tirx.Let):
        return tirx.Let(value.var, value.value, _before_narrowing(value.body))
    narrowed = isinstance(value, tirx.Cast) and str(value.value.ty) == "int32"
    return value.value if narrowed else value.astype("int32")
