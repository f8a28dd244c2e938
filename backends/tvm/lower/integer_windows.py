"""Products of 8-bit integers with `vpmaddubsw`, exact because weights come in windows (`window_packing`).

    for line, vector of output channels, pixel tile:
        for couple of the vector's windows, in all rows of the filter:
            sums[pixel] += dot(four bytes of the pixel from the place of each on, weights of each)      added as 16-bit numbers
        for window that is left:
            sums[pixel] += dot(four bytes of the pixel from its place on, weights of the window)

Where signs and magnitudes of weights are apart, the data are changed by the signs first, and the sums begin with what that makes of them.
Each vector of channels has windows of its own, so a register tile is one vector wide and as many pixels long as there are registers for.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from lepton_compiler.backends.tvm.compute.integer_product import Plan, plan
from lepton_compiler.backends.tvm.dot import Dot, dot_of, splat
from lepton_compiler.backends.tvm.lower.context import Arg, Context, Expr
from lepton_compiler.backends.tvm.lower.integer_product import ProductKernel, Tile, Unit, ramp
from lepton_compiler.backends.tvm.lower.integer_results import Results
from lepton_compiler.backends.tvm.lower.procedure import load, store, when
from lepton_compiler.backends.tvm.schedules.kinds import TRIPS
from lepton_compiler.backends.tvm.window_packing import WINDOW
from lepton_compiler.ir.types import INT8, INT32, UINT8, TensorType, dtype
from lepton_compiler.target import Target

KEPT, KEPT_APART = 5, 7
"""Registers for the weights of two windows, the ones that pairs are added by, a pixel's data, and products; also for two windows' signs."""


class WindowKernel(ProductKernel):
    """The statements of a product in windows."""

    def __init__(self, ctx: Context, op: Any, x: Arg, w: Arg, x_zero: Arg | None, w_zero: Arg | None) -> None:
        self.apart = w.signs_apart
        super().__init__(ctx, op, x, w, x_zero, w_zero)

    def dot_for(self, target: Target, data: str) -> Dot:  # noqa: D102
        return dot_of(target, in_windows=True)

    def whole(self, run: int) -> bool:  # noqa: D102
        return run >= WINDOW

    def plan_for(self, target: Target, direct: bool) -> Plan:  # noqa: D102
        found = plan(self.shape, self.dot, target, copies=not direct)
        self.most = target.vector_registers - (KEPT_APART if self.apart else KEPT)
        return replace(found, vectors=1, pixels=_pixels(self.shape.pixels, self.most))

    def pack(self, ctx: Context, w: Arg, function: str, filling: int, *taps: int) -> Arg:  # noqa: D102
        shape, arguments = self.shape, (self.dot.lanes, *(taps or (0,)))
        line_step = shape.dilations[0] * (self.row if self.plan.copies else shape.size[1] * shape.channels)
        tap_step = shape.dilations[1] * shape.channels
        farthest = (shape.kernel[0] - 1) * line_step + (shape.taps - 1) * tap_step + shape.run
        packed = ctx.pack(w, "window_places", *arguments, int(self.apart), line_step, tap_step, farthest)
        places = Arg(TensorType(dtype(str(packed.dtype)), (1,)), packed)
        firsts, couples = (
            Arg(TensorType(INT32, (1,)), ctx.pack(w, name, *arguments, int(self.apart))) for name in ("window_firsts", "window_couples")
        )
        self.tables = [places, firsts, couples]
        if self.apart:
            signs, shifts = (ctx.pack(w, name, *arguments) for name in ("window_signs", "window_shifts"))
            self.tables += [Arg(TensorType(UINT8, (1,)), signs), Arg(TensorType(INT32, (1,)), shifts)]
        return Arg(TensorType(INT8, (1,)), ctx.pack(w, "windows", *arguments, int(self.apart)))

    def multiply(self, unit: Unit, part: Expr, results: Results) -> None:
        """All register tiles of a unit, line by line: a line's data stays in the level-1 cache. Short lines share a tile."""
        shape, per = self.shape, -(-self.blocks // self.plan.ranges)
        together = _lines(shape.pixels, self.plan.rows, self.most) if shape.lines % self.plan.rows == 0 else 1
        with ExitStack() as loops:
            line = together * loops.enter_context(T.serial(0, self.plan.rows // together))
            loops.enter_context(self.inside(unit.first + line))
            block = part * per + loops.enter_context(T.serial(0, per))
            if self.blocks < per * self.plan.ranges:
                loops.enter_context(when(block < self.blocks))
            if together > 1:
                self.tile(unit, Tile(line, block, tirx.const(0, "int32"), together * shape.pixels), results)
            else:
                self.tiles(unit, line, block, results)

    def tile(self, unit: Unit, tile: Tile, results: Results) -> None:  # noqa: D102
        shape, dot = self.shape, self.dot
        begins, firsts, couples, *apart = self.tables
        sums, done = (T.alloc_buffer((tile.count * dot.lanes,), "int32", scope="global") for _ in range(2))
        places = [[ramp(p * dot.lanes, dot.lanes)] for p in range(tile.count)]
        for at in places:
            store(sums, at, apart[1].tensor(ramp(tile.block * dot.lanes, dot.lanes)) if apart else splat(tirx.const(0, "int32"), dot.lanes))

        def operands(p: int, window: Expr) -> tuple[Expr, Expr]:
            row, offset = self.place(*self.spot(tile, p), 0, 0)
            data = dot.broadcast(self.read(unit, row, offset + begins.tensor(window).astype("int32"), dot.group))
            every = ramp(0, dot.lanes * dot.group)
            weights = self.w.tensor(window, every)
            return (weights, tirx.bitwise_xor(data, apart[0].tensor(window, every))) if apart else (data, weights)

        first, paired = firsts.tensor(tile.block), couples.tensor(tile.block)
        windows = shape.kernel[0] * shape.taps * -(-shape.run // WINDOW)
        with T.serial(0, paired, annotations={TRIPS: windows // 2}) as k:
            for p, at in enumerate(places):
                store(sums, at, dot.add_couple(load(sums, at), operands(p, first + 2 * k), operands(p, first + 2 * k + 1)))
        with T.serial(first + 2 * paired, firsts.tensor(tile.block + 1), annotations={TRIPS: windows % 2}) as window:
            for p, at in enumerate(places):
                store(sums, at, dot.add(load(sums, at), *operands(p, window)))
        for at in places:  # indexed by a loop, the sums themselves would not stay in registers
            store(done, at, load(sums, at))
        self.finish_tile(unit, tile, done, results)


def _pixels(pixels: int, most: int) -> int:
    """Pixels in a register tile: what divides a line, if that is not much less than `most`, else tiles that are about equal."""
    fitting = max(d for d in range(1, min(pixels, most) + 1) if pixels % d == 0)
    return fitting if fitting > most // 2 else -(-pixels // -(-pixels // most))


def _lines(pixels: int, rows: int, most: int) -> int:
    """Lines of a unit whose pixels make a register tile."""
    return max(d for d in range(1, rows + 1) if rows % d == 0 and d * pixels <= max(most, pixels))
