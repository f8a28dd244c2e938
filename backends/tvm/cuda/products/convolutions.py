"""Convolutions as products of pixels and taps, of floats and of codes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from tvm import tirx

from lepton_compiler.backends.tvm.cuda.products.builder import Builder
from lepton_compiler.backends.tvm.cuda.products.operands import WIDE, ZERO, chunk, element_type, is_converted, is_plain, less, stored
from lepton_compiler.backends.tvm.cuda.products.product import Element, Expr, Product, Side
from lepton_compiler.backends.tvm.cuda.products.weights import packed_weights
from lepton_compiler.backends.tvm.cuda.products.zero_points import are_fit, zero_points
from lepton_compiler.backends.tvm.cuda.rules import number_of, sum_type
from lepton_compiler.backends.tvm.cuda.tensor_cores import Arithmetic, Convolution
from lepton_compiler.backends.tvm.lower.context import Arg
from lepton_compiler.backends.tvm.lower.movement import unravel


def conv(b: Builder, op: Any, x: Arg, w: Arg, *rest: Arg | None) -> Product | None:
    """Convolutions as products of pixels and taps; what lies outside of the image is zero."""
    kind, last = b.spec.types[b.step.outputs[0]], getattr(op, "layout", "NCHW") == "NHWC"
    integer = op.name == "ConvInteger"
    acc = "int32" if integer else sum_type(kind.dtype)
    bias, x_zero, w_zero = (None, *(*rest, None, None)[:2]) if integer else ((*rest, None)[0], None, None)
    spatial, in_group, per_group = len(x.shape) - 2, w.shape[1], w.shape[0] // op.groups
    if spatial < 1 or per_group < WIDE or in_group * math.prod(w.shape[2:]) < WIDE or not are_fit(x_zero, w_zero, w.shape[0]):
        return None
    size, out = (s[1:-1] if last else s[2:] for s in (x.shape, kind.static_shape))
    taps, images = w.shape[2:], x.shape[0]
    order = (*taps, in_group) if last else (in_group, *taps)

    known = (is_plain(b, x, w) and w.constant) or (w.scales is None and is_converted(b, x, w, 0))
    plain, depth = spatial <= 2 and known, math.prod(order)
    packed = packed_weights(b.weight, w, "filters", int(last)) if plain else None
    points = zero_points(x_zero, w_zero, (lambda: b.weight(w, "filter_sums")) if plain else None, depth)

    def of(at: Expr, m: Expr, n: Expr) -> tuple[Expr, Expr, Expr]:
        """Image, channel of the result, pixel of the image."""
        if last:
            return tirx.floordiv(m, math.prod(out)), at * per_group + n if op.groups > 1 else n, tirx.floormod(m, math.prod(out))
        return tirx.floordiv(at, op.groups), tirx.floormod(at, op.groups) * per_group + m if op.groups > 1 else m, n

    def pixel(at: Expr, m: Expr, k: Expr) -> Element:
        image, channel, flat = of(at, m, ZERO) if last else of(at, ZERO, m)
        steps, position = unravel(k, order), unravel(flat, out)
        step, tap = (steps[-1], steps[:-1]) if last else (steps[0], steps[1:])
        where = [p * s + t * d - low for p, s, t, d, low in zip(position, op.strides, tap, op.dilations, op.pads[:spatial], strict=True)]
        ends = zip(where, size, op.pads[:spatial], op.pads[spatial:], strict=True)
        inside = tuple(c for a, n, low, high in ends for c in ((a >= 0, a < n) if low or high else ()))
        source = tirx.floordiv(channel, per_group) * in_group + step if op.groups > 1 else step
        return less(stored(x, [image, *where, source] if last else [image, source, *where], acc, inside), x_zero)

    def filters(at: Expr, n: Expr, k: Expr) -> Element:
        _, channel, _ = of(at, ZERO, n) if last else of(at, n, ZERO)
        steps = unravel(k, order)
        return less(stored(w, [channel, steps[-1], *steps[:-1]] if last else [channel, *steps], acc), w_zero, channel)

    def place(at: Expr, m: Expr, n: Expr) -> tuple[Expr, ...]:
        image, channel, flat = of(at, m, n)
        return (image, *unravel(flat, out), channel) if last else (image, channel, *unravel(flat, out))

    def change(total: Expr, index: Sequence[Expr]) -> Expr:
        channel = index[-1] if last else index[1]
        total = points.end(total, channel) if plain else total
        return total if bias is None else total + number_of(bias[[channel]], bias.type.dtype, acc)

    def taken_off(at: Expr, m: Expr, n: Expr) -> tuple[Expr | None, Expr | None]:
        data, weights = points.taken_off(of(at, m, n)[1])
        return (data, weights) if last else (weights, data)

    fill = points.data if any(op.pads) else None

    def problem(name: Callable[[Any], str], arithmetic: Arithmetic) -> Convolution:
        assert packed is not None
        conv = _windows(op, x, w, name(b.buffer(x)), name(packed.buffer), arithmetic)
        zero_a, zero_b = taken_off(ZERO, ZERO, ZERO)
        return replace(conv, codes=packed.codes(name), filled=fill is not None, zero_a=zero_a is not None, zero_b=zero_b is not None)

    whole = x_zero is None and w_zero is None
    pixels = Side(pixel, "depth" if last else "extent", chunk(x, in_group, x.shape[-1]) if last and whole else 1)
    weights = Side(filters, "depth", chunk(w, depth) if whole and not last else 1)
    if bias is not None:
        bias.uses += 1
    generated: Any = (problem, taken_off, fill, integer or w.stored is not None) if plain else ()
    end = b.ending(change)
    if last:
        return Product(op.groups, images * math.prod(out), per_group, depth, pixels, weights, acc, place, end, *generated)
    return Product(images * op.groups, per_group, math.prod(out), depth, weights, pixels, acc, place, end, *generated)


def _windows(op: Any, x: Arg, w: Arg, image: str, weight: str, arithmetic: Arithmetic) -> Convolution:
    """A convolution over one axis, or two, as the generator of tensor cores takes it."""
    last, one = getattr(op, "layout", "NCHW") == "NHWC", len(x.shape) == 3
    size = x.shape[1:-1] if last else x.shape[2:]
    height, width = (1, *size) if one else size
    pads = (0, op.pads[0], 0, op.pads[1]) if one else tuple(op.pads)

    def two(values: Sequence[int]) -> tuple[int, int]:
        return (1, int(values[0])) if one else (int(values[0]), int(values[1]))

    return Convolution(
        image, weight, element_type(x), element_type(w), arithmetic, x.shape[0], height, width, x.shape[-1] if last else x.shape[1], w.shape[0],
        two(w.shape[2:]), two(op.strides), (int(pads[0]), int(pads[1]), int(pads[2]), int(pads[3])), two(op.dilations), op.groups, last,
    )  # fmt: skip
