"""Kernels of 8-bit convolutions and matrix products in the vectors of Cortex-M, with whatever element-wise operators follow.

for each tile of two pixels:
    run[pixel] = what it sees, the zero point in the padding         on the stack, where the data cannot be read as it is
    for each four output channels:
        for each two of them:
            sums[pixels, two] = 0                                    in core registers
            for each 16 numbers of the run:
                sums += run * weights                                16 products per instruction
        y = epilogue(sums less what the zero point makes)            four channels at a time

With data x and weights w, sum((x - a) w) = sum(x w) - a sum(w), where x is a in the padding. Unsigned data is made signed as it is copied.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from lepton_compiler.backends.tvm.compute.integer_product import spans
from lepton_compiler.backends.tvm.helium_packing import LANES, WIDTH
from lepton_compiler.backends.tvm.lower.context import Arg, Context, Expr
from lepton_compiler.backends.tvm.lower.integer_product import ramp
from lepton_compiler.backends.tvm.lower.micro_product import Emit, Product, clamped, loop
from lepton_compiler.backends.tvm.lower.procedure import Buffer, Cell, load, store, when
from lepton_compiler.ir.types import INT8, INT32, UINT8, TensorType

OFFSET = 128
"""From signed to unsigned 8-bit numbers."""

Place = tuple[Expr, Expr, Expr]
"""Image, line and column of a pixel."""


class HeliumProduct(Product):
    """A convolution that sums over all channels, or a matrix product."""

    def __init__(self, ctx: Context, op: Any, x: Arg, w: Arg, zeros: Sequence[int]) -> None:
        super().__init__(ctx, op, x, w, zeros)
        shape = self.shape
        self.flips = x.type.dtype == UINT8
        self.point = self.zero - OFFSET if self.flips else self.zero
        self.depth = shape.kernel[0] * shape.kernel[1] * shape.channels
        self.vectors = -(-self.depth // WIDTH)
        self.direct = shape.kernel == (1, 1) and not any(shape.pads) and self.depth % WIDTH == 0 and not self.flips
        if self.point:
            self.totals = Arg(TensorType(INT32, (1,)), ctx.pack(w, f"integer_{self.kind}_sums", LANES))

    def tile_size(self) -> tuple[int, int]:  # noqa: D102
        return (1, 4) if self.total == 1 else (2, 2)

    def pack(self, ctx: Context, w: Arg) -> Arg:  # noqa: D102
        return Arg(TensorType(INT8, (1,)), ctx.pack(w, f"helium_{self.kind}", self.channels))

    def tile(self, first: Expr, count: int, emit: Emit) -> None:  # noqa: D102
        places = [self.place(first + p) for p in range(count)]
        run = None if self.direct else T.alloc_buffer((count * self.vectors * WIDTH,), "int8", scope="global")
        if run is not None:
            for p, place in enumerate(places):
                self.gather(run, p * self.vectors * WIDTH, place)
        starts = [Cell("int32", self.start(*place)).get() for place in places] if run is None else []
        blocks, rest = divmod(self.shape.outputs, LANES)
        if blocks:
            with loop(blocks) as block:
                self.channel_block(run, starts, block, places, LANES, emit)
        if rest:
            self.channel_block(run, starts, tirx.const(blocks, "int32"), places, rest, emit)

    def start(self, image: Expr, line: Expr, column: Expr) -> Expr:
        """Where the data of a pixel begins that is read as it is."""
        shape = self.shape
        return ((image * shape.size[0] + line * shape.strides[0]) * shape.size[1] + column * shape.strides[1]) * shape.channels

    def channel_block(self, run: Buffer, starts: Sequence[Expr], block: Expr, places: Sequence[Place], channels: int, emit: Emit) -> None:
        """Four channels of a tile, or those that are left, and what follows them."""
        done = T.alloc_buffer((len(places) * LANES,), "int32", scope="global")
        for part in range(LANES // self.channels):
            sums = [[Cell("int32", tirx.const(0, "int32")) for _ in range(self.channels)] for _ in places]
            with loop(self.vectors) as k:
                data = [self.data_vector(run, starts, p, k) for p in range(len(places))]
                for c in range(self.channels):
                    weights = self.w[[block, part, k, ramp(c * WIDTH, WIDTH)]]
                    for p, pixel in enumerate(sums):
                        pixel[c].set(multiply_add(pixel[c].get(), data[p], weights))
            for p, pixel in enumerate(sums):
                for c, total in enumerate(pixel):
                    store(done, [p * LANES + part * self.channels + c], total.get())
        for p, (image, line, column) in enumerate(places):
            with T.vectorized(0, channels) if channels > 1 else T.serial(0, 1) as lane:
                channel = block * LANES + lane
                emit(self.index(image, line, column, channel), self.corrected(load(done, [p * LANES + lane]), channel))

    def data_vector(self, run: Buffer, starts: Sequence[Expr], p: int, k: Expr) -> Expr:
        """16 numbers of what a pixel sees."""
        if run is not None:
            return load(run, [ramp((p * self.vectors + k) * WIDTH, WIDTH)])
        return self.data[[*[0] * (len(self.x_type.shape) - 1), ramp(starts[p] + k * WIDTH, WIDTH)]]

    def corrected(self, value: Expr, channel: Expr) -> Expr:
        """A sum less what the zero point of the data makes of it."""
        return value if self.totals is None else value - self.totals.tensor(channel) * self.point

    def gather(self, run: Buffer, base: int, place: Place) -> None:
        """What a pixel sees, row after row of the filter."""
        shape, (image, line, column) = self.shape, place
        if self.depth % WIDTH:
            store(run, [ramp(base + (self.vectors - 1) * WIDTH, WIDTH)], tirx.Broadcast(tirx.const(0, "int8"), WIDTH))
        with loop(shape.kernel[0]) as r, loop(shape.taps) as tap:
            at = base + (r * shape.taps + tap) * shape.run
            row = Cell("int32", line * shape.strides[0] + (r * shape.dilations[0] - shape.pads[0])).get()
            left = Cell("int32", column * shape.strides[1] + (tap * shape.dilations[1] - shape.pads[1])).get()
            start = Cell("int32", ((image * shape.size[0] + row) * shape.size[1] + left) * shape.channels).get()
            width = shape.run // shape.channels
            bounds = [*self.bounds(row, shape.size[0], 0), *self.bounds(left, shape.size[1] - width + 1, 1)]
            if not bounds:
                self.copy_run(run, at, start)
                return
            with T.If(tirx.all(*bounds)):
                with T.Then():
                    self.copy_run(run, at, start)
                with T.Else():
                    self.copy_edge(run, at, start, row, left)

    def copy_run(self, run: Buffer, at: Expr, start: Expr) -> None:
        """A run that is inside."""
        for begin, width in pieces(self.shape.run):
            store(run, [ramp(at + begin, width)], self.signed(start + begin, width))

    def copy_edge(self, run: Buffer, at: Expr, start: Expr, row: Expr, left: Expr) -> None:
        """A run of which a part, or all, is padding."""
        shape = self.shape
        for begin, width in pieces(shape.run):
            point = tirx.const(self.point, "int8")
            store(run, [ramp(at + begin, width)], tirx.Broadcast(point, width) if width > 1 else point)
        with when(row >= 0, row < shape.size[0]):
            low, high = clamped(left, shape.run // shape.channels, shape.size[1], 1)
            width = math.gcd(shape.channels, WIDTH)
            with T.serial(low * (shape.channels // width), high * (shape.channels // width)) as e:
                store(run, [ramp(at + e * width, width)], self.signed(start + e * width, width))

    def signed(self, offset: Expr, width: int) -> Expr:
        """Neighbouring numbers of the data as signed ones."""
        value = self.data[[*[0] * (len(self.x_type.shape) - 1), ramp(offset, width)]]
        if not self.flips:
            return value
        turned = tirx.const(OFFSET, "uint8")
        flipped = tirx.bitwise_xor(value, tirx.Broadcast(turned, width) if width > 1 else turned)
        return tirx.reinterpret(f"int8x{width}" if width > 1 else "int8", flipped)


def pieces(extent: int) -> list[tuple[int, int]]:
    """Vectors that cover so many bytes: (first, width). The last one begins earlier where all are whole; less than one is several smaller ones."""
    if extent >= WIDTH:
        return [(min(begin, extent - WIDTH), WIDTH) for begin in range(0, extent, WIDTH)]
    return [(first + k * width, width) for first, width, count in spans(extent, WIDTH) for k in range(count)]


def multiply_add(total: Expr, data: Expr, weights: Expr) -> Expr:
    """`VMLADAVA`: a sum plus 16 products of signed bytes."""
    return tirx.call_llvm_pure_intrin("int32", "llvm.arm.mve.vmldava", 0, 0, 0, total, data, weights)
