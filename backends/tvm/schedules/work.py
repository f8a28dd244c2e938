"""How long the parallel loops of a kernel take: an estimate from instructions and memory, to decide which are worth sharing among threads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tvm
from tvm import tirx
from tvm.ir.expr import TensorLoad

from lepton_compiler.backends.tvm import outline
from lepton_compiler.backends.tvm.schedules.epilogue import parts
from lepton_compiler.backends.tvm.schedules.kinds import TRIPS
from lepton_compiler.backends.tvm.schedules.loops import bits_of

PER_NANOSECOND = 6
"""Instructions, on vectors or not: two per cycle at 3 GHz."""
BYTES_PER_NANOSECOND = 40
"""From beyond the first level of the cache."""
BRANCHES = ("body", "then_case", "else_case")


def parallel_work(func: Any) -> list[int]:
    """Nanoseconds of each parallel loop of a scheduled function, in order of execution, on one thread."""
    found: list[int] = []
    pending = [func.body]
    while pending:
        stmt = pending.pop()
        if isinstance(stmt, tirx.For) and stmt.kind == tirx.ForKind.PARALLEL:
            estimate = _Estimate()
            estimate.add(stmt, 1, 1)
            found.append(estimate.nanoseconds)
        else:
            pending += reversed(_children(stmt))
    return found


class _Estimate:
    """Adds up statements: conditions are taken to hold, a vectorised loop is one instruction per operation."""

    def __init__(self) -> None:
        self.instructions = 0
        self.touched: dict[int, tuple[Any, int]] = {}

    @property
    def nanoseconds(self) -> int:
        """The longer one of the time for the instructions and that for reading and writing each buffer once."""
        moved = sum(min(count, math.prod(int(e) for e in b.shape)) * bits_of(b.dtype) // 8 for b, count in self.touched.values())
        return max(self.instructions // PER_NANOSECOND, moved // BYTES_PER_NANOSECOND)

    def add(self, stmt: Any, times: int, lanes: int) -> None:
        """Count a statement that runs `times` times on `lanes` lanes."""
        if isinstance(stmt, tirx.BufferStore):
            accumulates = self.value(stmt.value, times, lanes, stmt.buffer)
            self.instructions += 0 if accumulates else times
            self.touch(stmt.buffer, times * lanes)
        elif isinstance(stmt, tirx.For):
            extent = int(stmt.extent) if isinstance(stmt.extent, tirx.IntImm) else int(stmt.annotations.get(TRIPS, 1))
            wide = stmt.kind == tirx.ForKind.VECTORIZED
            self.add(stmt.body, times if wide else times * extent, lanes * extent if wide else lanes)
        else:
            for child in _children(stmt):
                self.add(child, times, lanes)

    def value(self, expression: Any, times: int, lanes: int, target: Any) -> bool:
        """Count an expression, an addition of a product as one operation; whether it reads `target`."""
        pending, reads = [expression], False
        while pending:
            node = pending.pop()
            if isinstance(node, TensorLoad):
                self.touch(node.source, times * lanes)
                reads = reads or node.source.same_as(target)
                continue
            outlined = isinstance(node, tvm.ir.Call) and outline.is_outlined(node)
            children = parts(node)
            fused = isinstance(node, tirx.Add) and any(isinstance(child, tirx.Mul) for child in children)
            self.instructions += times * (outline.weight(node) if outlined else bool(children) - fused)
            pending += children
        return reads

    def touch(self, buffer: Any, count: int) -> None:
        """Note accesses to a buffer."""
        _, before = self.touched.get(hash(buffer), (buffer, 0))
        self.touched[hash(buffer)] = buffer, before + count


def _children(stmt: Any) -> Sequence[Any]:
    if isinstance(stmt, tirx.SeqStmt):
        return list(stmt.seq)
    if hasattr(stmt, "block"):
        return [stmt.block.body, *([stmt.block.init] if stmt.block.init is not None else [])]
    return [child for name in BRANCHES if (child := getattr(stmt, name, None)) is not None]
