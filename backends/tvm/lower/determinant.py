"""Determinants by elimination."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from lepton_compiler.backends.tvm.lower.context import Arg, Context, Expr, lowers, wide
from lepton_compiler.backends.tvm.lower.procedure import Buffer, Cell, load, nest, procedure, store, when
from lepton_compiler.ir.types import DTYPES, TensorType


@lowers("Det")
def lower_det(ctx: Context, op: Any, x: Arg) -> list[Any]:
    """LU factorisation with partial pivoting of each matrix; sign and logarithm of the pivots' product, which cannot overflow."""
    *batch, order, _ = x.shape
    kind = wide(x.dtype)

    def write(x: Arg, y: Buffer, lu: Buffer) -> None:
        with nest(batch, x.type.size * order) as matrix:
            with nest([order, order]) as at:
                store(lu, [*matrix, *at], x[[*matrix, *at]].astype(kind))
            sign, log = Cell("float64", tirx.const(1, "float64")), Cell("float64", tirx.const(0, "float64"))
            with T.serial(0, order) as step:
                _pivot(lu, matrix, step, order, sign)
                pivot = Cell(kind, load(lu, [*matrix, step, step]))
                with when(pivot.get() < tirx.const(0, kind)):
                    sign.set(-sign.get())
                log.set(log.get() + tirx.log(tirx.abs(pivot.get()).astype("float64")))
                with when(pivot.get() != tirx.const(0, kind)):
                    _eliminate(lu, matrix, step, order, pivot)
            store(y, matrix, (sign.get() * tirx.exp(log.get())).astype(x.dtype))

    return procedure(ctx, "det", [x], write, [TensorType(DTYPES[kind], x.shape)])


def _pivot(lu: Buffer, matrix: Sequence[Expr], step: Expr, order: int, sign: Cell) -> None:
    """Bring the row with the largest element of column `step` up to that row."""
    best = Cell("int32", step)
    with T.serial(step + 1, order) as row:
        here, there = load(lu, [*matrix, row, step]), load(lu, [*matrix, best.get(), step])
        with when(tirx.abs(here) > tirx.abs(there)):
            best.set(row)
    with when(best.get() != step):
        sign.set(-sign.get())
        with T.serial(step, order) as column:
            upper, lower = [*matrix, step, column], [*matrix, best.get(), column]
            spare = Cell(str(lu.dtype), load(lu, upper))
            store(lu, upper, load(lu, lower))
            store(lu, lower, spare.get())


def _eliminate(lu: Buffer, matrix: Sequence[Expr], step: Expr, order: int, pivot: Cell) -> None:
    """Subtract multiples of row `step` from the rows below it."""
    with T.serial(step + 1, order) as row:
        factor = Cell(str(lu.dtype), load(lu, [*matrix, row, step]) / pivot.get())
        with T.serial(step + 1, order) as column:
            at = [*matrix, row, column]
            store(lu, at, load(lu, at) - factor.get() * load(lu, [*matrix, step, column]))
