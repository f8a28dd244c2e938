"""GridSample: images read at the places that a grid names."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx

from lepton_compiler.backends.tvm.lower import scalar as sc
from lepton_compiler.backends.tvm.lower.context import Arg, Context, Expr, compute, lowers, wide
from lepton_compiler.backends.tvm.lower.conversion import number_as
from lepton_compiler.backends.tvm.lower.scalar import const
from lepton_compiler.backends.tvm.naming import named
from lepton_compiler.backends.tvm.outline import outlined

CUBIC = -0.75
"""The coefficient of the cubic kernel."""


@lowers("GridSample")
def lower_grid_sample(ctx: Context, op: Any, x: Arg, grid: Arg) -> list[Any]:
    """Sums of gathered elements, any number of spatial axes; places and weights are functions of the grid's numbers."""
    sizes, shape = x.shape[2:], ctx.outputs[0].static_shape
    axes = [_Axis(op, size) for size in sizes]
    offsets = {"nearest": (0,), "linear": (0, 1), "cubic": (-1, 0, 1, 2)}[op.mode]

    def term(i: Sequence[Expr], taps: Sequence[Expr]) -> Expr:
        """The element under a tap, times its weight."""
        names = [grid[[i[0], *i[2:], _i(len(sizes) - 1 - a)]] for a in range(len(sizes))]
        names = [g.astype(wide(grid.dtype)) for g in names]
        at = [outlined(axis.index, g, t) for axis, g, t in zip(axes, names, taps, strict=True)]
        weights = [outlined(axis.weight, g, t) for axis, g, t in zip(axes, names, taps, strict=True)]
        weight = weights[0]
        for other in weights[1:]:
            weight = weight * other
        return _scaled(x[[i[0], i[1], *at]], weight)

    kind = wide(x.dtype)
    if op.mode == "cubic" and kind != "bool":
        taps = [te.reduce_axis((0, 4), f"t{a}") for a in range(len(sizes))]
        total = compute(shape, lambda *i: te.sum(term(i, [(t - 1).astype(wide(grid.dtype)) for t in taps]), axis=taps), "samples")
        ctx.workspace(total)
        return [compute(shape, lambda *i: total(*i).astype(x.dtype), "grid_sample")]

    def body(*i: Expr) -> Expr:
        terms = [term(i, [tirx.const(t, wide(grid.dtype)) for t in taps]) for taps in itertools.product(offsets, repeat=len(sizes))]
        total = terms[0]
        for other in terms[1:]:
            total = tirx.Or(total, other) if kind == "bool" else total + other
        return total.astype(x.dtype)

    return [compute(shape, body, "grid_sample")]


def _scaled(element: Expr, weight: Expr) -> Expr:
    """`element * weight` in the type of the element, wide; the evaluator makes the weight of that type."""
    kind = wide(sc.type_of(element))
    if kind == "bool":
        return tirx.And(element, number_as(weight, "bool"))
    return element.astype(kind) * number_as(weight, kind)


def _i(value: int) -> Expr:
    return tirx.const(value, "int32")


class _Axis:
    """What the grid's number for one axis of `size` elements means, as `ops.resize.GridSample` defines it."""

    def __init__(self, op: Any, size: int) -> None:
        self.op, self.size = op, size

    def index(self, g: Expr, offset: Expr) -> Expr:
        """The element under a tap, one inside the axis, int32."""
        return self._tap(g, offset, lambda place, part: self._clipped(place).astype("int32"))

    def weight(self, g: Expr, offset: Expr) -> Expr:
        """The weight of a tap; zero where it is outside and nothing fills the outside."""

        def inside(place: Expr, part: Expr) -> Expr:
            there = tirx.And(place >= const(0, place), place <= const(self.size - 1, place))
            return tirx.Select(there, part, const(0, place))

        return self._tap(g, offset, inside)

    def _tap(self, g: Expr, offset: Expr, finish: Callable[[Expr, Expr], Expr]) -> Expr:
        """`finish(place, part)` with the place of a tap, brought into the image, and its part in the interpolation."""

        def from_place(at: Expr) -> Expr:
            if self.op.mode == "nearest":
                return named(self._wrapped(tirx.nearbyint(at)), lambda place: finish(place, const(1, place)))
            return named(
                tirx.floor(at), lambda base: named(self._wrapped(base + offset), lambda p: finish(p, self._part(at - base, offset)))
            )

        place = self._coordinate(g)
        return named(place if self.op.mode == "cubic" else self._wrapped(place), from_place)

    def _coordinate(self, g: Expr) -> Expr:
        """From [-1, 1] to elements; each step rounded, so that what is halfway between elements is so in the evaluator."""
        one, two, size = const(1, g), const(2, g), const(self.size, g)
        if self.op.align_corners and self.size == 1:
            return g - g  # zero, but nowhere for what is not finite: TVM would fold a product with zero
        if self.op.align_corners:
            return sc.rounded((g + one) / two * const(self.size - 1, g))
        return (sc.rounded((g + one) * size) - one) / two

    def _part(self, share: Expr, offset: Expr) -> Expr:
        """The share of the tap `offset` elements from the one below the place."""
        if self.op.mode == "linear":
            return tirx.Select(offset.equal(const(0, offset)), const(1, share) - share, share)
        a = CUBIC

        def kernel(d: Expr) -> Expr:
            near = (const(a + 2, d) * d - const(a + 3, d)) * d * d + const(1, d)
            far = ((const(a, d) * d - const(5 * a, d)) * d + const(8 * a, d)) * d - const(4 * a, d)
            return tirx.Select(d <= const(1, d), near, tirx.Select(d < const(2, d), far, const(0, d)))

        return named(share - offset, lambda s: named(tirx.Select(s < const(0, s), -s, s), kernel))

    def _wrapped(self, at: Expr) -> Expr:
        """A coordinate brought into the image, unless what is outside is zero."""
        if self.op.padding_mode == "border":
            return named(at, self._bounded)
        if self.op.padding_mode == "zeros":
            return at
        low, high = (0.0, self.size - 1.0) if self.op.align_corners else (-0.5, self.size - 0.5)
        if high <= low:
            return const(0, at)
        period = const(2 * (high - low), at)

        def mirrored(phase: Expr) -> Expr:
            return self._bounded(const(low, at) + tirx.Select(phase < period - phase, phase, period - phase))

        return named(at - const(low, at), lambda v: named(_remainder(v, period), mirrored))

    def _bounded(self, at: Expr) -> Expr:
        """Within the image; NaN stays."""
        last = const(self.size - 1, at)
        return tirx.Select(at < const(0, at), const(0, at), tirx.Select(at > last, last, at))

    def _clipped(self, place: Expr) -> Expr:
        """Within the image; NaN becomes 0."""
        last = const(self.size - 1, place)
        return tirx.Select(place > const(0, place), tirx.Select(place < last, place, last), const(0, place))


def _remainder(x: Expr, period: Expr) -> Expr:
    """`x` modulo a whole number, exact for |x| below 2^23: the multiple is exact, and so the difference is rounded once."""
    rest = named(x, lambda v: v - tirx.floor(v / period) * period)
    rest = named(rest, lambda r: tirx.Select(r < const(0, r), r + period, r))
    return named(rest, lambda r: tirx.Select(r >= period, r - period, r))
