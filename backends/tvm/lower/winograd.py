"""Kernels of 3 x 3 convolutions by Winograd's algorithm, with whatever element-wise operators follow.

Chunks of tiles go through three steps while their scratch memory stays in the cache: transform the input, multiply by the transformed
weights for each of the (m + 2)^2 points, transform back and apply the epilogue. Threads share the chunks, and each has scratch memory of its
own. Where one chunk holds all tiles, each step is a phase that threads share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from lepton_compiler.backends.tvm.choice import ANALYTIC, Choice
from lepton_compiler.backends.tvm.compute.winograd import INPUT, OUTPUT, Plan, plan
from lepton_compiler.backends.tvm.lower.context import Arg, Context, Expr, expression
from lepton_compiler.backends.tvm.lower.procedure import Buffer, chunks, load, procedure, store, when
from lepton_compiler.backends.tvm.lower.whole import Result, read_through
from lepton_compiler.backends.tvm.schedules.prefetch import LINE, plan_prefetch, prefetch
from lepton_compiler.ir.types import FLOAT32, TensorType
from lepton_compiler.target import Target


def plan_for(op: Any, x: TensorType, w: TensorType, y: TensorType, target: Target, choice: Choice = ANALYTIC) -> Plan | None:
    """How to compute a convolution this way, or None where it cannot be, or does not pay."""
    plain = op.layout == "NHWC" and op.groups == 1 and x.rank == 4 and w.static_shape[2:] == (3, 3)
    if not plain or x.dtype != FLOAT32 or set(op.strides) != {1} or set(op.dilations) != {1}:
        return None
    n, oh, ow, oc = y.static_shape
    return plan(n, (oh, ow), x.static_shape[3], oc, target, choice)


def lower_winograd(
    ctx: Context, op: Any, how: Plan, x: Arg, w: Arg, b: Arg | None, others: Sequence[Arg], result: Result, last: Arg
) -> list[Any]:
    """The kernel: `last` is the expression of an output element in terms of `result` and of the operands `others`."""
    kernel = _Kernel(ctx, op, how, x, w, last.shape)
    lanes, points = kernel.lanes, how.alpha**2
    packed = Arg(TensorType(FLOAT32, (1,)), ctx.pack(w, "winograd", how.m, how.vectors * lanes))
    scratch = [TensorType(FLOAT32, (points, how.chunk, width)) for width in (x.shape[3], kernel.blocks * how.vectors * lanes)]
    stored = [a for a in others if a.number is None and a is not x]

    def write(x: Arg, u: Arg, b: Arg | None, *rest: Any) -> None:
        loaded, (y, v, m) = [x, *rest[:-3]], rest[-3:]
        with chunks(how.chunks) as chunk:
            kernel.transform_input(x, v, chunk)
            kernel.multiply(u, v, m, chunk)
            with read_through([source, *stored], loaded):
                kernel.transform_output(b, m, y, chunk, result, last)

    source = x
    ctx.outputs = (last.type,)
    return procedure(ctx, "winograd", [x, packed, b, *stored], write, scratch, private=how.chunks > 1)


class _Kernel:
    """The three steps for one chunk of tiles; parallel loops where there is only one chunk."""

    def __init__(self, ctx: Context, op: Any, how: Plan, x: Arg, w: Arg, out: tuple[int, ...]) -> None:
        self.how, self.lanes = how, ctx.target.lanes(32)
        self.loop = T.parallel if how.chunks == 1 else T.serial
        self.images, self.height, self.width, self.inputs = x.shape
        self.out, self.top, self.left = out, op.pads[0], op.pads[1]
        self.blocks = -(-w.shape[0] // (how.vectors * self.lanes))
        self.down, self.across = -(-out[1] // how.m), -(-out[2] // how.m)
        self.tiles = out[0] * self.down * self.across
        groups, everything = how.chunk // how.rows, how.alpha**2 * self.blocks
        self.ahead = (
            None
            if ctx.choice.prefetch == 0
            else plan_prefetch(4 * how.vectors * self.lanes, self.inputs, groups, how.rows, everything, ctx.target)
        )

    def place(self, tile: Expr) -> tuple[Expr, Expr, Expr]:
        """Image, row and column of a tile's first output."""
        per_image, m = self.down * self.across, self.how.m
        image = tirx.floordiv(tile, per_image) if self.images > 1 else tirx.const(0, "int32")
        inside = tirx.floormod(tile, per_image) if self.images > 1 else tile
        return image, tirx.floordiv(inside, self.across) * m, tirx.floormod(inside, self.across) * m

    def transform_input(self, x: Arg, v: Buffer, chunk: Expr) -> None:
        """V = B^T d B for each tile and vector of channels; tiles past the end are those of the last one."""
        how, alpha = self.how, self.how.alpha
        with self.loop(0, how.chunk) as t:
            tile = tirx.min(chunk * how.chunk + t, self.tiles - 1)
            image, row, column = self.place(tile)
            top, left = row - self.top, column - self.left
            inside = tirx.all(top >= 0, left >= 0, top + alpha <= self.height, left + alpha <= self.width)

            def read(r: int, c: int, channel: Expr) -> Expr:
                return x[[image, top + r, left + c, channel]]

            def guarded(r: int, c: int, channel: Expr) -> Expr:
                here = tirx.all(top + r >= 0, top + r < self.height, left + c >= 0, left + c < self.width)
                return tirx.if_then_else(here, read(r, c, channel), tirx.const(0, "float32"))

            with T.If(inside):
                with T.Then():
                    self._forward(read, v, t)
                with T.Else():
                    self._forward(guarded, v, t)

    def _forward(self, read: Callable[[int, int, Expr], Expr], v: Buffer, t: Expr) -> None:
        alpha, matrix = self.how.alpha, INPUT[self.how.m]
        for first, lanes in _vectors(self.inputs, self.lanes):
            half = T.alloc_buffer((alpha * alpha * lanes,), "float32", scope="global")
            for c in range(alpha):
                column = T.alloc_buffer((alpha * lanes,), "float32", scope="global")
                for r in range(alpha):
                    with T.vectorized(0, lanes) as lane:
                        store(column, [r * lanes + lane], read(r, c, first + lane))
                for r in range(alpha):
                    with T.vectorized(0, lanes) as lane:
                        value = _combined(matrix[r], [load(column, [i * lanes + lane]) for i in range(alpha)])
                        store(half, [(r * alpha + c) * lanes + lane], value)
            for r in range(alpha):
                for c in range(alpha):
                    with T.vectorized(0, lanes) as lane:
                        value = _combined(matrix[c], [load(half, [(r * alpha + i) * lanes + lane]) for i in range(alpha)])
                        store(v, [r * alpha + c, t, first + lane], value)

    def multiply(self, u: Arg, v: Buffer, m: Buffer, chunk: Expr) -> None:
        """M = V U at every point: register tiles of `rows` tiles and `vectors` vectors."""
        how, lanes = self.how, self.lanes
        width = how.vectors * lanes
        left = tirx.min(tirx.const(how.chunk, "int32"), self.tiles - chunk * how.chunk)
        with ExitStack() as nest:
            both, group = (
                nest.enter_context(self.loop(0, how.alpha**2 * self.blocks)),
                nest.enter_context(T.serial(0, how.chunk // how.rows)),
            )
            point, block = tirx.floordiv(both, self.blocks), tirx.floormod(both, self.blocks)
            with when(group * how.rows < left):
                sums = T.alloc_buffer((how.rows * width,), "float32", scope="global")
                for k in range(how.rows * how.vectors):
                    with T.vectorized(0, lanes) as lane:
                        store(sums, [k * lanes + lane], tirx.const(0, "float32"))
                with T.serial(0, self.inputs) as channel:
                    for line in self.ahead.lines_at(group, channel) if self.ahead else ():
                        T.evaluate(prefetch(u.tensor(point, block + 1, 0, line * (LINE // 4))))
                    for r in range(how.rows):
                        for k in range(how.vectors):
                            with T.vectorized(0, lanes) as lane:
                                at = [r * width + k * lanes + lane]
                                factor = load(v, [point, group * how.rows + r, channel])
                                store(sums, at, load(sums, at) + factor * u.tensor(point, block, channel, k * lanes + lane))
                for r in range(how.rows):
                    for k in range(how.vectors):
                        with T.vectorized(0, lanes) as lane:
                            value = load(sums, [r * width + k * lanes + lane])
                            store(m, [point, group * how.rows + r, block * width + k * lanes + lane], value)

    def transform_output(self, b: Arg | None, m: Buffer, y: Buffer, chunk: Expr, result: Result, last: Arg) -> None:
        """Y = A^T M A, the bias and the epilogue."""
        how = self.how
        with self.loop(0, how.chunk) as t:
            tile = chunk * how.chunk + t
            with when(tile < self.tiles):
                place = self.place(tile)
                for first, lanes in _vectors(self.out[3], self.lanes):
                    half = T.alloc_buffer((how.m * how.alpha * lanes,), "float32", scope="global")
                    self._backward_columns(m, half, [t, first], lanes)
                    for r in range(how.m):
                        for c in range(how.m):
                            with when(*self._inside(place, r, c)), T.vectorized(0, lanes) as lane:
                                terms = [load(half, [(r * how.alpha + i) * lanes + lane]) for i in range(how.alpha)]
                                value = _combined(OUTPUT[how.m][c], terms)
                                result.value = value if b is None else value + b[[first + lane]]
                                at = [place[0], place[1] + r, place[2] + c, first + lane]
                                store(y, at, expression(last, at))

    def _backward_columns(self, m: Buffer, half: Buffer, where: Sequence[Expr], lanes: int) -> None:
        alpha, (t, first) = self.how.alpha, where
        for c in range(alpha):
            for r in range(self.how.m):
                with T.vectorized(0, lanes) as lane:
                    terms = [load(m, [i * alpha + c, t, first + lane]) for i in range(alpha)]
                    store(half, [(r * alpha + c) * lanes + lane], _combined(OUTPUT[self.how.m][r], terms))

    def _inside(self, place: Sequence[Expr], r: int, c: int) -> list[Expr]:
        """Conditions under which an output of a tile is one of the image's."""
        found = [(place[1] + r < self.out[1], self.out[1]), (place[2] + c < self.out[2], self.out[2])]
        return [condition for condition, size in found if size % self.how.m]


def _vectors(extent: int, lanes: int) -> Iterator[tuple[Expr, int]]:
    """Loops over channels: the first channel and the width of each vector, whole ones first."""
    if extent >= lanes:
        with T.serial(0, extent // lanes) as block:
            yield block * lanes, lanes
    if extent % lanes:
        yield tirx.const(extent - extent % lanes, "int32"), extent % lanes


def _combined(factors: Sequence[float], elements: Sequence[Expr]) -> Expr:
    """The sum of the elements times their factors."""
    total: Expr = None
    for factor, term in zip(factors, elements, strict=True):
        if factor == 0:
            continue
        if total is None:
            total = term if factor == 1 else tirx.const(float(factor), "float32") * term
        elif abs(factor) == 1:
            total = total + term if factor > 0 else total - term
        else:
            total = total + tirx.const(float(factor), "float32") * term
    return total
