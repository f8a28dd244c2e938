"""Quantization by the data's own range: one pass that finds the range, one that quantizes."""

from __future__ import annotations

import math
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from lepton_compiler.backends.tvm.compute.integer_product import spans
from lepton_compiler.backends.tvm.lower.context import Arg, Context, Expr, lowers
from lepton_compiler.backends.tvm.lower.procedure import Buffer, load, procedure, store
from lepton_compiler.backends.tvm.lower.scalar import type_of
from lepton_compiler.backends.tvm.naming import named
from lepton_compiler.backends.tvm.outline import outlined, rarely

CHAINS = 4
"""Vectors of extremes, to hide the latency of comparisons."""
STEPS = 255.0
"""Steps between the least and the largest number."""
DOUBT = 1e-4
"""Distance from a tie below which a product with the reciprocal may round otherwise than the quotient: that is wrong by at most
two units in the last place of a number up to 255, 2^-15, where the zero point keeps the sum in range."""


@lowers("DynamicQuantizeLinear")
def lower_dynamic_quantize(ctx: Context, op: Any, x: Arg) -> list[Any]:
    """Codes, scale and zero point."""
    lanes, size = ctx.target.lanes(32), math.prod(x.shape)

    def write(x: Arg, y: Buffer, scale: Buffer, zero: Buffer) -> None:
        def read(offset: Expr) -> Expr:
            return x[[*[0] * (len(x.shape) - 1), offset]] if x.shape else x[[]]

        low, high = _range(read, size, lanes)
        store(scale, [], outlined(scale_of, low, high))
        store(zero, [], outlined(zero_of, low, load(scale, [])).astype("uint8"))
        factor, point = load(scale, []), load(zero, []).astype("float32")
        inverse = tirx.const(1.0, "float32") / factor
        for first, width, count in spans(size, lanes):
            with T.serial(0, count) as k, T.vectorized(0, width) if width > 1 else T.serial(0, 1) as lane:
                at = first + k * width + lane
                code = outlined(code_of, read(at), inverse, factor, point).astype("uint8")
                store(y, [*[0] * (len(x.shape) - 1), at] if x.shape else [], code)

    return procedure(ctx, "dynamic_quantize", [x], write)


def _range(read: Any, size: int, lanes: int) -> tuple[Expr, Expr]:
    """The least and the largest of the elements and 0."""
    zero = tirx.const(0.0, "float32")
    width = lanes * CHAINS
    low, high = (T.alloc_buffer((width,), "float32", scope="global") for _ in range(2))
    for c in range(CHAINS):
        with T.vectorized(0, lanes) as lane:
            store(low, [c * lanes + lane], zero)
        with T.vectorized(0, lanes) as lane:
            store(high, [c * lanes + lane], zero)
    for first, vector, count in spans(size, width):
        with T.serial(0, count) as k:
            for c in range(max(1, vector // lanes)):
                for buffer, choose in ((low, smaller), (high, larger)):
                    with T.vectorized(0, min(lanes, vector)) if vector > 1 else T.serial(0, 1) as lane:
                        at = c * lanes + lane
                        store(buffer, [at], choose(load(buffer, [at]), read(first + k * vector + at)))
    span = width
    while span > 1:
        span //= 2
        for buffer, choose in ((low, smaller), (high, larger)):
            with T.vectorized(0, span) if span > 1 else T.serial(0, 1) as lane:
                store(buffer, [lane], choose(load(buffer, [lane]), load(buffer, [lane + span])))
    return load(low, [0]), load(high, [0])


def smaller(a: Expr, b: Expr) -> Expr:
    """The smaller one; `a` where one is NaN."""
    return outlined(lambda x, y: tirx.Select(y < x, y, x), a, b)


def larger(a: Expr, b: Expr) -> Expr:
    """The larger one, or NaN if there is one: so the scale becomes NaN."""
    return outlined(lambda x, y: tirx.Select(y > x, y, tirx.Select(tirx.NE(y, y), y, x)), a, b)


def scale_of(low: Expr, high: Expr) -> Expr:
    """The scale of a range that includes zero."""

    def chosen(width: Expr) -> Expr:
        return tirx.Select(tirx.EQ(width, _like(0.0, width)), _like(1.0, width), width) / _like(STEPS, width)

    return named(high - low, chosen)


def zero_of(low: Expr, scale: Expr) -> Expr:
    """The zero point, as int32."""
    return named(_bounded(_like(0.0, low) - low / scale), lambda v: tirx.nearbyint(v).astype("int32"))


def _bounded(x: Expr) -> Expr:
    return named(x, lambda v: tirx.Select(v < _like(0.0, v), _like(0.0, v), tirx.Select(v > _like(STEPS, v), _like(STEPS, v), v)))


def code_of(x: Expr, inverse: Expr, scale: Expr, zero: Expr) -> Expr:
    """`clip(round(x / scale) + zero, 0, 255)`: by the reciprocal, unless that is too close to a tie."""

    def rounded(quotient: Expr) -> Expr:
        return named(tirx.nearbyint(quotient), lambda v: v)

    quotient = named(x * inverse, lambda v: v)
    near = named(tirx.nearbyint(quotient), lambda v: v)
    doubtful = tirx.abs(quotient - near) > _like(0.5 - DOUBT, x)
    whole = rarely(doubtful, lambda a, s, n: tirx.nearbyint(a / s), lambda a, s, n: n, x, scale, near)
    return _bounded(whole + zero).astype("int32")


def _like(value: float, x: Expr) -> Expr:
    return tirx.const(value, type_of(x))
