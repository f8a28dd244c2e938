"""Kernels of 3 x 3 convolutions of 8-bit integers by Winograd's algorithm, exact, with whatever element-wise operators follow.

for each chunk of tiles:                                         in parallel
    for row of tiles, block of channels:
        strip[column, row] = B^T d                               down the columns, which neighbouring tiles share; 16 bits
        V[point, tile, channel] = strip B                        along the rows
    for each of the (m + 2)^2 points, block of outputs:
        M[point, tile, output] = sum of V U                      pairs of channels, modulo 2^32
    y = epilogue(A^T M A / scale)                                `compute.integer_winograd`

Codes are transformed as they are, with the zero point in the padding: of a constant, the transform leaves a single point, from which it is
subtracted. Where one chunk holds all tiles, each step is a phase that threads share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from lepton_compiler.backends.tvm.compute.integer_product import spans
from lepton_compiler.backends.tvm.compute.integer_winograd import INVERSE, ONES, SHIFT, Plan, input_transform, output_transform, plan
from lepton_compiler.backends.tvm.dot import Dot, dot_of, splat, vector_type, wide_dot_of
from lepton_compiler.backends.tvm.lower.context import Arg, Context, Expr
from lepton_compiler.backends.tvm.lower.integer_results import Results
from lepton_compiler.backends.tvm.lower.procedure import Buffer, chunks, load, procedure, store, when
from lepton_compiler.backends.tvm.lower.whole import Result, read_through
from lepton_compiler.backends.tvm.outline import outlined
from lepton_compiler.backends.tvm.schedules.prefetch import LINE, plan_prefetch, prefetch
from lepton_compiler.ir.types import DTYPES, INT32, TensorType

INT16 = DTYPES["int16"]
VECTORS_FINISHED = 4
"""Vectors of sums that go through the epilogue together: rounded to bytes, they make one."""
BLOCKS_ABREAST = (4, 2, 1)
"""Blocks of weights that are read side by side where each is used once: level 2 gives several streams faster than one."""
TILES_ABREAST, VECTORS_ABREAST = 4, (4, 2, 3, 1)
"""Tiles, and vectors of channels, whose columns are transformed before their rows."""


def plan_for(op: Any, operands: Sequence[Arg | None], y: TensorType, ctx: Context) -> Plan | None:
    """How to compute a convolution of integers this way, or None where it cannot be, or does not pay."""
    if op.name != "ConvInteger" or op.layout != "NHWC" or op.groups != 1:
        return None
    x, w = operands[:2]
    if x is None or w is None or len(x.shape) != 4:
        return None
    wide = wide_dot_of(ctx.target)
    if wide is None or w.shape[2:] != (3, 3) or set(op.strides) != {1} or set(op.dilations) != {1}:
        return None
    n, oh, ow, oc = y.static_shape
    return plan(n, (oh, ow), x.shape[3], oc, ctx.sum_bits, dot_of(ctx.target, w.in_windows), wide, ctx.target, ctx.choice)


def lower_exact(
    ctx: Context, op: Any, how: Plan, operands: Sequence[Arg | None], others: Sequence[Arg], result: Result, last: Arg
) -> list[Any]:
    """The kernel: `last` is the expression of an output element in terms of `result` and of the operands `others`."""
    x, w, x_zero, w_zero = (*operands, None, None)[:4]
    dot = wide_dot_of(ctx.target)
    assert x is not None and w is not None and dot is not None
    kernel = _Kernel(ctx, op, how, dot, x, w, last.shape)
    given = 0 if w_zero is None else int(w_zero.number or 0)
    signed_zero = given - 128 if w.type.dtype.name == "uint8" else given
    packed = Arg(TensorType(INT16, (1,)), ctx.pack(w, "integer_winograd", how.m, kernel.block, signed_zero))
    read = [x_zero] if x_zero is not None and x_zero.number is None else []
    stored = [a for a in {id(a): a for a in others if a.number is None}.values() if a is not x and a not in read]

    def write(data: Arg, zero: Arg | None, u: Arg, *rest: Any) -> None:
        loaded, (y, *spaces) = rest[: len(stored)], rest[len(stored) :]
        kernel.open(data, zero, u, spaces)
        with chunks(how.chunks) as chunk:
            kernel.transform_input(chunk)
            kernel.multiply(chunk)
            with read_through([x, *read, *stored], [data, *([zero] if zero is not None and read else []), *loaded]):
                kernel.transform_output(chunk, y, result, last)

    ctx.outputs = (last.type,)
    return procedure(ctx, "winograd", [x, x_zero, packed, *stored], write, kernel.scratch, private=how.chunks > 1)


LINES_AT_ONCE = 6
"""Lines of the next block of weights up to which a register tile asks for all its share at once."""

Pieces = Sequence[tuple[int, int, int]]
"""First channel, width and number of vectors side by side."""


@dataclass(frozen=True)
class _Strip:
    """Some columns of pixels: which strip holds them, their first tile in the chunk's row, their first channel, and vectors of channels."""

    number: Expr
    tile: Expr
    channel: Expr
    pieces: Pieces

    def vectors(self) -> Iterator[tuple[Expr, int]]:
        """Loops over the vectors: first channel, counted from that of the strip, and width."""
        for first, width, count in self.pieces:
            with T.serial(0, count) as k:
                yield first + k * width, width


