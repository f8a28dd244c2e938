"""Depthwise convolutions of 8-bit integers whose rows are put in pairs while they are padded.

    copy: rows 2j and 2j + 1 of the input, interleaved as 16-bit numbers, with the zero point in the padding
    for each line, register tile, block of channels:
        for each pair of rows that the filter meets, for each column: sums[pixel, channels] += pair * weights of two rows

A filter of an odd number of rows meets as many pairs wherever it begins: where that is the second row of a pair, the first counts with weights of
zero. Nothing is widened or shuffled between the products, and a row is interleaved once for all lines that read it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from lepton_compiler.backends.tvm.compute.integer_product import Geometry, Plan, spans
from lepton_compiler.backends.tvm.dot import splat, vector_type, wide_dot_of
from lepton_compiler.backends.tvm.lower.context import Arg, Context, Expr
from lepton_compiler.backends.tvm.lower.integer_depthwise import DepthwiseKernel
from lepton_compiler.backends.tvm.lower.integer_product import Tile, Unit, ramp
from lepton_compiler.backends.tvm.lower.integer_results import Results
from lepton_compiler.backends.tvm.lower.procedure import load, store, when
from lepton_compiler.ir.types import DTYPES, TensorType
from lepton_compiler.target import Target

FEWEST_ROWS = 5
"""Rows of a filter from which it pays: with three, the copy, twice as large as the input, takes what is saved (0.95 x measured, 1.15 to 1.3 x
with five)."""


def suits_pairs(shape: Geometry) -> bool:
    """Whether rows in pairs serve the filter: it has enough of them, an odd number, without gaps."""
    return shape.kernel[0] >= FEWEST_ROWS and shape.kernel[0] % 2 == 1 and shape.dilations[0] == 1


class PairedRowsKernel(DepthwiseKernel):
    """The statements of such a convolution."""

    def plan_for(self, target: Target, direct: bool) -> Plan:  # noqa: D102
        wide, self.dot = self.dot, replace(self.dot, data="int16")
        found = super().plan_for(target, False)
        self.dot = wide
        return found

    def pack(self, ctx: Context, w: Arg, function: str, filling: int, *taps: int) -> Arg:  # noqa: D102
        pairs = wide_dot_of(ctx.target)
        assert pairs is not None
        self.pairs, self.per_line = pairs, self.shape.kernel[0] // 2 + 1
        self.begins = 1 + self.shape.strides[0] % 2
        return Arg(TensorType(DTYPES["int16"], (1,)), ctx.pack(w, "integer_depthwise_rows", self.width, self.begins))

    def spaces(self) -> list[TensorType]:  # noqa: D102
        self.copies = (self.plan.rows - 1) * self.shape.strides[0] // 2 + self.per_line
        return [TensorType(DTYPES["int16"], (self.copies, 2 * self.row))]

    def copy(self, unit: Unit) -> None:
        """The rows that this unit reads, in pairs."""
        shape, channels = self.shape, self.shape.channels
        left, middle, right = shape.pads[1] * channels, shape.size[1] * channels, shape.pads[3] * channels
        with T.serial(0, self.copies) as j:
            rows = [unit.first * shape.strides[0] + 2 * j + k - shape.pads[0] for k in range(2)]
            inside = [tirx.all(row >= 0, row < shape.size[0]) for row in rows]

            def put(at: int, extent: int, reads: bool, guarded: bool) -> None:
                for begin, width, count in spans(extent, self.dot.lanes):
                    with T.serial(0, count) as n:
                        offset = begin + n * width
                        data = [
                            self.source(unit, row, offset, width, here if guarded else None, reads)
                            for row, here in zip(rows, inside, strict=True)
                        ]
                        store(self.copied, [j, ramp((at + offset) * 2, 2 * width)], self.interleaved(data, width))

            def whole(guarded: bool) -> None:
                put(0, left, False, guarded)
                put(left, middle, True, guarded)
                put(left + middle, right, False, guarded)

            with T.If(tirx.all(*inside)):
                with T.Then():
                    whole(False)
                with T.Else():
                    whole(True)

    def source(self, unit: Unit, row: Expr, offset: Expr, width: int, inside: Expr | None, reads: bool) -> Expr:
        """Numbers of a row of the input, or its zero point."""
        filling = splat(self.converted(self.x_zero, 1), width)
        if not reads:
            return filling
        number = self.read_input((unit.image * self.shape.size[0] + row) * self.shape.size[1] * self.shape.channels + offset, width)
        return number if inside is None else tirx.if_then_else(inside, number, filling)

    def interleaved(self, data: list[Expr], width: int) -> Expr:
        """Two vectors of bytes as pairs of 16-bit numbers."""
        order = [tirx.const(k * width + lane, "int32") for lane in range(width) for k in range(2)]
        return tirx.Shuffle(data, order).astype(vector_type("int16", 2 * width))

    def multiply(self, unit: Unit, part: Expr, results: Results) -> None:
        """All register tiles of a unit: neighbouring channels after each other, which share lines of the cache."""
        full, tail = divmod(self.shape.pixels, self.plan.pixels)
        with T.serial(0, self.plan.rows) as line, self.inside(unit.first + line):
            if full:
                with T.serial(0, full) as k, self.each_block(part) as block:
                    self.tile(unit, Tile(line, block, k * self.plan.pixels, self.plan.pixels), results)
            if tail:
                with self.each_block(part) as block:
                    self.tile(unit, Tile(line, block, tirx.const(full * self.plan.pixels, "int32"), tail), results)

    @contextmanager
    def each_block(self, part: Expr) -> Iterator[Expr]:
        """A loop over the blocks of channels in a part of them."""
        per = -(-self.blocks // self.plan.ranges)
        with T.serial(0, per) as k:
            block = part * per + k
            with when(*([block < self.blocks] if self.blocks < per * self.plan.ranges else [])):
                yield block

    def tile(self, unit: Unit, tile: Tile, results: Results) -> None:  # noqa: D102
        shape, lanes = self.shape, self.dot.lanes
        sums, done = (T.alloc_buffer((tile.count * lanes,), "int32", scope="global") for _ in range(2))
        x, whole = T.alloc_buffer((2 * lanes,), "int16", scope="global"), [ramp(0, 2 * lanes)]
        places = [[ramp(p * lanes, lanes)] for p in range(tile.count)]
        for at in places:
            store(sums, at, splat(tirx.const(0, "int32"), lanes))
        first = tile.line * shape.strides[0]
        begin = first % 2 if self.begins > 1 else tirx.const(0, "int32")
        with T.serial(0, self.per_line) as pair:
            for column, uses in self.columns(tile.count):
                offset = (tile.begin * shape.strides[1] + column) * shape.channels + tile.block * lanes
                store(x, whole, load(self.copied, [first // 2 + pair, ramp(offset * 2, 2 * lanes)]))
                for p, tap in uses:
                    weights = self.w.tensor(begin, tile.block, pair, tap, ramp(0, 2 * lanes))
                    store(sums, places[p], self.pairs.add(load(sums, places[p]), load(x, whole), weights))
        for at in places:
            store(done, at, load(sums, at))
        self.finish_tile(unit, tile, done, results)
