"""Pooling: reductions over sliding windows of any rank, in either layout."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from tvm import te, tirx
from tvm.script.ir_builder import tirx as T

from lepton_compiler.backends.tvm.lower import scalar as sc
from lepton_compiler.backends.tvm.lower.context import Arg, Context, Expr, compute, lowers, wide
from lepton_compiler.backends.tvm.lower.movement import ravel
from lepton_compiler.backends.tvm.lower.ordering import order_key, order_type
from lepton_compiler.backends.tvm.lower.procedure import Buffer, Cell, nest, procedure, store
from lepton_compiler.backends.tvm.outline import outlined

MAXIMUM = te.comm_reducer(lambda a, b: outlined(sc.maximum, a, b), lambda t: tirx.const(-math.inf, t), "maximum")
"""The maximum of floats as numpy has it: NaN wins, and that of nothing is minus infinity."""


@dataclass(frozen=True)
class _Windows:
    """Where the taps of a pool lie: along each spatial axis, tap `t` of window `p` reads element `p * stride + t * dilation - pad`."""

    op: Any
    size: tuple[int, ...]
    out: tuple[int, ...]

    @staticmethod
    def of(op: Any, x: Arg, out: Sequence[int]) -> _Windows:
        """Those over `x`, of which there are as many as the result has pixels."""
        spatial = slice(1, -1) if op.layout == "NHWC" else slice(2, None)
        return _Windows(op, x.shape[spatial], tuple(out[spatial]))

    def pixel(self, i: Sequence[Expr]) -> Sequence[Expr]:
        """The spatial part of an index of the result."""
        return i[1:-1] if self.op.layout == "NHWC" else i[2:]

    def element(self, i: Sequence[Expr], at: Sequence[Expr]) -> list[Expr]:
        """The index of the element at `at` in the plane of the result's element `i`."""
        return [i[0], *at, i[-1]] if self.op.layout == "NHWC" else [i[0], i[1], *at]

    def origin(self, i: Sequence[Expr]) -> list[Expr]:
        """The element under the first tap."""
        return [p * s - b for p, s, b in zip(self.pixel(i), self.op.strides, self.op.pads, strict=False)]

    def under(self, i: Sequence[Expr], taps: Sequence[Expr]) -> list[Expr]:
        """The element under `taps`."""
        return [o + t * d for o, t, d in zip(self.origin(i), taps, self.op.dilations, strict=True)]

    def reach(self, axis: int) -> int:
        """The last element that a window goes to."""
        op = self.op
        return int((self.out[axis] - 1) * op.strides[axis] - op.pads[axis] + (op.kernel_shape[axis] - 1) * op.dilations[axis])

    def whole(self, i: Sequence[Expr]) -> list[Expr]:
        """The conditions under which the whole window of the result's element `i` is inside the image."""
        ends = [o + (k - 1) * d for o, k, d in zip(self.origin(i), self.op.kernel_shape, self.op.dilations, strict=True)]
        return [*(o >= 0 for o in self.origin(i)), *(e < n for e, n in zip(ends, self.size, strict=True))]

    def flat(self, at: Sequence[Expr], storage_order: int) -> Expr:
        """The number of an element in its plane, row-major or, with `storage_order` 1, column-major."""
        index, size = (at[::-1], self.size[::-1]) if storage_order else (at, self.size)
        return ravel(index, size)

    def inside(self, at: Sequence[Expr]) -> list[Expr]:
        """The conditions under which an element is there, those that can fail."""
        conditions = []
        for axis, (a, n) in enumerate(zip(at, self.size, strict=True)):
            conditions += [a >= 0] if self.op.pads[axis] else []
            conditions += [a < n] if self.reach(axis) >= n else []
        return conditions


def _taps(op: Any) -> list[Any]:
    return [te.reduce_axis((0, k), f"r{a}") for a, k in enumerate(op.kernel_shape)]


@lowers("MaxPool")
def lower_max_pool(ctx: Context, op: Any, x: Arg) -> list[Any]:
    """The largest element under the window; NaN wins. With indices, the first one of equals tells its place."""
    if op.indices:
        return _with_indices(ctx, op, x)
    kind = "int8" if x.dtype == "bool" else wide(x.dtype)
    real = kind.startswith("float")
    windows, taps = _Windows.of(op, x, ctx.outputs[0].static_shape), _taps(op)

    def body(*i: Expr) -> Expr:
        at = windows.under(i, taps)
        value = x[windows.element(i, at)].astype(kind)
        if inside := windows.inside(at):
            value = tirx.if_then_else(tirx.all(*inside), value, tirx.const(-math.inf, kind) if real else tirx.min_value(kind))
        return (MAXIMUM if real else te.max)(value, axis=taps)

    pooled = compute(ctx.outputs[0].static_shape, body, "maxpool")
    return [pooled if kind == x.dtype else compute(pooled.shape, lambda *i: pooled(*i).astype(x.dtype), "narrow")]


