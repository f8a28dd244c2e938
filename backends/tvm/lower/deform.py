"""The samples that a convolution with learnt offsets takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx

from lepton_compiler.backends.tvm.lower.context import Arg, Context, Expr, compute, lowers, wide
from lepton_compiler.backends.tvm.lower.scalar import const
from lepton_compiler.backends.tvm.outline import outlined


@lowers("DeformPatches")
def lower_deform_patches(ctx: Context, op: Any, x: Arg, offset: Arg, mask: Arg | None = None) -> list[Any]:
    """Four pixels around each place, weighted; the channels of a pixel lie side by side and share place and weights."""
    shape, kind, columns = ctx.outputs[0].static_shape, wide(x.dtype), op.kernel_shape[1]
    taps, channels, per_group = shape[4], shape[5], op.blocks // op.offset_groups

    def place(i: Sequence[Expr], axis: int) -> Expr:
        """Where the tap lies along an axis."""
        tap = tirx.floordiv(i[4], columns) if axis == 0 else tirx.floormod(i[4], columns)
        regular = i[1 + axis] * op.strides[axis] - op.pads[axis] + tap * op.dilations[axis]
        shift = offset[[i[0], (tirx.floordiv(i[3], per_group) * taps + i[4]) * 2 + axis, i[1], i[2]]]
        return regular.astype(wide(offset.dtype)) + shift.astype(wide(offset.dtype))

    def body(*i: Expr) -> Expr:
        places = [place(i, axis) for axis in (0, 1)]
        ends = [[_end(at, x.shape[1 + axis], step) for step in (0, 1)] for axis, at in enumerate(places)]
        parts = [
            x[[i[0], row, column, i[3] * channels + i[5]]].astype(kind) * (a * b).astype(kind)
            for row, a in ends[0]
            for column, b in ends[1]
        ]
        total = parts[0] + parts[1] + parts[2] + parts[3]
        if mask is not None:
            total = total * mask[[i[0], tirx.floordiv(i[3], per_group) * taps + i[4], i[1], i[2]]].astype(kind)
        return total.astype(x.dtype)

    return [compute(shape, body, "deform_patches")]


def _end(at: Expr, size: int, step: int) -> tuple[Expr, Expr]:
    """The pixel below (`step` 0) or above a place, inside the image, and its weight, zero for one outside."""

    def pixel(v: Expr) -> Expr:
        return tirx.floor(v) + const(step, v)

    def index(v: Expr) -> Expr:
        zero, last = const(0, v), const(size - 1, v)
        return tirx.Select(pixel(v) > zero, tirx.Select(pixel(v) < last, pixel(v), last), zero).astype("int32")

    def weight(v: Expr) -> Expr:
        inside = tirx.And(pixel(v) >= const(0, v), pixel(v) < const(size, v))
        return tirx.Select(inside, const(1, v) - (pixel(v) - v if step else v - pixel(v)), const(0, v))

    return outlined(index, at), outlined(weight, at)
