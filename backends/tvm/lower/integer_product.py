"""Kernels of convolutions and matrix products of 8-bit integers, with whatever element-wise operators follow.

for line block, range of channel blocks:       units of work, in parallel
    copy of the input rows, padded              where the input cannot be read as it is
    sums of the data that each pixel sees       where the weights have a zero point that does not fit them
    for channel block, line, pixel tile:
        sums[pixels, vectors] = 0               in registers
        for filter row, tap, group:
            sums += dot(data of the pixel, weights)
        y = epilogue(sums less what the zero points make)

With unsigned data x and signed weights w, sum((x - a)(w - b)) = sum(x w) - a (sum(w) - n b) - b sum(x), where x is a in the padding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from lepton_compiler.backends.tvm.compute.integer_product import Geometry, Plan, plan, spans
from lepton_compiler.backends.tvm.dot import Dot, dot_of, splat, vector_type, wide_dot_of
from lepton_compiler.backends.tvm.lower.context import Arg, Context, Expr, compute, lowers
from lepton_compiler.backends.tvm.lower.integer_results import TOGETHER, Results
from lepton_compiler.backends.tvm.lower.procedure import Buffer, load, procedure, store, when
from lepton_compiler.backends.tvm.lower.whole import Result, read_through
from lepton_compiler.ir.types import INT8, INT32, TensorType, dtype
from lepton_compiler.target import Target

LINE = 64
"""Bytes in which rows of copies are aligned, and numbers of a run that are summed at once."""


def lower_product(ctx: Context, op: Any, operands: Sequence[Arg | None], others: Sequence[Arg], result: Result, last: Arg) -> list[Any]:
    """The kernel of a `ConvInteger` or `MatMulInteger`: `last` is an output element in terms of `result` and of the operands `others`."""
    x, w, x_zero, w_zero = (*operands, None, None)[:4]
    assert x is not None and w is not None
    kernel = _kernel_class(ctx, op, x, w)(ctx, op, x, w, x_zero, w_zero)
    ctx.outputs = (last.type,)
    distinct = {id(a): a for a in [x_zero, *others] if a is not None and a.number is None and a is not x}
    stored = [a for a in distinct.values() if a is not x_zero]

    def write(x: Arg, zero: Arg | None, w: Arg, totals: Arg | None, ones: Arg | None, *rest: Any) -> None:
        tables, rest = rest[: len(kernel.tables)], rest[len(kernel.tables) :]
        loaded, (y, *spaces) = rest[: len(stored)], rest[len(stored) :]
        kernel.open(x, zero, w, totals, ones, spaces)
        kernel.tables = tables
        sources = [source, *([x_zero] if x_zero is not None and zero is not None else []), *stored]
        readers = [x, *([zero] if x_zero is not None and zero is not None else []), *loaded]
        with read_through(sources, readers):
            kernel.write(Results(y, result, last))

    source = x
    weights = [kernel.packed, kernel.totals, kernel.ones, *kernel.tables]
    return procedure(ctx, "product", [x, x_zero, *weights, *stored], write, kernel.scratch, private=True)


def _kernel_class(ctx: Context, op: Any, x: Arg, w: Arg) -> type[ProductKernel]:
    from lepton_compiler.backends.tvm.lower.integer_depthwise import DepthwiseKernel, RowPairKernel
    from lepton_compiler.backends.tvm.lower.integer_row_pairs import PairedRowsKernel, suits_pairs
    from lepton_compiler.backends.tvm.lower.integer_windows import WindowKernel

    if getattr(op, "groups", 1) > 1:
        if wide_dot_of(ctx.target) is None:
            return DepthwiseKernel
        return PairedRowsKernel if suits_pairs(geometry_of(op, x.type, w.type)) else RowPairKernel
    return WindowKernel if w.in_windows and dot_of(ctx.target, in_windows=True).pairs else ProductKernel


@lowers("ConvInteger", "MatMulInteger")
def lower_alone(ctx: Context, op: Any, *operands: Arg | None) -> list[Any]:
    """The product as int32; a channels-first convolution works on a copy of its data, and its result is moved back."""
    x, kind, result = operands[0], ctx.outputs[0], Result()
    assert x is not None
    if op.name == "MatMulInteger" or op.layout == "NHWC":
        return lower_product(ctx, op, operands, [], result, result.arg(kind))
    n, c, *size = x.shape
    source = ctx.tensor(x)
    moved = compute((n, *size, c), lambda *i: source(i[0], i[-1], *i[1:-1]), "to_last")
    ctx.workspace(moved)
    shape = (kind.static_shape[0], *kind.static_shape[2:], kind.static_shape[1])
    data = Arg(TensorType(x.type.dtype, (n, *size, c)), moved)
    (y,) = lower_product(ctx, op, [data, *operands[1:]], [], result, result.arg(TensorType(INT32, shape)))
    ctx.workspace(y)
    ctx.outputs = (kind,)
    return [compute(kind.static_shape, lambda *i: y(i[0], *i[2:], i[1]), "to_first")]


def is_matrix(op: Any, w: TensorType) -> bool:
    """Whether a product is one of matrices: pixels are the rows of the left one."""
    pointwise = set(w.static_shape[2:]) == {1} and getattr(op, "groups", 1) == 1
    return op.name == "MatMulInteger" or (pointwise and set(op.strides) == {1} and not any(op.pads))


def geometry_of(op: Any, x: TensorType, w: TensorType) -> Geometry:
    """The shape of a product over channels-last data, in as few and long rows as it can be seen."""
    shape, filters = x.static_shape, w.static_shape
    if op.name == "MatMulInteger":
        return Geometry.of_matrix(int(np.prod(shape[:-1], dtype=np.int64)), shape[-1], filters[1])
    flat = len(shape) == 3
    size, kernel = ((1, shape[1]), (1, filters[2])) if flat else ((shape[1], shape[2]), (filters[2], filters[3]))
    if is_matrix(op, w):
        return Geometry.of_matrix(shape[0] * size[0] * size[1], shape[-1], filters[0])
    pads = (0, op.pads[0], 0, op.pads[1]) if flat else tuple(op.pads)
    strides, dilations = ((1, *op.strides), (1, *op.dilations)) if flat else (op.strides, op.dilations)
    return Geometry(shape[0], size, shape[-1], filters[0], kernel, strides, dilations, pads)


@dataclass(frozen=True)
class Unit:
    """A unit of work: the image, its first line."""

    image: Expr
    first: Expr


@dataclass(frozen=True)
class Tile:
    """A register tile: a line of the unit, counted from its first, a block of channels, `count` pixels from `begin` on, those of next lines too."""

    line: Expr
    block: Expr
    begin: Expr
    count: int


class ProductKernel:
    """The statements of one product."""

    def __init__(self, ctx: Context, op: Any, x: Arg, w: Arg, x_zero: Arg | None, w_zero: Arg | None) -> None:
        self.target = ctx.target
        self.tables: Sequence[Arg] = ()
        self.dot = self.dot_for(ctx.target, x.dtype)
        self.shape = shape = geometry_of(op, x.type, w.type)
        self.matrix, self.x_type = is_matrix(op, w.type), x.type
        given = 0 if w_zero is None else int(w_zero.number or 0)
        self.w_zero = given - 128 if w.type.dtype.name == "uint8" else given
        self.depth = shape.kernel[0] * shape.kernel[1] * shape.channels
        self.sums_data = bool(self.w_zero) and not self.dot.subtracts
        direct = x.dtype == self.dot.data and not any(shape.pads) and self.whole(shape.run)
        direct = direct and not (self.sums_data and shape.run % LINE)
        self.plan = self.plan_for(ctx.target, direct)
        self.width = self.plan.vectors * self.dot.lanes
        self.blocks = -(-shape.outputs // self.width)
        self.row = -(-(shape.padded_row + LINE) // LINE) * LINE
        conv, taps = op.name == "ConvInteger", (shape.taps,) if op.name == "ConvInteger" else ()
        name, filling = "conv" if conv else "matmul", self.w_zero if self.dot.subtracts else 0
        self.packed = self.pack(ctx, w, f"integer_{name}", filling, *taps)
        corrected = not self.dot.subtracts and (x_zero is not None or x.dtype != self.dot.data)
        self.totals = Arg(TensorType(INT32, (1,)), ctx.pack(w, f"integer_{name}_sums", self.width)) if corrected else None
        self.ones = Arg(TensorType(INT8, (1,)), ctx.table(_ones(shape.run))) if self.sums_data else None
        self.units = shape.images * -(-shape.lines // self.plan.rows) * self.plan.ranges
        self.reach = (self.plan.rows - 1) * shape.strides[0] + (shape.kernel[0] - 1) * shape.dilations[0] + 1
        self.scratch = self.spaces()

    def spaces(self) -> list[TensorType]:
        """Intermediate buffers of a unit of work: the copy, sums of data."""
        copies = [TensorType(dtype(self.dot.data), (self.reach, self.row))] if self.plan.copies else []
        return [*copies, *([TensorType(INT32, (self.plan.rows, self.shape.pixels))] if self.sums_data else [])]

    def dot_for(self, target: Target, data: str) -> Dot:
        """How products are added up."""
        return dot_of(target)

    def whole(self, run: int) -> bool:
        """Whether no more than the numbers of a run are read."""
        return run % self.dot.group == 0

    def plan_for(self, target: Target, direct: bool) -> Plan:
        """Tiles; `direct` says that the input can be read as it is."""
        return plan(self.shape, self.dot, target, copies=not direct)

    def pack(self, ctx: Context, w: Arg, function: str, filling: int, *taps: int) -> Arg:
        """The weights as `tile` reads them."""
        return Arg(TensorType(INT8, (1,)), ctx.pack(w, function, self.width, self.dot.group, filling, *taps))

    def open(self, x: Arg, zero: Arg | None, w: Arg, totals: Arg | None, ones: Arg | None, spaces: Sequence[Buffer]) -> None:
        """Take the buffers."""
        self.x, self.w, self.ones_in, self.totals_in = x, w, ones, totals
        remaining = list(spaces)
        self.copied = remaining.pop(0) if self.plan.copies else None
        self.data_sums = remaining.pop(0) if self.sums_data else None
        number = tirx.const(0, "int32") if zero is None else zero[[0] * len(zero.shape)].astype("int32")
        offset = self.dot.offset(self.x_type.dtype.name)
        self.x_zero = number + offset if offset else number

    def write(self, results: Results) -> None:
        """All units of work."""
        blocks = -(-self.shape.lines // self.plan.rows)
        with T.parallel(0, self.units) as unit:
            part, block = unit % self.plan.ranges, unit // self.plan.ranges
            image, first = (block // blocks, block % blocks * self.plan.rows) if self.shape.images > 1 else (0, block * self.plan.rows)
            at = Unit(image, first)
            if self.plan.copies:
                self.copy(at)
            if self.sums_data:
                self.sum_data(at)
            self.multiply(at, part, results)

    def copy(self, unit: Unit) -> None:
        """The rows that this unit reads, with the zero point in the padding."""
        shape, channels = self.shape, self.shape.channels
        left, middle, right = shape.pads[1] * channels, shape.size[1] * channels, shape.pads[3] * channels
        filling = self.converted(self.x_zero, 1)
        with T.serial(0, self.reach) as r:
            row = unit.first * shape.strides[0] + r - shape.pads[0]
            start = (unit.image * shape.size[0] + row) * middle

            def put(at: int, extent: int, value: Callable[[Expr, int], Expr]) -> None:
                for begin, width, count in spans(extent, LINE):
                    with T.serial(0, count) as k:
                        offset = begin + k * width
                        store(self.copied, [r, ramp(at + offset, width)], value(offset, width))

            def fill(offset: Expr, width: int) -> Expr:
                return splat(filling, width)

            def read(offset: Expr, width: int) -> Expr:
                return self.converted(self.read_input(start + offset, width), width)

            def whole_row() -> None:
                put(0, left, fill)
                put(left, middle, read)
                put(left + middle, right, fill)

            if not (shape.pads[0] or shape.pads[2] or shape.lines % self.plan.rows):
                whole_row()
                return
            with T.If(tirx.all(row >= 0, row < shape.size[0])):
                with T.Then():
                    whole_row()
                with T.Else():
                    put(0, left + middle + right, fill)

    def converted(self, value: Expr, width: int) -> Expr:
        """Numbers of the input, or its zero point as int32, as the dot product takes them."""
        element = str(value.ty).partition("x")[0]
        many = (lambda kind: f"{kind}x{width}") if width > 1 else (lambda kind: kind)
        if element == "int32":
            return (value - self.x_zero if self.dot.subtracts else value).astype(self.dot.data)
        if self.dot.subtracts:
            zero = self.x_zero.astype(self.dot.data)
            return value.astype(many(self.dot.data)) - (splat(zero, width))
        if element == self.dot.data:
            return value
        flip = tirx.const(-128 if element == "int8" else 128, element)
        return tirx.reinterpret(many(self.dot.data), tirx.bitwise_xor(value, splat(flip, width)))

    def read_input(self, offset: Expr, width: int) -> Expr:
        """Elements of the input from a linear offset on."""
        return self.x[[*[0] * (len(self.x_type.shape) - 1), ramp(offset, width)]]

    def read(self, unit: Unit, row: Expr, offset: Expr, width: int) -> Expr:
        """Data of a row, counted from the first that this unit reads, from an offset in the padded row on."""
        if self.copied is not None:
            return load(self.copied, [row, ramp(offset, width)])
        shape = self.shape
        start = (unit.image * shape.size[0] + unit.first * shape.strides[0] + row) * shape.size[1] * shape.channels
        return self.read_input(start + offset, width)

    def place(self, line: Expr, pixel: Expr, r: Expr, tap: Expr) -> tuple[Expr, Expr]:
        """Row, and offset in it, of a run."""
        shape = self.shape
        return line * shape.strides[0] + r * shape.dilations[0], (pixel * shape.strides[1] + tap * shape.dilations[1]) * shape.channels

    def sum_data(self, unit: Unit) -> None:
        """Sums of the data that each pixel sees: dot products with ones."""
        shape, dot = self.shape, self.dot
        whole = dot.lanes * dot.group
        with T.serial(0, self.plan.rows) as line, self.inside(unit.first + line), T.serial(0, shape.pixels) as pixel:
            sums = T.alloc_buffer((dot.lanes,), "int32", scope="global")
            store(sums, [ramp(0, dot.lanes)], splat(tirx.const(0, "int32"), dot.lanes))
            with T.serial(0, shape.kernel[0]) as r, T.serial(0, shape.taps) as tap, T.serial(0, -(-shape.run // LINE)) as k:
                row, offset = self.place(line, pixel, r, tap)
                for part in range(LINE // whole):
                    at = k * LINE + part * whole
                    data = self.read(unit, row, offset + at, whole)
                    assert self.ones_in is not None
                    total = dot.add(load(sums, [ramp(0, dot.lanes)]), data, self.ones_in[[ramp(at, whole)]])
                    store(sums, [ramp(0, dot.lanes)], total)
            total = load(sums, [0])
            for lane in range(1, dot.lanes):
                total = total + load(sums, [lane])
            store(self.data_sums, [line, pixel], total)

    def inside(self, line: Expr) -> Any:
        """Statements for lines that there are: the last block may have fewer than others."""
        return when(*([line < self.shape.lines] if self.shape.lines % self.plan.rows else []))

    def multiply(self, unit: Unit, part: Expr, results: Results) -> None:
        """All register tiles of a unit."""
        per = -(-self.blocks // self.plan.ranges)
        with ExitStack() as loops:
            block = part * per + loops.enter_context(T.serial(0, per))
            if self.blocks < per * self.plan.ranges:
                loops.enter_context(when(block < self.blocks))
            line = loops.enter_context(T.serial(0, self.plan.rows))
            loops.enter_context(self.inside(unit.first + line))
            self.tiles(unit, line, block, results)

    def tiles(self, unit: Unit, line: Expr, block: Expr, results: Results) -> None:
        """The register tiles of a line."""
        full, tail = divmod(self.shape.pixels, self.plan.pixels)
        if full:
            with T.serial(0, full) as k:
                self.tile(unit, Tile(line, block, k * self.plan.pixels, self.plan.pixels), results)
        if tail:
            self.tile(unit, Tile(line, block, tirx.const(full * self.plan.pixels, "int32"), tail), results)

    def tile(self, unit: Unit, tile: Tile, results: Results) -> None:
        """The sums of a register tile, and what follows them."""
        shape, dot, vectors = self.shape, self.dot, self.plan.vectors
        sums, done = (T.alloc_buffer((tile.count * self.width,), "int32", scope="global") for _ in range(2))
        places = [(p, v, [ramp(p * self.width + v * dot.lanes, dot.lanes)]) for p in range(tile.count) for v in range(vectors)]
        for _, _, at in places:
            store(sums, at, splat(tirx.const(0, "int32"), dot.lanes))
        with T.serial(0, shape.kernel[0]) as r, T.serial(0, shape.taps) as tap, T.serial(0, -(-shape.run // dot.group)) as g:
            for p, v, at in places:
                row, offset = self.place(tile.line, tile.begin + p, r, tap)
                data = dot.broadcast(self.read(unit, row, offset + g * dot.group, dot.group))
                store(sums, at, dot.add(load(sums, at), data, self.weights(tile.block, r, tap, g, v)))
        for _, _, at in places:  # indexed by a loop, the sums themselves would not stay in registers
            store(done, at, load(sums, at))
        self.finish_tile(unit, tile, done, results)

    def spot(self, tile: Tile, p: Expr) -> tuple[Expr, Expr]:
        """Line, counted from the first of the unit, and pixel in it, of a tile's pixel."""
        if tile.count <= self.shape.pixels:
            return tile.line, tile.begin + p
        return tile.line + tirx.floordiv(p, self.shape.pixels), tirx.floormod(p, self.shape.pixels)

    def finish_tile(self, unit: Unit, tile: Tile, done: Buffer, results: Results) -> None:
        """What follows the sums of a tile, which are in `done` now."""
        vectors, taken = self.plan.vectors, 0
        if self.shape.outputs % self.width == 0 and results.narrows_together(self.target):
            taken = tile.count * vectors // TOGETHER * TOGETHER
            if taken and TOGETHER % vectors == 0:
                with T.serial(0, taken // TOGETHER) as k:
                    places = [(k * (TOGETHER // vectors) + n // vectors, n % vectors) for n in range(TOGETHER)]
                    self.finish_together(unit, tile, done, places, results)
            else:
                for begin in range(0, taken, TOGETHER):
                    places = [(tirx.const(n // vectors, "int32"), n % vectors) for n in range(begin, begin + TOGETHER)]
                    self.finish_together(unit, tile, done, places, results)
        if taken % vectors:
            for v in range(taken % vectors, vectors):
                self.finish(unit, tile, done, tirx.const(taken // vectors, "int32"), v, results)
        if (first := -(-taken // vectors)) < tile.count:
            with T.serial(0, tile.count - first) as p:
                for v in range(vectors):
                    self.finish(unit, tile, done, first + p, v, results)

    def finish_together(self, unit: Unit, tile: Tile, done: Buffer, places: Sequence[tuple[Expr, int]], results: Results) -> None:
        """The epilogue of `TOGETHER` whole vectors: of each the pixel in the tile, and which of the pixel's vectors it is."""
        lanes = self.dot.lanes

        def vector(p: Expr, v: int) -> tuple[Callable[[Expr], list[Expr]], Callable[[Expr], Expr]]:
            begin, start = tile.block * self.width + v * lanes, p * self.width + v * lanes
            line, pixel = self.spot(tile, p)
            return (
                lambda lane: self.index(unit.image, unit.first + line, pixel, begin + lane),
                lambda lane: self.corrected(load(done, [start + lane]), begin + lane, line, pixel),
            )

        results.store_together([vector(p, v) for p, v in places], lanes)

    def weights(self, block: Expr, r: Expr, tap: Expr, g: Expr, v: int) -> Expr:
        """A vector of weights for the dot product."""
        width = self.dot.lanes * self.dot.group
        stored = self.w.tensor(block, r, tap, g, ramp(v * width, width))
        if self.dot.weights == "int8":
            return stored
        wide = stored.astype(vector_type(self.dot.weights, width))
        return wide - splat(tirx.const(self.w_zero, self.dot.weights), width) if self.w_zero else wide

    def finish(self, unit: Unit, tile: Tile, done: Buffer, p: Expr, v: int, results: Results) -> None:
        """The epilogue of one vector of channels of a pixel; the last block may have fewer channels than others."""
        lanes, last = self.dot.lanes, self.blocks - 1
        begin, (line, pixel) = tile.block * self.width + v * lanes, self.spot(tile, p)
        rest = min(lanes, self.shape.outputs - last * self.width - v * lanes)

        def vector(width: int) -> None:
            with T.vectorized(0, width) if width > 1 else T.serial(0, 1) as lane:
                value = load(done, [p * self.width + v * lanes + lane])
                at = self.index(unit.image, unit.first + line, pixel, begin + lane)
                results.store(at, self.corrected(value, begin + lane, line, pixel))

        if rest == lanes:
            vector(lanes)
            return
        if last:
            with when(tile.block < last):
                vector(lanes)
        if rest > 0:
            with when(*([tile.block >= last] if last else [])):
                vector(rest)

    def corrected(self, value: Expr, channel: Expr, line: Expr, pixel: Expr) -> Expr:
        """The sum less what the zero points make of it."""
        if self.totals_in is not None:
            total = self.totals_in.tensor(channel)
            total = total - self.depth * self.w_zero if self.w_zero else total
            value = value - self.x_zero * total
        if self.sums_data:
            value = value - load(self.data_sums, [line, pixel]) * self.w_zero
        return value

    def index(self, image: Expr, line: Expr, pixel: Expr, channel: Expr) -> list[Expr]:
        """The index of an element of the result."""
        *outer, _ = self.x_type.static_shape
        if self.matrix:
            flat, index = line * self.shape.pixels + pixel, [channel]
            for position, extent in reversed(list(enumerate(outer))):
                index.insert(0, flat % extent if position else flat)
                flat = flat // extent
            return index
        return [image, pixel, channel] if len(outer) == 2 else [image, line, pixel, channel]


def _ones(run: int) -> np.ndarray:
    """Weights that add up a run."""
    return np.pad(np.ones(run, np.int8), (0, -run % LINE))


def ramp(start: Expr, width: int) -> Expr:
    """`width` consecutive indices from `start` on."""
    return tirx.Ramp(start, 1, width) if width > 1 else start