def _with_indices(ctx: Context, op: Any, x: Arg) -> list[Any]:
    """Window by window, over the taps inside the image only: all of them, mostly, which is a loop of known length."""
    windows, pixels = _Windows.of(op, x, ctx.outputs[0].static_shape), ctx.outputs[0].static_shape[2:]
    key, plane = order_type(x.dtype) if x.dtype != "bool" else "int8", math.prod(windows.size)
    lowest = tirx.const(-math.inf, x.dtype) if x.type.dtype.is_float else tirx.min_value("int8" if x.dtype == "bool" else x.dtype)

    def write(x: Arg, values: Buffer, places: Buffer) -> None:
        with nest(x.shape[:2], ctx.outputs[0].size * math.prod(op.kernel_shape)) as image, nest(pixels) as pixel:
            i = [*image, *pixel]
            best, value, where = Cell(key, tirx.min_value(key)), Cell(x.dtype, lowest.astype(x.dtype)), Cell("int32", -1)

            def take(taps: Sequence[Expr]) -> None:
                at = windows.under(i, taps)
                element = x[windows.element(i, at)]
                mine = order_key(element).astype(key)
                better = Cell("bool", tirx.Or(where.get() < 0, mine > best.get()))
                best.set(tirx.Select(better.get(), mine, best.get()))
                value.set(tirx.Select(better.get(), element, value.get()))
                where.set(tirx.Select(better.get(), windows.flat(at, op.storage_order), where.get()))

            with T.If(tirx.all(*windows.whole(i))):
                with T.Then(), nest(op.kernel_shape) as taps:
                    take(taps)
                with T.Else(), _taps_inside_of(windows, i) as taps:
                    take(taps)
            store(values, i, value.get())
            store(places, i, (image[0] * x.shape[1] + image[1]).astype("int64") * plane + where.get().astype("int64"))

    return procedure(ctx, "maxpool", [x], write)


@contextmanager
def _taps_inside_of(windows: _Windows, i: Sequence[Expr]) -> Iterator[list[Expr]]:
    """Loops over the taps of a window that lie inside the image."""
    with ExitStack() as loops:
        taps = []
        for o, k, d, n in zip(windows.origin(i), windows.op.kernel_shape, windows.op.dilations, windows.size, strict=True):
            first = tirx.max(0, tirx.floordiv(d - 1 - o, d))
            end = tirx.min(k, tirx.floordiv(n - o + d - 1, d))
            taps.append(loops.enter_context(T.serial(first, end)))
        yield taps


@lowers("AveragePool")
def lower_average_pool(ctx: Context, op: Any, x: Arg) -> list[Any]:
    """The sum divided by what `count_include_pad` says, cut at the padded edge with `ceil_mode`."""
    kind, spatial = wide(x.dtype), len(x.shape) - 2
    windows, taps = _Windows.of(op, x, ctx.outputs[0].static_shape), _taps(op)

    def body(*i: Expr) -> Expr:
        at = windows.under(i, taps)
        value = x[windows.element(i, at)].astype(kind)
        if inside := windows.inside(at):
            value = tirx.if_then_else(tirx.all(*inside), value, tirx.const(0, kind))
        return te.sum(value, axis=taps)

    pooled = compute(ctx.outputs[0].static_shape, body, "averagepool")

    def average(*i: Expr) -> Expr:
        count: Expr = tirx.const(1, "int32")
        for a, (o, k, d, n) in enumerate(zip(windows.origin(i), op.kernel_shape, op.dilations, windows.size, strict=True)):
            low = -int(op.pads[a]) if op.count_include_pad else 0
            high = n + (int(op.pads[spatial + a]) if op.count_include_pad else 0)
            count = count * taps_inside(o, k, d, low, high, windows.reach(a))
        return (pooled(*i) / count.astype(kind)).astype(x.dtype)

    return [compute(ctx.outputs[0].static_shape, average, "average")]


def taps_inside(origin: Expr, taps: int, dilation: int, low: int, high: int, reach: int) -> Expr:
    """How many of `origin + t * dilation`, 0 <= t < taps, lie in [low, high)."""
    first = tirx.max(tirx.const(0, "int32"), tirx.floordiv(low - origin + dilation - 1, dilation))
    end = (
        tirx.min(tirx.const(taps, "int32"), tirx.floordiv(high - origin + dilation - 1, dilation))
        if reach >= high
        else tirx.const(taps, "int32")
    )
    return tirx.max(tirx.const(1, "int32"), end - first)
