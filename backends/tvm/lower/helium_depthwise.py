"""Kernels of convolutions of each channel by a filter of its own, of 8-bit integers, in the vectors of Cortex-M.

for each line, four channels, tile of pixels:
    sums[pixels] = 0                                                 vectors of four channels
    for each row of the filter that is inside:
        weights of the row, as float32                               in registers
        for each column that the tile sees: x = data less its zero point, as float32
            sums[pixel] += x * weights, for all taps by which it counts

Products of 8-bit numbers are exact in float32, and so are their sums up to 2^24. Helium multiplies and adds vectors of floats in one
instruction, vectors of integers in two. What a tile at the edge of the image does not see is known when it is written out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from lepton_compiler.backends.tvm.capabilities import MOST_TAPS
from lepton_compiler.backends.tvm.helium_packing import LANES
from lepton_compiler.backends.tvm.lower.context import Arg, Context, Expr
from lepton_compiler.backends.tvm.lower.integer_product import ramp
from lepton_compiler.backends.tvm.lower.micro_product import Depthwise, Emit, clamped, loop
from lepton_compiler.backends.tvm.lower.procedure import Buffer, Cell, load, store
from lepton_compiler.ir.types import INT8, TensorType

MOST_PIXELS = 4
"""Pixels of a register tile."""
REGISTERS = 8
WRITTEN_COLUMNS = 5
"""Columns of a filter up to which they are no loop."""


class HeliumDepthwise(Depthwise):
    """A convolution that filters each channel by itself."""

    def __init__(self, ctx: Context, op: Any, x: Arg, w: Arg, zeros: Sequence[int]) -> None:
        super().__init__(ctx, op, x, w, zeros)
        columns = self.shape.kernel[1]
        self.written = columns <= WRITTEN_COLUMNS
        self.count = min(MOST_PIXELS, REGISTERS - 1 - columns, self.shape.pixels) if self.written else 1

    @staticmethod
    def suits(x: TensorType, w: TensorType) -> bool:
        """Whether a vector of channels is there, and float32 holds the sums."""
        return x.static_shape[-1] >= LANES and w.size // w.static_shape[0] <= MOST_TAPS

    def pack(self, ctx: Context, w: Arg) -> Arg:  # noqa: D102
        return Arg(TensorType(INT8, (1,)), ctx.pack(w, "helium_depthwise"))

    def write(self, emit: Emit) -> None:
        """All blocks of channels; where they do not come out even, the last one begins earlier and computes channels again."""
        shape = self.shape
        with loop(shape.images) as image, loop(shape.lines) as line:
            row = Cell("int32", line * shape.strides[0] - shape.pads[0]).get()
            start = Cell("int32", ((image * shape.size[0] + row) * shape.size[1] - shape.pads[1]) * shape.channels).get()
            rows: tuple[Any, Any] = (0, shape.kernel[0])
            if shape.pads[0] or shape.pads[2]:
                rows = clamped(row, shape.kernel[0], shape.size[0], shape.dilations[0])
            with loop(-(-shape.channels // LANES)) as block:
                begin = block * LANES
                channel = tirx.min(begin, tirx.const(shape.channels - LANES, "int32")) if shape.channels % LANES else begin
                first = Cell("int32", channel).get()
                for pixel, step, times in self.tiles():
                    with loop(times) as k:
                        self.tile(first, start + first, rows, pixel + k * step if times > 1 else pixel, emit, (image, line))

    def tiles(self) -> list[tuple[int, int, int]]:
        """The tiles of a line as loops: (first pixel, step, how many). All of a loop see whole filters, unless it is just one tile."""
        last, found = self.shape.pixels - self.count, list[tuple[int, int, int]]()
        for begin in sorted({min(begin, last) for begin in range(0, self.shape.pixels, self.count)}):
            before = found[-1] if found else (-1, 0, 0)
            follows = before[0] + before[1] * before[2] == begin and self.is_inside(begin) and self.is_inside(before[0])
            if follows:
                found[-1] = (before[0], before[1], before[2] + 1)
            else:
                found.append((begin, self.count, 1))
        return found

    def is_inside(self, begin: int) -> bool:
        """Whether a tile sees no padding to the left and to the right; counted taps may."""
        shape = self.shape
        first = begin * shape.strides[1] - shape.pads[1]
        last = first + (self.count - 1) * shape.strides[1] + (shape.kernel[1] - 1) * shape.dilations[1]
        return not self.written or (first >= 0 and last < shape.size[1])

    def tile(self, channel: Expr, start: Expr, rows: tuple[Any, Any], begin: Any, emit: Emit, place: tuple[Expr, Expr]) -> None:
        """Some pixels of a line, from `begin` on, and what follows them; `rows` of the filter are inside."""
        shape, (image, line) = self.shape, place
        sums = T.alloc_buffer((self.count * LANES,), "float32", scope="global")
        for p in range(self.count):
            store(sums, [ramp(p * LANES, LANES)], _zero())
        with T.serial(*rows) as r:
            offset = Cell("int32", start + r * (shape.dilations[0] * shape.size[1] * shape.channels)).get()
            (self.written_row if self.written else self.counted_row)(sums, channel, offset, r, begin)
        for p in range(self.count):
            with T.vectorized(0, LANES) as lane:
                pixel = begin + p
                at = [image, pixel, channel + lane] if self.flat else [image, line, pixel, channel + lane]
                emit(at, load(sums, [p * LANES + lane]).astype("int32"))

    def written_row(self, sums: Buffer, channel: Expr, offset: Expr, r: Expr, begin: Any) -> None:
        """A row of the filter, column by column."""
        shape = self.shape
        weights = [Vector(self.weight_vector(r, tap, channel)) for tap in range(shape.kernel[1])]
        for column, uses in self.columns(begin):
            x = Vector(self.data_vector(offset + (begin * shape.strides[1] + column) * shape.channels))
            for p, tap in uses:
                at = [ramp(p * LANES, LANES)]
                store(sums, at, load(sums, at) + x.get() * weights[tap].get())

    def columns(self, begin: Any) -> list[tuple[int, list[tuple[int, int]]]]:
        """The columns inside that a tile sees, counted from its first, each with (pixel, tap) by which it counts."""
        shape, found = self.shape, dict[int, list[tuple[int, int]]]()
        for p in range(self.count):
            for tap in range(shape.kernel[1]):
                column = p * shape.strides[1] + tap * shape.dilations[1]
                if not isinstance(begin, int) or 0 <= begin * shape.strides[1] - shape.pads[1] + column < shape.size[1]:
                    found.setdefault(column, []).append((p, tap))
        return sorted(found.items())

    def counted_row(self, sums: Buffer, channel: Expr, offset: Expr, r: Expr, begin: Any) -> None:
        """A row of the filter, as a loop over those of its taps that are inside."""
        shape, at = self.shape, [ramp(0, LANES)]
        left = Cell("int32", begin * shape.strides[1] - shape.pads[1]).get()
        low, high = clamped(left, shape.kernel[1], shape.size[1], shape.dilations[1])
        with T.serial(low, high) as tap:
            x = self.data_vector(offset + (begin * shape.strides[1] + tap * shape.dilations[1]) * shape.channels)
            store(sums, at, load(sums, at) + x * self.weight_vector(r, tap, channel))

    def data_vector(self, offset: Expr) -> Expr:
        """Four channels of the data less the zero point, as float32."""
        value = self.data[[*[0] * (len(self.x_type.shape) - 1), ramp(offset, LANES)]].astype(f"int32x{LANES}")
        value = value - tirx.Broadcast(tirx.const(self.zero, "int32"), LANES) if self.zero else value
        return value.astype(f"float32x{LANES}")

    def weight_vector(self, r: Expr, tap: Any, channel: Expr) -> Expr:
        """The weights of four channels, as float32."""
        return self.w[[r * self.shape.kernel[1] + tap, ramp(channel, LANES)]].astype(f"int32x{LANES}").astype(f"float32x{LANES}")


class Vector:
    """A vector of float32 that is kept in a register."""

    def __init__(self, value: Expr) -> None:
        self.buffer = T.alloc_buffer((LANES,), "float32", scope="global")
        store(self.buffer, [ramp(0, LANES)], value)

    def get(self) -> Expr:
        """Its value."""
        return load(self.buffer, [ramp(0, LANES)])


def _zero() -> Expr:
    return tirx.Broadcast(tirx.const(0.0, "float32"), LANES)
