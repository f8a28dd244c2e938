"""Running sums and products."""

from __future__ import annotations

import math
import operator
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from lepton_compiler.backends.tvm.lower.context import Arg, Context, Expr, lowers, wide
from lepton_compiler.backends.tvm.lower.movement import unravel
from lepton_compiler.backends.tvm.lower.procedure import Buffer, load, nest, procedure, store
from lepton_compiler.backends.tvm.outline import outlined
from lepton_compiler.backends.tvm.schedules.loops import bits_of

VECTORS = 4
"""Running vectors per line of work: they hide the latency of an addition."""


@lowers("CumSum", "CumProd")
def lower_cumulate(ctx: Context, op: Any, x: Arg) -> list[Any]:
    """One pass along the axis, over as many neighbouring lines at once as fill a few vectors; float16 runs in float32."""
    axis = op.axis % len(x.shape)
    size, kind = x.shape[axis], wide(x.dtype)
    outer, inner = x.shape[:axis], x.shape[axis + 1 :]
    lines = math.prod(inner)
    lanes = ctx.target.lanes(bits_of(kind))
    width = 1 if ctx.internal else lanes * min(VECTORS, lines // lanes) or max(1, lines)
    across = T.vectorized if width >= lanes else T.serial
    start = tirx.const(1 if op.name == "CumProd" else 0, kind)

    def write(x: Arg, y: Buffer) -> None:
        with nest([*outer, -(-lines // width)], x.type.size) as (*line, block):
            first = tirx.min(block * width, lines - width)  # the last block overlaps the one before
            running = T.alloc_buffer((width,), kind, scope="global")
            with across(0, width) as lane:
                store(running, [lane], start)
            with T.serial(0, size) as step, across(0, width) as lane:
                at = [*line, size - 1 - step if op.reverse else step, *unravel(first + lane, inner)]
                _advance(op, x[at].astype(kind), running, lane, lambda total: store(y, at, total.astype(x.dtype)))

    return procedure(ctx, op.name.lower(), [x], write)


def _advance(op: Any, value: Expr, running: Buffer, lane: Expr, emit: Any) -> None:
    """Take one element into a running result, which is emitted after that, or before it if the element is excluded."""
    total = load(running, [lane])
    if op.exclusive:
        emit(total)
    store(running, [lane], outlined(operator.mul if op.name == "CumProd" else operator.add, total, value))
    if not op.exclusive:
        emit(load(running, [lane]))
