"""Pooling inside boxes that are known at run time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from lepton_compiler.backends.tvm.lower import scalar as sc
from lepton_compiler.backends.tvm.lower.context import Arg, Context, Expr, lowers, wide
from lepton_compiler.backends.tvm.lower.movement import wrapped
from lepton_compiler.backends.tvm.lower.procedure import Buffer, Cell, load, nest, procedure, store
from lepton_compiler.backends.tvm.lower.scalar import const
from lepton_compiler.backends.tvm.outline import outlined

CHANNELS = 16
"""Channels that share the places of their samples."""


@lowers("RoiAlign")
def lower_roi_align(ctx: Context, op: Any, x: Arg, rois: Arg, batches: Arg) -> list[Any]:
    """Box by box and bin by bin; the samples of a bin are counted at run time. Boxes and blocks of channels are shared among threads."""
    channels, kind, bins = x.shape[1], wide(x.dtype), (op.output_height, op.output_width)
    block = min(CHANNELS, channels)
    most = op.mode == "max"

    def write(x: Arg, rois: Arg, batches: Arg, y: Buffer) -> None:
        with nest([rois.shape[0], -(-channels // block)], ctx.outputs[0].size * 16) as (box, part):
            first = tirx.min(part * block, channels - block)  # the last block overlaps the one before
            image = Cell("int32", wrapped(batches[[box]], x.shape[0]))
            rows, columns = (_Line(op, rois, box, axis, bins[axis], x.shape[2 + axis]) for axis in (0, 1))
            count = Cell("int32", rows.samples.get() * columns.samples.get())
            with nest(bins) as (i, j):
                total = T.alloc_buffer((block,), kind, scope="global")
                with T.serial(0, block) as c:
                    store(
                        total,
                        [c],
                        tirx.Select(count.get() > 0, tirx.const(float("-inf"), kind), tirx.const(0, kind)) if most else tirx.const(0, kind),
                    )
                with T.serial(0, rows.samples.get()) as row:
                    rows.seek(i, row)
                    with T.serial(0, columns.samples.get()) as column:
                        columns.seek(j, column)
                        with T.serial(0, block) as c:
                            corners = [_corner(x, [image.get(), first + c], r, s, kind) for r in rows.ends() for s in columns.ends()]
                            store(total, [c], _joined(load(total, [c]), corners, most))
                share = tirx.max(count.get(), 1).astype(kind)
                with T.serial(0, block) as c:
                    value = load(total, [c])
                    store(y, [box, first + c, i, j], (value if most else value / share).astype(x.dtype))

    return procedure(ctx, "roi_align", [x, rois, batches], write)


def _corner(x: Arg, plane: Sequence[Expr], row: tuple[Expr, Expr], column: tuple[Expr, Expr], kind: str) -> Expr:
    """A pixel beside a sample, times its weight."""
    return x[[*plane, row[0], column[0]]].astype(kind) * (row[1] * column[1]).astype(kind)


def _joined(total: Expr, corners: Sequence[Expr], most: bool) -> Expr:
    """The running sum or maximum with the four pixels around a sample."""
    if not most:
        return total + (corners[0] + corners[1] + corners[2] + corners[3])
    for corner in corners:
        total = _maximum(total, corner)
    return total


def _maximum(a: Expr, b: Expr) -> Expr:
    return outlined(sc.maximum, a, b) if sc.is_float(a) else sc.maximum(a, b)


class _Line:
    """The samples of a box along one axis: how many a bin has, and the pixels on both sides of the current one."""

    def __init__(self, op: Any, rois: Arg, box: Expr, axis: int, bins: int, size: int) -> None:
        self.kind, self.image = wide(rois.dtype), size
        half = op.coordinate_transformation_mode == "half_pixel"
        near, far = (
            sc.rounded(rois[[box, tirx.const(k, "int32")]].astype(self.kind) * self.number(op.spatial_scale))
            - self.number(0.5 if half else 0)
            for k in (1 - axis, 3 - axis)
        )
        self.start = Cell(self.kind, near)
        extent = far - self.start.get()
        self.size = Cell(self.kind, (extent if half else tirx.Select(extent > self.number(1), extent, self.number(1))) / self.number(bins))
        adaptive = tirx.max(tirx.ceil(self.size.get()).astype("int32"), 0)
        self.samples = Cell("int32", op.sampling_ratio or adaptive)
        self.low, self.high = Cell("int32", 0), Cell("int32", 0)
        self.weights = Cell(self.kind, self.number(0)), Cell(self.kind, self.number(0))

    def number(self, value: float) -> Expr:
        """A constant of the type of coordinates."""
        return tirx.const(value, self.kind)

    def seek(self, bin_: Expr, sample: Expr) -> None:
        """Make `sample` of a bin the current one; its weights are zero where it is more than a pixel outside the image."""
        step = (sample.astype(self.kind) + self.number(0.5)) * self.size.get()
        within = sc.rounded(step) / tirx.max(self.samples.get(), 1).astype(self.kind)
        at = Cell(self.kind, self.start.get() + (sc.rounded(bin_.astype(self.kind) * self.size.get()) + within))
        inside = Cell("bool", tirx.And(at.get() >= self.number(-1), at.get() <= self.number(self.image)))
        last = self.number(self.image - 1)
        at.set(tirx.Select(at.get() > self.number(0), tirx.Select(at.get() < last, at.get(), last), self.number(0)))
        self.low.set(at.get().astype("int32"))
        self.high.set(tirx.min(self.low.get() + 1, self.image - 1))
        share = at.get() - self.low.get().astype(self.kind)
        self.weights[0].set(tirx.Select(inside.get(), self.number(1) - share, self.number(0)))
        self.weights[1].set(tirx.Select(inside.get(), share, self.number(0)))

    def ends(self) -> list[tuple[Expr, Expr]]:
        """Pixel and weight on either side of the current sample."""
        return [(self.low.get(), self.weights[0].get()), (self.high.get(), self.weights[1].get())]


@lowers("MaxRoiPool")
def lower_max_roi_pool(ctx: Context, op: Any, x: Arg, rois: Arg) -> list[Any]:
    """The maximum over the pixels of each bin of each box, zero for a bin without pixels."""
    kind = wide(rois.dtype)

    def corner(box: Expr, k: int) -> Cell:
        """A corner's coordinate as a pixel: scaled, rounded half away from zero."""
        at = rois[[box, tirx.const(k, "int32")]].astype(kind)
        size = tirx.floor(sc.rounded(tirx.abs(at * tirx.const(op.spatial_scale, kind))) + tirx.const(0.5, kind)).astype("int32")
        return Cell("int32", tirx.Select(at < const(0, at), -size, size))

    def write(x: Arg, rois: Arg, y: Buffer) -> None:
        with nest([rois.shape[0], x.shape[1]], ctx.outputs[0].size * 16) as (box, channel):
            image = Cell("int32", wrapped(rois[[box, tirx.const(0, "int32")]], x.shape[0]))
            left, top, right, bottom = (corner(box, k) for k in (1, 2, 3, 4))
            with nest(op.pooled_shape) as (i, j):
                rows = _bin(i, top, bottom, op.pooled_shape[0], x.shape[2])
                columns = _bin(j, left, right, op.pooled_shape[1], x.shape[3])
                best, found = Cell(x.dtype, tirx.const(0, x.dtype)), Cell("bool", tirx.const(False, "bool"))
                with T.serial(rows[0].get(), rows[1].get()) as r, T.serial(columns[0].get(), columns[1].get()) as c:
                    pixel = x[[image.get(), channel, r, c]]
                    larger = _maximum(best.get().astype(wide(x.dtype)), pixel.astype(wide(x.dtype))).astype(x.dtype)
                    best.set(tirx.Select(found.get(), larger, pixel))
                    found.set(tirx.const(True, "bool"))
                store(y, [box, channel, i, j], best.get())

    return procedure(ctx, "max_roi_pool", [x, rois], write)


def _bin(position: Expr, start: Cell, end: Cell, bins: int, size: int) -> tuple[Cell, Cell]:
    """First pixel and end of a bin of one axis of a box, inside the image."""
    f32 = "float32"
    step = tirx.max(end.get() - start.get() + 1, 1).astype(f32) / tirx.const(bins, f32)
    low = tirx.floor(position.astype(f32) * step).astype("int32") + start.get()
    high = tirx.ceil((position + 1).astype(f32) * step).astype("int32") + start.get()
    first, last = Cell("int32", tirx.max(0, tirx.min(low, size))), Cell("int32", tirx.max(0, tirx.min(high, size)))
    last.set(tirx.max(first.get(), last.get()))
    return first, last
