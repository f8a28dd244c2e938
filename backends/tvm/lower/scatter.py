"""Writing elements at indices that are known at run time: a copy of the operand, then the updates in order."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from tvm import tirx

from lepton_compiler.backends.tvm.lower import scalar as sc
from lepton_compiler.backends.tvm.lower.context import Arg, Context, Expr, lowers, wide
from lepton_compiler.backends.tvm.lower.movement import wrapped
from lepton_compiler.backends.tvm.lower.procedure import Buffer, load, nest, procedure, store, when
from lepton_compiler.backends.tvm.outline import outlined
from lepton_compiler.ir.types import TensorType, dtype


@lowers("ScatterElements")
def lower_scatter_elements(ctx: Context, op: Any, x: Arg, indices: Arg, updates: Arg) -> list[Any]:
    """Of several updates of an element, the last counts, or all are combined in order.

    Updates of one element lie on a line along `axis`: what comes before the axis is shared among threads.
    """
    axis = op.axis % len(x.shape)

    def write(x: Arg, indices: Arg, updates: Arg, y: Buffer, *sums: Buffer) -> None:
        target = sums[0] if sums else y
        with nest(x.shape[:axis], x.type.size + indices.type.size) as line:
            _copy(x, target, line)
            inside = [k < n for k, n, most in zip(line, indices.shape, x.shape, strict=False) if n < most]
            with when(*inside), nest(indices.shape[axis:]) as rest:
                at = [*line, *rest]
                _update(op, target, [*line, wrapped(indices[at], x.shape[axis]), *rest[1:]], updates[at])
            if sums:
                _copy(_values(target), y, line)

    return procedure(ctx, "scatter_elements", [x, indices, updates], write, _sums(op, x))


@lowers("ScatterND")
def lower_scatter_nd(ctx: Context, op: Any, x: Arg, indices: Arg, updates: Arg) -> list[Any]:
    """Slices written, or combined, one after the other."""
    *outer, depth = indices.shape

    def write(x: Arg, indices: Arg, updates: Arg, y: Buffer, *sums: Buffer) -> None:
        target = sums[0] if sums else y
        _copy(x, target, [])
        with nest(outer) as where:
            first = [wrapped(indices[[*where, tirx.const(d, "int32")]], x.shape[d]) for d in range(depth)]
            with nest(x.shape[depth:]) as rest:
                _update(op, target, [*first, *rest], updates[[*where, *rest]])
        if sums:
            _copy(_values(target), y, [])

    return procedure(ctx, "scatter_nd", [x, indices, updates], write, _sums(op, x))


def _sums(op: Any, x: Arg) -> list[TensorType]:
    """Where updates are combined, if that takes a wider type than that of the result."""
    kind = dtype(wide(x.dtype))
    return [] if op.reduction == "none" or kind.name == x.dtype else [TensorType(kind, x.shape)]


def _values(buffer: Buffer) -> Arg:
    kind = TensorType(dtype(str(buffer.dtype)), tuple(int(d) for d in buffer.shape))
    return Arg(kind, tensor=lambda *i: load(buffer, i))


def _update(op: Any, target: Buffer, at: Sequence[Expr], value: Expr) -> None:
    store(target, at, _combined(op.reduction, load(target, at), value if op.reduction == "none" else value.astype(str(target.dtype))))


@lowers("TensorScatter")
def lower_tensor_scatter(ctx: Context, op: Any, past: Arg, update: Arg, starts: Arg | None = None) -> list[Any]:
    """Each batch row is a copy with consecutive positions of one axis replaced; past the end they go on at the front.

    In mode "linear" the evaluator refuses to run past the end; here the axis is never left either.
    """
    axis, size = op.axis % len(past.shape), past.shape[op.axis]

    def write(past: Arg, update: Arg, starts: Arg | None, y: Buffer) -> None:
        with nest(past.shape[:1], past.type.size) as row:
            _copy(past, y, row)
            begin = tirx.const(0, "int32") if starts is None else tirx.floormod(starts[row], size).astype("int32")
            with nest(update.shape[1:]) as rest:
                place = tirx.floormod(begin + rest[axis - 1], size)
                store(y, [*row, *rest[: axis - 1], place, *rest[axis:]], update[[*row, *rest]])

    return procedure(ctx, "tensor_scatter", [past, update, starts], write)


def _copy(x: Arg, y: Buffer, line: Sequence[Expr]) -> None:
    with nest(x.shape[len(line) :]) as rest:
        value = x[[*line, *rest]]
        store(y, [*line, *rest], value if x.dtype == str(y.dtype) else value.astype(str(y.dtype)))


def _combined(reduction: str, old: Expr, new: Expr) -> Expr:
    """`old` with `new` written over it, added to it, ...; sums and products of truth values are logical."""
    truth = sc.type_of(old) == "bool"
    match reduction:
        case "add":
            return tirx.Or(old, new) if truth else outlined(operator.add, old, new)
        case "mul":
            return tirx.And(old, new) if truth else outlined(operator.mul, old, new)
        case "max":
            return tirx.Or(old, new) if truth else sc.maximum(old, new)
        case "min":
            return tirx.And(old, new) if truth else sc.minimum(old, new)
    return new
