"""What follows the sums of a product of integers, and how its results are stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.ir import Call, PrimType
from tvm.script.ir_builder import tirx as T

from lepton_compiler.backends.tvm.lower.context import Arg, Expr, expression
from lepton_compiler.backends.tvm.lower.procedure import Buffer, load, store
from lepton_compiler.backends.tvm.lower.whole import Result
from lepton_compiler.backends.tvm.outline import is_outlined
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

    def narrows_together(self, target: Target) -> bool:
        """Whether results are bytes that are better narrowed `TOGETHER` vectors at a time: on x86, but where an instruction narrows one vector and
        quotients have to be bounded before.
        """
        if self.last.type.dtype not in (INT8, UINT8) or target.arch != "x86_64" or not target.vector_bits:
            return False
        self.result.value = tirx.const(0, "int32")
        return target.vector_bits < 512 or _narrowing(expression(self.last, [tirx.const(0, "int32")] * len(self.last.shape))).packs

    def store_together(self, vectors: Sequence[tuple[Callable[[Expr], list[Expr]], Callable[[Expr], Expr]]], lanes: int) -> None:
        """Store vectors of results, narrowed together.

        Of each two functions of the lane: the index of its element, and the sum that this follows from.
        """
        count, kind = len(vectors) * lanes, self.last.type.dtype.name
        self.result.value = vectors[0][1](tirx.const(0, "int32"))
        split = _narrowing(expression(self.last, vectors[0][0](tirx.const(0, "int32"))))
        numbers = T.alloc_buffer((count,), str(split.number.ty), scope="global")
        narrow = T.alloc_buffer((count,), kind, scope="global")
        for k, (at, value) in enumerate(vectors):
            with T.vectorized(0, lanes) as lane:
                self.result.value = value(lane)
                store(numbers, [k * lanes + lane], _narrowing(expression(self.last, at(lane))).number)
        whole = [tirx.Ramp(0, 1, count)]
        store(narrow, whole, split.narrow(load(numbers, whole), f"{kind}x{count}"))
        for k, (at, _) in enumerate(vectors):
            with T.vectorized(0, lanes) as lane:
                store(self.y, at(lane), load(narrow, [k * lanes + lane]))


@dataclass(frozen=True)
class _Narrowing:
    """A result of 8 bits: the number of 32 bits that it is made of, and how a vector of those is narrowed to a type.

    `packs` says that this is a function of its own, which packs.
    """

    number: Expr
    narrow: Callable[[Expr, str], Expr]
    packs: bool = False


def _narrowing(value: Expr) -> _Narrowing:
    if isinstance(value, tirx.Let):
        inner = _narrowing(value.body)
        return _Narrowing(tirx.Let(value.var, value.value, inner.number), inner.narrow, inner.packs)
    if isinstance(value, Call) and is_outlined(value) and len(value.args) == 1:
        return _Narrowing(value.args[0], lambda numbers, kind: Call(value.op, [numbers], ret_ty=PrimType(kind)), packs=True)
    cut = isinstance(value, tirx.Cast) and str(value.value.ty) == "int32"
    return _Narrowing(value.value if cut else value.astype("int32"), lambda numbers, kind: numbers.astype(kind))
