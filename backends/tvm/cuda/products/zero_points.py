"""Zero points of products of codes: which part of them becomes part of the sum's ending, and what is left to the kernel.

The sum of (a - p) (b - q) over k is that of a b, less p times the sum of b, less q times the sum of a, plus p q times the number of k. All of
it wraps around in 32 bits as the evaluator's sums do. Sums of constant weights are known when the artefact is built.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from tvm import tirx

from lepton_compiler.backends.tvm.lower.context import Arg

Expr = Any
"""A `tvm.tirx` expression; TVM carries no types."""


@dataclass(frozen=True)
class ZeroPoints:
    """Zero points of data and weights, or of a left and a right operand.

    Attributes:
        data: a scalar in int32; None where it is known to be zero.
        weights: that of an output channel, or None likewise.
        sums: buffer of the sums of the weights of each output channel, where these are constants.
        depth: products of a sum.
    """

    data: Expr | None
    weights: Callable[[Expr], Expr] | None
    sums: Any | None
    depth: int

    def taken_off(self, channel: Expr) -> tuple[Expr | None, Expr | None]:
        """The zero points of data and weights that the kernel takes off, times the sums of the respective other operand that only it knows."""
        return (self.data if self.sums is None else None), None if self.weights is None else self.weights(channel)

    def end(self, total: Expr, channel: Expr) -> Expr:
        """The whole sum, from what the kernel gives for an output channel."""
        if self.data is None:
            return total
        if self.sums is not None:
            total = total - self.data * tirx.BufferLoad(self.sums, [channel])
        return total if self.weights is None else total + self.data * self.weights(channel) * tirx.const(self.depth, "int32")


def zero_points(data: Arg | None, weights: Arg | None, sums: Callable[[], Any] | None, depth: int) -> ZeroPoints:
    """The zero points of a product; `sums` makes the buffer of sums of constant weights, if it is needed."""
    known = None if data is None or data.number == 0 else number_at(data)
    by_channel = None if weights is None or weights.number == 0 else partial(number_at, weights)
    return ZeroPoints(known, by_channel, sums() if sums is not None and known is not None else None, depth)


def number_at(zero: Arg, channel: Expr | None = None) -> Expr:
    """A zero point in int32: the only one, or that of a channel, counted along the last axis."""
    first = tirx.const(0, "int32")
    index = [first] * (len(zero.shape) - 1) + [first if zero.type.size == 1 else channel]
    return zero[index if zero.shape else []].astype("int32")


def are_fit(data: Arg | None, weights: Arg | None, channels: int) -> bool:
    """Whether there is one zero point of the data, and one of the weights or one for each of their output channels."""
    return (data is None or data.type.size == 1) and (weights is None or weights.type.size in (1, channels))