def _split(channels: int, lanes: int) -> list[tuple[int, Pieces, int]]:
    """Channels in parts of some whole vectors, and the rest: first channel, vectors of a part, and how many such parts follow each other."""
    vectors, rest = divmod(channels, lanes)
    per = next(d for d in VECTORS_ABREAST if vectors % d == 0)
    found: list[tuple[int, Pieces, int]] = [(0, [(0, lanes, per)], vectors // per)] if vectors else []
    return [*found, (channels - rest, spans(rest, lanes // 2), 1)] if rest else found


def _parts(channels: int, lanes: int) -> Iterator[tuple[Expr, Pieces]]:
    """Loops over parts of the channels: the first channel of each and its vectors."""
    for begin, pieces, count in _split(channels, lanes):
        step = sum(width * number for _, width, number in pieces)
        with T.serial(0, count) as k:
            yield begin + k * step, pieces


class _Kernel:
    """The three steps for one chunk of tiles; parallel loops where there is only one chunk."""

    def __init__(self, ctx: Context, op: Any, how: Plan, dot: Dot, x: Arg, w: Arg, out: tuple[int, ...]) -> None:
        self.how, self.dot, self.out, self.target = how, dot, out, ctx.target
        self.loop = T.parallel if how.chunks == 1 else T.serial
        self.images, self.height, self.width, self.inputs = x.shape
        self.top, self.left = op.pads[0], op.pads[1]
        self.block = how.vectors * dot.lanes
        self.blocks = -(-w.shape[0] // self.block)
        self.down, self.across = -(-out[1] // how.m), -(-out[2] // how.m)
        self.lines = out[0] * self.down
        self.depth, self.outputs = -(-self.inputs // dot.group) * dot.group, self.blocks * self.block
        self.short = dot.lanes * dot.group
        self.abreast = -(-how.across // -(-how.across // TILES_ABREAST))
        self.columns = self.abreast * how.m + 2
        self.part = max(first + width * count for _, pieces, _ in _split(self.inputs, self.short) for first, width, count in pieces)
        self.multiples = (1, ONES[how.m], ONES[how.m] ** 2)
        points, strips = how.alpha**2, how.lines if how.chunks == 1 else 1
        self.stays = points * self.blocks * self.depth * self.block * 2 <= ctx.target.l1_bytes * 3 // 4
        pairs, groups = self.depth // dot.group, how.room // how.rows
        self.ahead = (
            plan_prefetch(2 * how.vectors * self.short, pairs, groups, how.rows, points * self.blocks, ctx.target)
            if ctx.choice.prefetch != 0
            else None
        )
        alone = how.rows == 1 and self.ahead is None
        self.side = next(d for d in BLOCKS_ABREAST if self.blocks % d == 0) if alone else 1
        self.scratch = [
            TensorType(INT16, (strips, self.columns * how.alpha * self.part + len(self.multiples) * self.short)),
            TensorType(INT16, (points, _apart(how.room * self.depth, 2))),
            TensorType(INT32, (points, _apart(how.room * self.outputs, 4))),
        ]

    def open(self, x: Arg, zero: Arg | None, u: Arg, spaces: Sequence[Buffer]) -> None:
        """Take the buffers."""
        self.x, self.u = x, u
        self.strip, self.v, self.m = spaces
        self.zero: Expr = None if zero is None or zero.number == 0 else zero[[0] * len(zero.shape)].astype("int16")

    def place(self, chunk: Expr, line: Expr) -> tuple[Expr, Expr, Expr, Expr]:
        """Row of tiles, image, first row of pixels of the outputs, and first tile of a chunk's row."""
        how = self.how
        row = tirx.floordiv(chunk, how.parts) * how.lines + line
        image, inside = (tirx.floordiv(row, self.down), tirx.floormod(row, self.down)) if self.images > 1 else (tirx.const(0, "int32"), row)
        return row, image, inside * how.m, tirx.floormod(chunk, how.parts) * how.across

    def is_line(self, row: Expr) -> Any:
        """Statements for rows of tiles that there are."""
        return when(*([row < self.lines] if self.lines % self.how.lines else []))

    def is_tile(self, tile: Expr) -> Any:
        """Statements for tiles of a row that there are."""
        return when(*([tile < self.across] if self.across % self.how.across else []))

    def transform_input(self, chunk: Expr) -> None:
        """V = B^T d B for each tile and vector of channels: some tiles and channels at a time, whose columns stay in level 1."""
        number = tirx.const(0, "int32")
        with self.loop(0, self.how.lines) as line:
            row, image, first, start = self.place(chunk, line)
            strip_number = line if self.how.chunks == 1 else number
            with ExitStack() as nest:
                nest.enter_context(self.is_line(row))
                self.store_constants(strip_number)
                group = nest.enter_context(T.serial(0, -(-self.how.across // self.abreast)))
                for channel, pieces in _parts(self.inputs, self.short):
                    strip = _Strip(strip_number, group * self.abreast, channel, pieces)
                    self.transform_columns(strip, image, first - self.top, start)
                    self.transform_rows(strip, line, start)

    def transform_columns(self, strip: _Strip, image: Expr, top: Expr, start: Expr) -> None:
        """B^T d of the columns of pixels below some tiles."""
        alpha, m = self.how.alpha, self.how.m
        left = (start + strip.tile) * m - self.left

        def columns(read: Callable[[int, Expr, Expr, int], Expr]) -> None:
            with T.serial(0, self.columns) as k:
                at = left + k
                for channel, width in strip.vectors():
                    places = [self.in_strip(strip, k, r, channel, width) for r in range(alpha)]
                    with T.If(tirx.all(at >= 0, at < self.width)):
                        with T.Then():
                            values = [read(r, at, strip.channel + channel, width) for r in range(alpha)]
                            for place, value in zip(places, input_transform(m, values), strict=True):
                                store(self.strip, place, value)
                        with T.Else():
                            for r, place in enumerate(places):
                                store(self.strip, place, self.constant(strip, ONES[m] if r == 1 else 0, width))

        def plain(r: int, at: Expr, channel: Expr, width: int) -> Expr:
            return self.x[[image, top + r, at, ramp(channel, width)]].astype(vector_type("int16", width))

        def guarded(r: int, at: Expr, channel: Expr, width: int) -> Expr:
            here = tirx.all(top + r >= 0, top + r < self.height)
            return tirx.if_then_else(here, plain(r, at, channel, width), self.constant(strip, 1, width))

        with T.If(tirx.all(top >= 0, top + alpha <= self.height)):
            with T.Then():
                columns(plain)
            with T.Else():
                columns(guarded)

    def transform_rows(self, strip: _Strip, line: Expr, start: Expr) -> None:
        """The rows of B^T d times B, less the transform of the zero point."""
        alpha, m = self.how.alpha, self.how.m
        with T.serial(0, self.abreast) as t:
            tile = strip.tile + t
            beyond = [tile < self.how.across] if self.how.across % self.abreast else []
            with when(*beyond), self.is_tile(start + tile):
                for channel, width in strip.vectors():
                    at = ramp((line * self.how.across + tile) * self.depth + strip.channel + channel, width)
                    for r in range(alpha):
                        read = [load(self.strip, self.in_strip(strip, t * m + c, r, channel, width)) for c in range(alpha)]
                        for c, value in enumerate(input_transform(m, read)):
                            if (r, c) == (1, 1) and self.zero is not None:
                                value = value - self.constant(strip, ONES[m] ** 2, width)
                            store(self.v, [r * alpha + c, at], value)

    def in_strip(self, strip: _Strip, column: Expr, row: int, channel: Expr, width: int) -> list[Expr]:
        """Where a vector of channels of a transformed column lies."""
        return [strip.number, ramp((column * self.how.alpha + row) * self.part + channel, width)]

    def store_constants(self, strip: Expr) -> None:
        """Vectors of the zero point's multiples behind a strip. LLVM would keep them in registers that the products need."""
        for k, factor in enumerate(self.multiples if self.zero is not None else ()):
            value = splat(self.zero * tirx.const(factor, "int16"), self.short)
            store(self.strip, [strip, ramp(self.columns * self.how.alpha * self.part + k * self.short, self.short)], value)

    def constant(self, strip: _Strip, factor: int, width: int) -> Expr:
        """The zero point times 0 or one of `multiples`, in each element of a vector."""
        if self.zero is None or not factor:
            return splat(tirx.const(0, "int16"), width)
        start = self.columns * self.how.alpha * self.part + self.multiples.index(factor) * self.short
        return load(self.strip, [strip.number, ramp(start, width)])

    def multiply(self, chunk: Expr) -> None:
        """M = V U at every point: register tiles of `rows` tiles and `vectors` vectors."""
        how, lanes, short = self.how, self.dot.lanes, self.short
        row, _, _, _ = self.place(chunk, tirx.const(0, "int32"))
        left = tirx.min(tirx.const(how.lines, "int32"), self.lines - row) * how.across
        with ExitStack() as nest:
            if self.ahead is None and self.stays:  # nothing that a loop could keep on the stack for its repetitions
                group = nest.enter_context(self.loop(0, how.room // how.rows))
                both = nest.enter_context(T.serial(0, how.alpha**2 * self.blocks // self.side))
            else:
                both = nest.enter_context(self.loop(0, how.alpha**2 * self.blocks // self.side))
                group = nest.enter_context(T.serial(0, how.room // how.rows))
            ranges, first = self.blocks // self.side, group * how.rows
            point, block = tirx.floordiv(both, ranges), tirx.floormod(both, ranges) * self.side
            nest.enter_context(when(*([first < left] if self.lines % how.lines else [])))
            vectors = self.side * how.vectors
            sums = T.alloc_buffer((how.rows * vectors * lanes,), "int32", scope="global")
            places = [(r, k, [ramp((r * vectors + k) * lanes, lanes)]) for r in range(how.rows) for k in range(vectors)]
            for _, _, at in places:
                store(sums, at, splat(tirx.const(0, "int32"), lanes))
            self.fetch(point, block, group, None)
            with T.serial(0, self.depth // self.dot.group) as pair:
                self.fetch(point, block, group, pair)
                for r, k, at in places:
                    numbers = load(self.v, [point, ramp((first + r) * self.depth + pair * self.dot.group, self.dot.group)])
                    weights = self.u.tensor(point, block + k // how.vectors, pair, ramp(k % how.vectors * short, short))
                    store(sums, at, self.added(load(sums, at), self.dot.broadcast(numbers), weights))
            for r, k, at in places:
                store(self.m, [point, ramp((first + r) * self.outputs + block * self.block + k * lanes, lanes)], load(sums, at))

    def fetch(self, point: Expr, block: Expr, group: Expr, pair: Expr | None) -> None:
        """Ask for a part of the next block of weights, in a step of a register tile, or before its first one where the part is small."""
        if self.ahead is None:
            return
        groups, length = self.how.room // self.how.rows, self.depth // self.dot.group * 2 * self.how.vectors * self.short
        share = -(-length // (LINE * groups))
        if pair is None and share <= LINES_AT_ONCE:
            lines = [group * share + k for k in range(share)]
        elif pair is not None and share > LINES_AT_ONCE:
            lines = self.ahead.lines_at(group, pair)
        else:
            return
        for line in lines:
            T.evaluate(prefetch(self.u.tensor(point, block + 1, 0, line * (LINE // 2))))

    def added(self, sums: Expr, data: Expr, weights: Expr) -> Expr:
        """The sums plus a dot product, modulo 2^32."""
        if self.dot.accumulates:
            return self.dot.add(sums, data, weights)
        product = tirx.call_llvm_pure_intrin(vector_type("int32", self.dot.lanes), self.dot.instruction, data, weights)
        return outlined(lambda a, b: a + b, sums, product)

    def transform_output(self, chunk: Expr, y: Buffer, result: Result, last: Arg) -> None:
        """Y = A^T M A / scale, and the epilogue. Few loops are nested, or LLVM keeps its constants in registers that the products need."""
        how = self.how
        with self.loop(0, how.lines * how.across) as spot:
            row, image, top, start = self.place(chunk, tirx.floordiv(spot, how.across))
            tile = start + tirx.floormod(spot, how.across)
            with self.is_line(row), self.is_tile(tile):
                for begin, width, count in spans(self.out[3], VECTORS_FINISHED * self.dot.lanes):
                    with T.serial(0, count) as k:
                        channel = begin + k * width
                        done = T.alloc_buffer((how.m**2 * width,), "int32", scope="global")
                        for first, lanes, number in spans(width, self.dot.lanes):
                            with T.serial(0, number) as part:
                                inner = first + part * lanes
                                self.transform_back(done, spot * self.outputs + channel, inner, width, lanes)
                        self.finish(done, [image, top, tile * how.m, channel], width, y, result, last)

    def transform_back(self, done: Buffer, offset: Expr, inner: Expr, width: int, lanes: int) -> None:
        """A^T M A / scale of a vector of channels of a tile."""
        alpha, m = self.how.alpha, self.how.m
        half = T.alloc_buffer((m * alpha * lanes,), "int32", scope="global")
        for c in range(alpha):
            for r, sum_of in enumerate(output_transform(m)):
                with T.vectorized(0, lanes) as lane:
                    terms = [load(self.m, [i * alpha + c, offset + inner + lane]) for i in range(alpha)]
                    store(half, [(r * alpha + c) * lanes + lane], outlined(sum_of, *terms))
        for r in range(m):
            for c in range(m):
                with T.vectorized(0, lanes) as lane:
                    value = outlined(_unscaled(m, c), *(load(half, [(r * alpha + i) * lanes + lane]) for i in range(alpha)))
                    store(done, [(r * m + c) * width + inner + lane], value)

    def finish(self, done: Buffer, at: Sequence[Expr], width: int, y: Buffer, result: Result, last: Arg) -> None:
        """The results at the pixels of a tile that are the image's."""
        (image, top, left, channel), m, lanes = at, self.how.m, self.dot.lanes
        results, abreast = Results(y, result, last), self.pixels_abreast(width)
        together = abreast > 1 and results.narrows_together(self.target)
        with T.serial(0, m * m // abreast if together else m * m) as step:
            pixel = step * abreast if together else step
            line, column = top + tirx.floordiv(pixel, m), left + tirx.floormod(pixel, m)
            edges = [(line < self.out[1], self.out[1]), (column < self.out[2], self.out[2])]

            def vector(p: int, v: int) -> tuple[Callable[[Expr], list[Expr]], Callable[[Expr], Expr]]:
                return (
                    lambda lane: [image, line, column + p, channel + v * lanes + lane],
                    lambda lane: load(done, [(pixel + p) * width + v * lanes + lane]),
                )

            with when(*(inside for inside, size in edges if size % m)):
                if together:
                    results.store_together([vector(p, v) for p in range(abreast) for v in range(width // lanes)], lanes)
                else:
                    with T.vectorized(0, width) as lane:
                        results.store([image, line, column, channel + lane], load(done, [pixel * width + lane]))

    def pixels_abreast(self, width: int) -> int:
        """Pixels of a line of a tile whose vectors, of `width` channels each, are narrowed to bytes together; the image ends with the last of them."""
        lanes, m = self.dot.lanes, self.how.m
        if width % lanes or VECTORS_FINISHED % (width // lanes):
            return 1
        return math.gcd(VECTORS_FINISHED // (width // lanes), m, self.out[2])


def _unscaled(m: int, column: int) -> Callable[..., Expr]:
    """A row of A^T, and what is left of the scale taken out."""

    def exact(*terms: Expr) -> Expr:
        total = output_transform(m)[column](*terms)
        return tirx.shift_right(total * INVERSE[m] if INVERSE[m] > 1 else total, tirx.const(SHIFT[m], "int32"))

    return exact


def _apart(elements: int, size: int) -> int:
    """So many elements of `size` bytes, or a few more: an odd number of lines, so that points do not meet in one set of the cache."""
    lines = -(-elements * size // LINE)
    return (lines + 1 - lines % 2) * LINE // size


def ramp(start: Expr, width: int) -> Expr:
    """`width` consecutive indices from `start` on."""
    return tirx.Ramp(start, 1, width) if width > 1 else start
