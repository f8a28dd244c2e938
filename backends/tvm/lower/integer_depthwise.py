"""Convolutions of each channel by a filter of its own, of 8-bit integers.

    for each row of the filter:
        for each pixel that the tile sees in it: x = its channels as float32, in registers
            sums[pixel, channels] += x * weights, for all taps by which it counts

Products of 8-bit numbers are exact in float32, and so are their sums up to 2^24.

Where an instruction adds products of 16-bit numbers in pairs, x is the same column of two rows of the filter, interleaved: half of the
multiplications, and no conversion to float32.
"""

from __future__ import annotations

from dataclasses import replace

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from lepton_compiler.backends.tvm.compute.integer_product import Plan, plan
from lepton_compiler.backends.tvm.dot import LANE_BITS, Dot, splat, vector_type, wide_dot_of
from lepton_compiler.backends.tvm.lower.context import Arg, Context, Expr
from lepton_compiler.backends.tvm.lower.integer_product import ProductKernel, Tile, Unit, ramp
from lepton_compiler.backends.tvm.lower.integer_results import Results
from lepton_compiler.backends.tvm.lower.procedure import Buffer, load, store
from lepton_compiler.ir.types import DTYPES, FLOAT32, TensorType
from lepton_compiler.target import Target

MOST_PIXELS = 8
"""Pixels of a register tile: chains of additions that hide their latency."""


class DepthwiseKernel(ProductKernel):
    """The statements of a depthwise convolution: tiles are a vector of channels wide, and data is copied only to be padded."""

    def dot_for(self, target: Target, data: str) -> Dot:  # noqa: D102
        return Dot(1, data, "float32", target.lanes(LANE_BITS))

    def plan_for(self, target: Target, direct: bool) -> Plan:  # noqa: D102
        shape = self.shape
        whole = shape.channels % self.dot.lanes == 0  # else the last vector reaches beyond the last pixel
        found = plan(shape, self.dot, target, copies=not (direct and whole))
        most = min(MOST_PIXELS, shape.pixels, max(1, target.vector_registers // 2 - 2))
        tiles = -(-shape.pixels // most)
        return replace(found, vectors=1, pixels=-(-shape.pixels // tiles))

    def pack(self, ctx: Context, w: Arg, function: str, filling: int, *taps: int) -> Arg:  # noqa: D102
        return Arg(TensorType(FLOAT32, (1,)), ctx.pack(w, "integer_depthwise", self.width))

    def tile(self, unit: Unit, tile: Tile, results: Results) -> None:  # noqa: D102
        shape, lanes = self.shape, self.dot.lanes
        sums, done = (T.alloc_buffer((tile.count * lanes,), kind, scope="global") for kind in ("float32", "int32"))
        x = T.alloc_buffer((lanes,), "float32", scope="global")
        for p in range(tile.count):
            store(sums, [ramp(p * lanes, lanes)], splat(tirx.const(0.0, "float32"), lanes))
        with T.serial(0, shape.kernel[0]) as r:
            for column, uses in self.columns(tile.count):
                row = tile.line * shape.strides[0] + r * shape.dilations[0]
                offset = (tile.begin * shape.strides[1] + column) * shape.channels + tile.block * lanes
                number = self.read(unit, row, offset, lanes).astype(vector_type("int32", lanes)).astype(vector_type("float32", lanes))
                store(x, [ramp(0, lanes)], number)
                for p, tap in uses:
                    at = [ramp(p * lanes, lanes)]
                    weights = self.w.tensor(tile.block, r, tap, ramp(0, lanes))
                    store(sums, at, load(sums, at) + load(x, [ramp(0, lanes)]) * weights)
        for p in range(tile.count):
            at = [ramp(p * lanes, lanes)]
            store(done, at, load(sums, at).astype(vector_type("int32", lanes)))
        self.finish_tile(unit, tile, done, results)

    def columns(self, count: int) -> list[tuple[int, list[tuple[int, int]]]]:
        """The columns that so many pixels see, counted from the first, each with (pixel, tap) by which it counts."""
        found: dict[int, list[tuple[int, int]]] = {}
        for p in range(count):
            for tap in range(self.shape.kernel[1]):
                found.setdefault(p * self.shape.strides[1] + tap * self.shape.dilations[1], []).append((p, tap))
        return sorted(found.items())


class RowPairKernel(DepthwiseKernel):
    """Two rows of the filter at a time, with dot products of pairs of 16-bit numbers."""

    def pack(self, ctx: Context, w: Arg, function: str, filling: int, *taps: int) -> Arg:  # noqa: D102
        pairs = wide_dot_of(ctx.target)
        assert pairs is not None
        self.pairs = pairs
        return Arg(TensorType(DTYPES["int16"], (1,)), ctx.pack(w, "integer_depthwise_pairs", self.width))

    def tile(self, unit: Unit, tile: Tile, results: Results) -> None:  # noqa: D102
        lanes, (whole, single) = self.dot.lanes, divmod(self.shape.kernel[0], 2)
        sums, done = (T.alloc_buffer((tile.count * lanes,), "int32", scope="global") for _ in range(2))
        places = [[ramp(p * lanes, lanes)] for p in range(tile.count)]
        for at in places:
            store(sums, at, splat(tirx.const(0, "int32"), lanes))
        if whole:
            with T.serial(0, whole) as pair:
                self.add_rows(unit, tile, pair, 2, sums)
        if single:
            self.add_rows(unit, tile, tirx.const(whole, "int32"), 1, sums)
        for at in places:
            store(done, at, load(sums, at))
        self.finish_tile(unit, tile, done, results)

    def add_rows(self, unit: Unit, tile: Tile, pair: Expr, rows: int, sums: Buffer) -> None:
        """Add what one or two rows of the filter give."""
        shape, lanes = self.shape, self.dot.lanes
        x, whole = T.alloc_buffer((2 * lanes,), "int16", scope="global"), [ramp(0, 2 * lanes)]
        for column, uses in self.columns(tile.count):
            offset = (tile.begin * shape.strides[1] + column) * shape.channels + tile.block * lanes
            first = tile.line * shape.strides[0] + pair * 2 * shape.dilations[0]
            data = [self.read(unit, first + k * shape.dilations[0], offset, lanes) for k in range(rows)]
            store(x, whole, self.interleaved(data))
            for p, tap in uses:
                at = [ramp(p * lanes, lanes)]
                weights = self.w.tensor(tile.block, pair, tap, ramp(0, 2 * lanes))
                store(sums, at, self.pairs.add(load(sums, at), load(x, whole), weights))

    def interleaved(self, data: list[Expr]) -> Expr:
        """Pairs of 16-bit numbers, the second of them from the second row; of a single row anything, for it counts as zero."""
        lanes = self.dot.lanes
        if len(data) == 1:
            return tirx.reinterpret(f"int16x{2 * lanes}", data[0].astype(vector_type("int32", lanes)))
        order = [tirx.const(k + lane, "int32") for lane in range(lanes) for k in (0, lanes)]
        return tirx.Shuffle(data, order).astype(f"int16x{2 * lanes}")
