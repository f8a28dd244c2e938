"""How long the parallel loops of a kernel take: an estimate from instructions, to decide which are worth sharing among threads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
from tvm import tirx

from lepton_compiler.backends.tvm import outline
from lepton_compiler.backends.tvm.schedules.epilogue import parts

PICOSECONDS = 170
"""Of one instruction, on a vector or not: two per cycle at 3 GHz."""
BRANCHES = ("body", "then_case", "else_case")


def parallel_work(func: Any) -> list[int]:
    """Nanoseconds of each parallel loop of a scheduled function, in order of execution, on one thread."""
    found: list[int] = []
    pending = [func.body]
    while pending:
        stmt = pending.pop()
        if isinstance(stmt, tirx.For) and stmt.kind == tirx.ForKind.PARALLEL:
            found.append(_instructions(stmt) * PICOSECONDS // 1000)
        else:
            pending += reversed(_children(stmt))
    return found


def _instructions(stmt: Any) -> int:
    """Instructions that run in `stmt`: a vectorised loop counts once, conditions are taken to hold."""
    if isinstance(stmt, tirx.BufferStore):
        return 1 + _operations(stmt.value)
    inner = sum(_instructions(child) for child in _children(stmt))
    if not isinstance(stmt, tirx.For) or stmt.kind == tirx.ForKind.VECTORIZED:
        return inner
    return inner * (int(stmt.extent) if isinstance(stmt.extent, tirx.IntImm) else 1)


def _children(stmt: Any) -> Sequence[Any]:
    if isinstance(stmt, tirx.SeqStmt):
        return list(stmt.seq)
    if hasattr(stmt, "block"):
        return [stmt.block.body, *([stmt.block.init] if stmt.block.init is not None else [])]
    return [child for name in BRANCHES if (child := getattr(stmt, name, None)) is not None]


def _operations(expression: Any) -> int:
    """Operations in an expression, index arithmetic and loads left out, but loads at computed places counted."""
    count, pending = 0, [expression]
    while pending:
        node = pending.pop()
        if isinstance(node, tvm.ir.Call) and outline.is_outlined(node):
            count += outline.weight(node)
            pending += list(node.args)
        else:
            children = parts(node)
            count += bool(children)
            pending += children
    return count
