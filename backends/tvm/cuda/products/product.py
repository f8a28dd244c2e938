"""What every matrix product has: sizes, where its operands and its result lie, and what is done with each element of the result."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lepton_compiler.backends.tvm.cuda.tensor_cores import Arithmetic, Convolution, Gemm

Expr = Any
"""A `tvm.tirx` expression; TVM carries no types."""
Problem = Callable[[Callable[[Any], str], Arithmetic], Gemm | Convolution]
"""What `backends.tvm.cuda.tensor_cores` is asked; the first argument gives the name of the parameter that is this buffer."""

Zeros = Callable[[Expr, Expr, Expr], tuple[Expr | None, Expr | None]]
"""Zero points of the left and the right operand for a batch, a row and a column; None where they are zero."""


@dataclass(frozen=True)
class Element:
    """An element of an operand, or what stands for it outside of the operand: zero.

    Attributes:
        value: the expression, in the type that products are summed in.
        conditions: under which it is there.
        source: buffer and index, where the value is what is stored there.
    """

    value: Expr
    conditions: tuple[Expr, ...] = ()
    source: tuple[Any, tuple[Expr, ...]] | None = None


@dataclass(frozen=True)
class Side:
    """One operand.

    Attributes:
        at: its element for a batch, a row (of the left one) or a column (of the right one), and a step of the sum.
        along: whether neighbours in memory are steps of the sum, or rows or columns.
        chunk: how many of these neighbours lie side by side wherever that many begin at a multiple of it: 4 allows wide loads.
    """

    at: Callable[[Expr, Expr, Expr], Element]
    along: Literal["depth", "extent"]
    chunk: int


@dataclass(frozen=True)
class Sums:
    """Matrices of sums, and what becomes of each: what the end of a kernel is written from.

    Attributes:
        batch, rows, columns: sizes.
        kind: the type of a sum.
        place: index of the result's element.
        ending: the element that is stored, from a variable for the sum and that index.
    """

    batch: int
    rows: int
    columns: int
    kind: str
    place: Callable[[Expr, Expr, Expr], tuple[Expr, ...]]
    ending: Callable[[Expr, Sequence[Expr]], Expr]


@dataclass(frozen=True)
class Product:
    """`result[b, m, n] = ending(sum over k of left[b, m, k] * right[b, n, k])`.

    Attributes:
        batch, rows, columns, depth: sizes.
        left, right: the operands.
        kind: the type of the sum.
        place: index of the result's element.
        ending: the element that is stored, from a variable for the sum and that index.
        problem: the same for the generator of tensor cores, from the names of the operands' parameters and what is to be multiplied; None where
            operands are computed as they are read.
        zeros: what the generated kernel takes off.
        fill: what such a kernel puts outside of an image, if not zero.
        takes_few: whether it is as good as any for a few rows or columns: its operands lie along the sum, or are converted as they are read.
    """

    batch: int
    rows: int
    columns: int
    depth: int
    left: Side
    right: Side
    kind: str
    place: Callable[[Expr, Expr, Expr], tuple[Expr, ...]]
    ending: Callable[[Expr, Sequence[Expr]], Expr]
    problem: Problem | None = None
    zeros: Zeros | None = None
    fill: Expr | None = None
    takes_few: bool = False

    @property
    def multiplications(self) -> int:
        """Products of two numbers."""
        return math.prod((self.batch, self.rows, self.columns, self.depth))

    @property
    def sums(self) -> Sums:
        """What the end of its kernel is written from."""
        return Sums(self.batch, self.rows, self.columns, self.kind, self.place, self.ending)
