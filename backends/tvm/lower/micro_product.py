"""Kernels of 8-bit convolutions and matrix products for cores without vectors, with whatever element-wise operators follow.

for each tile of pixels:
    run[pixel] = data less its zero point, 16 bits each, zero in the padding      on the stack
    for each block of output channels:
        sums[pixels, channels] = 0                                                in registers
        for each four numbers of the run:
            sums += run * weights                                                 two products per instruction with the DSP extension
        y = epilogue(sums)

Without that extension the weights lie in flash as unsigned bytes, which Thumb code loads in one instruction; what is too much in them is
subtracted with the sum of the run, which is known by then.

A depthwise convolution reads its data as it is, four channels at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from lepton_compiler.backends.tvm.compute.integer_product import Geometry
from lepton_compiler.backends.tvm.lower.context import Arg, Context, Expr, expression
from lepton_compiler.backends.tvm.lower.integer_product import geometry_of, is_matrix
from lepton_compiler.backends.tvm.lower.procedure import Buffer, Cell, load, procedure, store, when
from lepton_compiler.backends.tvm.lower.whole import Result, read_through
from lepton_compiler.backends.tvm.micro_packing import FLIPPED, GROUP
from lepton_compiler.ir.types import INT8, UINT8, TensorType
from lepton_compiler.target import Target

WRITTEN_OUT = 9
"""Taps of a filter up to which they are no loop."""

Emit = Callable[[Sequence[Expr], Expr], None]


def suits(target: Target, op: Any, operands: Sequence[Arg | None]) -> bool:
    """Whether a product is one for the kernels of this file: on a core without vectors, with zero points that are known."""
    x, w, *zeros = operands
    if not target.keeps_codes or x is None or w is None or getattr(op, "layout", "NHWC") != "NHWC":
        return False
    return w.is_weight and w.stored is None and all(zero is None or zero.number is not None for zero in zeros)


def lower_micro(ctx: Context, op: Any, operands: Sequence[Arg | None], others: Sequence[Arg], result: Result, last: Arg) -> list[Any]:
    """The kernel of a `ConvInteger` or `MatMulInteger`: `last` is an output element in terms of `result` and of the operands `others`."""
    x, w, *points = operands
    assert x is not None and w is not None
    zeros = [0 if point is None else int(point.number or 0) for point in (*points, None, None)[:2]]
    kernel = _kernel_class(ctx.target, op, x.type, w.type, zeros)(ctx, op, x, w, zeros)
    ctx.outputs = (last.type,)
    stored = list({id(a): a for a in others if a.number is None and a is not x}.values())

    def write(data: Arg, weights: Arg, totals: Arg | None, *rest: Any) -> None:
        loaded, (y,) = rest[: len(stored)], rest[len(stored) :]
        with read_through([x, *stored], [data, *loaded]):
            kernel.open(data, weights, totals)
            kernel.write(lambda at, value: _emit(y, at, value, result, last))

    return procedure(ctx, "micro", [x, kernel.packed, kernel.totals, *stored], write)


def _kernel_class(target: Target, op: Any, x: TensorType, w: TensorType, zeros: Sequence[int]) -> type[MicroKernel]:
    from lepton_compiler.backends.tvm.lower.helium_depthwise import HeliumDepthwise
    from lepton_compiler.backends.tvm.lower.helium_product import HeliumProduct

    depthwise = getattr(op, "groups", 1) > 1
    if target.has_helium and w.dtype == INT8 and not zeros[1]:
        if not depthwise:
            return HeliumProduct
        if HeliumDepthwise.suits(x, w):
            return HeliumDepthwise
    return Depthwise if depthwise else Product


def _emit(y: Buffer, at: Sequence[Expr], value: Expr, result: Result, last: Arg) -> None:
    result.value = value
    store(y, at, expression(last, at))


class MicroKernel:
    """What all kinds have in common.

    Attributes:
        packed: the weights as the kernel reads them.
        totals: sums of the weights of each output channel, for kernels that take the zero point of the data from the sums.
    """

    packed: Arg
    totals: Arg | None = None

    def __init__(self, ctx: Context, op: Any, x: Arg, w: Arg, zeros: Sequence[int]) -> None:
        self.dsp, self.small = "dsp" in ctx.target.extensions, ctx.target.small
        self.x_type, self.w_type, self.op = x.type, w.type, op
        self.zero, self.w_zero = zeros
        self.data: Arg = x
        self.w: Arg = x

    def open(self, data: Arg, weights: Arg, totals: Arg | None) -> None:
        """Take the buffers."""
        self.data, self.w, self.totals = data, weights, totals

    def write(self, emit: Emit) -> None:
        """Emit all loops."""
        raise NotImplementedError

    def word(self, offset: Expr) -> Expr:
        """Four neighbouring bytes of the data as a word."""
        return tirx.reinterpret("int32", self.data[[*[0] * (len(self.x_type.shape) - 1), tirx.Ramp(offset, 1, GROUP)]])

    def byte(self, offset: Expr) -> Expr:
        """A number of the data less the zero point, as int32."""
        value = self.data[[*[0] * (len(self.x_type.shape) - 1), offset]].astype("int32")
        return value - self.zero if self.zero else value

    def pairs(self, word: Expr) -> tuple[Expr, Expr]:
        """The bytes 0 and 2, and 1 and 3, of a word of data less the zero point."""
        return _pairs(word, self.x_type, self.zero)

    def weight_pairs(self, word: Expr) -> tuple[Expr, Expr]:
        """The same of a word of weights."""
        return _pairs(word, self.w_type, self.w_zero)

    def weight(self, value: Expr) -> Expr:
        """A weight less the zero point, as int32."""
        number = value.astype("int32")
        return number - self.w_zero if self.w_zero else number


class Product(MicroKernel):
    """A convolution that sums over all channels, or a matrix product."""

    def __init__(self, ctx: Context, op: Any, x: Arg, w: Arg, zeros: Sequence[int]) -> None:
        super().__init__(ctx, op, x, w, zeros)
        self.shape: Geometry = geometry_of(op, x.type, w.type)
        self.matrix = is_matrix(op, w.type)
        self.total = self.shape.images * self.shape.lines * self.shape.pixels
        self.kind = "conv" if op.name == "ConvInteger" else "matmul"
        self.pixels, self.channels = self.tile_size()
        self.groups = -(-self.shape.run // GROUP)
        self.rows = self.shape.kernel[0] * self.shape.taps
        self.packed = self.pack(ctx, w)
        self.seen: Cell | None = None

    def tile_size(self) -> tuple[int, int]:
        """Pixels and output channels of a register tile."""
        if not self.dsp:
            return 1, 4
        return (1, 3) if self.total == 1 else (2, 2)

    def pack(self, ctx: Context, w: Arg) -> Arg:
        """The weights as `block` reads them."""
        taps = (self.shape.taps,) if self.kind == "conv" else ()
        form = 1 if self.dsp else 0 if w.type.dtype == UINT8 else FLIPPED
        self.w_zero += 128 if form == FLIPPED else 0
        return Arg(TensorType(INT8, (1,)), ctx.pack(w, f"micro_{self.kind}", self.channels, *taps, form))

    def write(self, emit: Emit) -> None:
        """All tiles. Where they do not come out even, the last one begins earlier and computes pixels again, which takes no code of its own."""
        last = self.total - self.pixels
        with loop(-(-self.total // self.pixels)) as tile:
            first = tile * self.pixels
            self.tile(tirx.min(first, tirx.const(last, "int32")) if self.total % self.pixels else first, self.pixels, emit)

    def tile(self, first: Expr, count: int, emit: Emit) -> None:
        """Some pixels and all output channels."""
        length = self.rows * self.groups * GROUP
        run = T.alloc_buffer((count * length,), "int16", scope="global")
        places = [self.place(first + p) for p in range(count)]
        self.seen = None if self.dsp else Cell("int32", tirx.const(0, "int32"))
        for p, place in enumerate(places):
            self.expand(run, p * length, place)
        blocks, rest = divmod(self.shape.outputs, self.channels)
        if blocks:
            with loop(blocks) as block:
                self.block(run, length, block, places, self.channels, emit)
        if rest:
            self.block(run, length, tirx.const(blocks, "int32"), places, rest, emit)

    def place(self, pixel: Expr) -> tuple[Expr, Expr, Expr]:
        """Image, line and column of a pixel, kept in variables."""
        shape = self.shape
        per = shape.lines * shape.pixels
        image = pixel // per if shape.images > 1 else tirx.const(0, "int32")
        rest = pixel % per if shape.images > 1 else pixel
        line = rest // shape.pixels if shape.lines > 1 else tirx.const(0, "int32")
        column = rest % shape.pixels if shape.lines > 1 else rest
        return Cell("int32", image).get(), Cell("int32", line).get(), Cell("int32", column).get()

    def expand(self, run: Buffer, base: int, place: tuple[Expr, Expr, Expr]) -> None:
        """What a pixel sees, as 16-bit numbers in the order in which `SXTB16` puts them."""
        shape, (image, line, column) = self.shape, place
        with loop(shape.kernel[0]) as r, loop(shape.taps) as tap:
            at = base + (r * shape.taps + tap) * self.groups * GROUP
            row = Cell("int32", line * shape.strides[0] + (r * shape.dilations[0] - shape.pads[0])).get()
            left = Cell("int32", column * shape.strides[1] + (tap * shape.dilations[1] - shape.pads[1])).get()
            start = ((image * shape.size[0] + row) * shape.size[1] + left) * shape.channels
            width = shape.run // shape.channels
            bounds = [*self.bounds(row, shape.size[0], 0), *self.bounds(left, shape.size[1] - width + 1, 1)]
            if not bounds:
                self.copy(run, at, start)
                return
            with T.If(tirx.all(*bounds)):
                with T.Then():
                    self.copy(run, at, start)
                with T.Else():
                    self.copy_border(run, at, start, row, left)

    def bounds(self, index: Expr, end: int, axis: int) -> list[Expr]:
        """The conditions under which a run lies inside along an axis; none where it always does."""
        padded = self.shape.pads[axis] or self.shape.pads[axis + 2]
        return [index >= 0, index < end] if padded else []

    def copy(self, run: Buffer, at: Expr, start: Expr) -> None:
        """A run that is inside."""
        whole, rest = divmod(self.shape.run, GROUP)
        first = Cell("int32", start).get()
        if self.dsp and whole:
            with loop(whole) as k:
                for half, pair in enumerate(self.pairs(Cell("int32", self.word(first + k * GROUP)).get())):
                    store(run, [tirx.Ramp(at + k * GROUP + 2 * half, 1, 2)], tirx.reinterpret("int16x2", pair))
        elif whole:
            with loop(whole * GROUP) as e:
                self.keep(run, at + e, self.byte(first + e))
        for e in range(whole * GROUP, whole * GROUP + (GROUP if rest else 0)):
            value = self.byte(first + e) if e < self.shape.run else tirx.const(0, "int32")
            self.keep(run, at + self.slot(e), value)

    def keep(self, run: Buffer, at: Expr, value: Expr) -> None:
        """Store a number of a run, and add it up where the sum is wanted."""
        number = Cell("int32", value).get()
        store(run, [at], number.astype("int16"))
        if self.seen is not None:
            self.seen.set(self.seen.get() + number)

    def copy_border(self, run: Buffer, at: Expr, start: Expr, row: Expr, left: Expr) -> None:
        """A run of which a part, or all, is padding."""
        shape = self.shape
        with loop(self.groups * GROUP) as e:
            store(run, [at + e], tirx.const(0, "int16"))
        width = shape.run // shape.channels
        with when(row >= 0, row < shape.size[0]):
            low, high = clamped(left, width, shape.size[1], 1)
            with T.serial(low * shape.channels, high * shape.channels) as e:
                self.keep(run, at + self.slot(e), self.byte(start + e))

    def slot(self, e: Any) -> Any:
        """Where number `e` of a run lies: 0, 2, 1, 3 within each four with the DSP extension."""
        if not self.dsp:
            return e
        if isinstance(e, int):
            return e // GROUP * GROUP + (0, 2, 1, 3)[e % GROUP]
        return e // GROUP * GROUP + (e % 2) * 2 + e % GROUP // 2

    def block(self, run: Buffer, length: int, block: Expr, places: Sequence[Any], channels: int, emit: Emit) -> None:
        """One register tile, and what follows it. Channels that are not there are computed for nothing."""
        count = len(places)
        first = tirx.const(0, "int32") if self.seen is None else self.seen.get() * -self.w_zero
        sums = [[Cell("int32", first) for _ in range(self.channels)] for _ in range(count)]
        with loop(self.rows * self.groups) as g:
            if self.dsp:
                self.multiply_pairs(run, length, block, g, sums)
            else:
                self.multiply(run, length, block, g, sums)
        for p, (image, line, column) in enumerate(places):
            for c in range(channels):
                emit(self.index(image, line, column, block * self.channels + c), Cell("int32", sums[p][c].get()).get())

    def multiply_pairs(self, run: Buffer, length: int, block: Expr, g: Expr, sums: Sequence[Sequence[Cell]]) -> None:
        """Four products per sum, in two instructions."""
        words = [Cell("int32", self.w[[block, g, c]]).get() for c in range(self.channels)]
        for half in range(2):
            data = [
                Cell("int32", tirx.reinterpret("int32", load(run, [tirx.Ramp(p * length + g * GROUP + 2 * half, 1, 2)]))).get()
                for p in range(len(sums))
            ]
            for c, word in enumerate(words):
                weights = Cell("int32", self.weight_pairs(word)[half]).get()
                for p, pixel in enumerate(sums):
                    pixel[c].set(_arm("smlad", data[p], weights, pixel[c].get()))

    def multiply(self, run: Buffer, length: int, block: Expr, g: Expr, sums: Sequence[Sequence[Cell]]) -> None:
        """Four products per sum, one by one. Weights are loaded without a sign, and what that adds is in the sums from the start."""
        for k in range(GROUP):
            data = [Cell("int32", load(run, [p * length + g * GROUP + k]).astype("int32")).get() for p in range(len(sums))]
            for c in range(self.channels):
                weight = Cell("int32", self.w[[block, g, c, k]].astype("int32")).get()
                for p, pixel in enumerate(sums):
                    pixel[c].set(pixel[c].get() + data[p] * weight)

    def index(self, image: Expr, line: Expr, column: Expr, channel: Expr) -> list[Expr]:
        """The index of an element of the result."""
        *outer, _ = self.x_type.static_shape
        if self.matrix:
            flat, index = line * self.shape.pixels + column, [channel]
            for position, extent in reversed(list(enumerate(outer))):
                index.insert(0, flat % extent if position else flat)
                flat = flat // extent
            return index
        return [image, column, channel] if len(outer) == 2 else [image, line, column, channel]


class Depthwise(MicroKernel):
    """A convolution that filters each channel by itself."""

    def __init__(self, ctx: Context, op: Any, x: Arg, w: Arg, zeros: Sequence[int]) -> None:
        super().__init__(ctx, op, x, w, zeros)
        shape, filters = x.type.static_shape, w.type.static_shape
        flat = len(shape) == 3
        size, kernel = ((1, shape[1]), (1, filters[2])) if flat else ((shape[1], shape[2]), (filters[2], filters[3]))
        pads = (0, op.pads[0], 0, op.pads[1]) if flat else tuple(op.pads)
        strides, dilations = ((1, *op.strides), (1, *op.dilations)) if flat else (op.strides, op.dilations)
        self.shape = Geometry(shape[0], size, shape[-1], shape[-1], kernel, strides, dilations, pads)
        self.flat = flat
        self.packed = self.pack(ctx, w)

    def pack(self, ctx: Context, w: Arg) -> Arg:
        """The weights as `tap` reads them."""
        return Arg(TensorType(INT8, (1,)), ctx.pack(w, "micro_depthwise", int(self.dsp)))

    def write(self, emit: Emit) -> None:
        """Four channels after another, and for each all pixels."""
        shape = self.shape
        whole, rest = divmod(shape.channels, GROUP)
        with loop(shape.images) as image:
            if whole:
                with loop(whole) as block:
                    self.pixels(block, GROUP, image, emit)
            if rest:
                self.pixels(tirx.const(whole, "int32"), rest, image, emit)

    def pixels(self, block: Expr, channels: int, image: Expr, emit: Emit) -> None:
        """All pixels of a block of channels. Where all taps are inside they are written out, at the border they are counted."""
        shape = self.shape
        if self.dsp and channels == GROUP:
            self.keep_weights(block)
        with loop(shape.lines) as line:
            row = Cell("int32", line * shape.strides[0] - shape.pads[0]).get()
            rows = clamped(row, shape.kernel[0], shape.size[0], shape.dilations[0])
            with loop(shape.pixels) as column:
                left = Cell("int32", column * shape.strides[1] - shape.pads[1]).get()
                start = Cell("int32", ((image * shape.size[0] + row) * shape.size[1] + left) * shape.channels + block * GROUP).get()
                sums = [Cell("int32", tirx.const(0, "int32")) for _ in range(channels)]
                bounds = self.bounds(row, left)
                if not bounds:
                    self.all_taps(block, start, sums)
                elif self.small:
                    self.taps_inside(block, start, rows, left, sums)
                else:
                    with T.If(tirx.all(*bounds)):
                        with T.Then():
                            self.all_taps(block, start, sums)
                        with T.Else():
                            self.taps_inside(block, start, rows, left, sums)
                for c in range(channels):
                    channel = block * GROUP + c
                    emit([image, column, channel] if self.flat else [image, line, column, channel], Cell("int32", sums[c].get()).get())

    def bounds(self, row: Expr, left: Expr) -> list[Expr]:
        """The conditions under which all taps of a pixel are inside; none where they always are."""
        shape = self.shape
        return [
            c
            for axis, index in ((0, row), (1, left))
            if shape.pads[axis] or shape.pads[axis + 2]
            for c in (index >= 0, index < shape.size[axis] - (shape.kernel[axis] - 1) * shape.dilations[axis])
        ]

    def taps_inside(self, block: Expr, start: Expr, rows: tuple[Expr, Expr], left: Expr, sums: Sequence[Cell]) -> None:
        """A pixel some of whose taps may be outside."""
        shape = self.shape
        columns = clamped(left, shape.kernel[1], shape.size[1], shape.dilations[1])
        with T.serial(*rows) as r, T.serial(*columns) as s:
            self.tap(block, start, r, s, sums)

    def all_taps(self, block: Expr, start: Expr, sums: Sequence[Cell]) -> None:
        """A pixel whose taps are all inside."""
        if self.shape.kernel[0] * self.shape.kernel[1] <= WRITTEN_OUT and not self.small:
            for r in range(self.shape.kernel[0]):
                for s in range(self.shape.kernel[1]):
                    self.tap(block, start, r, s, sums)
            return
        with loop(self.shape.kernel[0]) as r, loop(self.shape.kernel[1]) as s:
            self.tap(block, start, r, s, sums)

    def keep_weights(self, block: Expr) -> None:
        """The weights of four channels as pairs of 16-bit numbers, on the stack."""
        taps = self.shape.kernel[0] * self.shape.kernel[1]
        self.kept = T.alloc_buffer((2 * taps,), "int32", scope="global")
        with loop(taps) as tap:
            word = Cell("int32", self.w[[block, tap]]).get()
            for half, pair in enumerate(self.weight_pairs(word)):
                store(self.kept, [2 * tap + half], pair)

    def tap(self, block: Expr, start: Expr, r: Any, s: Any, sums: Sequence[Cell]) -> None:
        """One number of the filter of each channel."""
        shape = self.shape
        offset = start + (r * shape.dilations[0] * shape.size[1] + s * shape.dilations[1]) * shape.channels
        tap = r * shape.kernel[1] + s
        if not self.dsp or len(sums) < GROUP:
            for c, total in enumerate(sums):
                weight = self.byte_of_word(self.w[[block, tap]], c) if self.dsp else self.w[[block, tap, c]]
                total.set(total.get() + self.byte(offset + c) * self.weight(weight))
            return
        data = [Cell("int32", pair).get() for pair in self.pairs(Cell("int32", self.word(offset)).get())]
        for c, total in enumerate(sums):
            weights = load(self.kept, [2 * tap + c % 2])
            total.set(_arm("smlatt" if c // 2 else "smlabb", data[c % 2], weights, total.get()))

    def byte_of_word(self, word: Expr, k: int) -> Expr:
        """A byte of a word of weights."""
        return tirx.shift_right(word, tirx.const(8 * k, "int32")).astype(self.w_type.dtype.name)


@contextmanager
def loop(extent: int) -> Iterator[Any]:
    """A loop, or its body where it would run once."""
    if extent == 1:
        yield tirx.const(0, "int32")
        return
    with T.serial(0, extent) as k:
        yield k


def clamped(first: Expr, taps: int, size: int, step: int) -> tuple[Expr, Expr]:
    """Which of `taps` positions, `step` apart from `first` on, are in [0, size): a range, kept in variables."""
    low = tirx.max(tirx.const(0, "int32"), tirx.truncdiv(step - 1 - first, tirx.const(step, "int32")))
    high = tirx.min(tirx.const(taps, "int32"), tirx.truncdiv(size + step - 1 - first, tirx.const(step, "int32")))
    return Cell("int32", low).get(), Cell("int32", high).get()


def _arm(name: str, *operands: Expr) -> Expr:
    return tirx.call_llvm_pure_intrin("int32", f"llvm.arm.{name}", *operands)


def _pairs(word: Expr, kind: TensorType, zero: int) -> tuple[Expr, Expr]:
    """The bytes 0 and 2, and 1 and 3, of a word, each less `zero`: two pairs of 16-bit numbers."""
    name = "sxt" if kind.dtype == INT8 else "uxt"
    if not zero:
        return _arm(f"{name}b16", word), _arm(f"{name}b16", _turned(word))
    less = tirx.const(_signed((-zero & 0xFFFF) * 0x10001), "int32")
    return _arm(f"{name}ab16", less, word), _arm(f"{name}ab16", less, _turned(word))


def _turned(word: Expr) -> Expr:
    """A word rotated right by a byte: `SXTB16` does that along the way."""
    bits = tirx.reinterpret("uint32", word)
    turned = tirx.bitwise_or(tirx.shift_right(bits, tirx.const(8, "uint32")), tirx.shift_left(bits, tirx.const(24, "uint32")))
    return tirx.reinterpret("int32", turned)


def _signed(word: int) -> int:
    return word - (1 << 32) if word >> 31 else word
