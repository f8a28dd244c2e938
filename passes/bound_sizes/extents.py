"""Dimensions that data decides: how large they can get, and the values that say how large they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from lepton_compiler.errors import UnsupportedError
from lepton_compiler.ir.dim import Dim, SymDim, symbols
from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ir.types import TensorType
from lepton_compiler.ops.builder import Builder

if TYPE_CHECKING:
    from lepton_compiler.passes.bound_sizes.limits import Limits


@dataclass(eq=False)
class Extents:
    """What is known of the data-dependent dimensions of one graph.

    Attributes:
        graph: the graph.
        limits: what the user said of sizes.
        bounds: the largest size of each named dimension.
        counts: its actual size, an int64 scalar of the graph.
        padded: for each value with such dimensions, the value of static shape that replaces it: each such dimension has the size
            of its bound, and what lies behind the actual size means nothing.
        tails: for those padded values of which it is known, what every element behind the actual size is: a scalar of the same type.
    """

    graph: Graph
    limits: Limits
    bounds: dict[str, int] = field(default_factory=dict)
    counts: dict[str, Value] = field(default_factory=dict)
    padded: dict[Value, Value] = field(default_factory=dict)
    tails: dict[Value, Value] = field(default_factory=dict)
    _sizes: dict[Dim, Value] = field(default_factory=dict)
    _masks: dict[tuple[Dim, int, int], Value] = field(default_factory=dict)

    def define(self, dim: Dim, bound: int, count: Value) -> None:
        """Say what a dimension is; one that is known otherwise already stays as it is."""
        if isinstance(dim, SymDim):
            (name,) = symbols(dim)
            self.bounds.setdefault(name, bound)
            self.counts.setdefault(name, count)

    def forget(self, name: str) -> None:
        """Drop what was computed from the size of a dimension, which has changed."""
        self._sizes = {d: v for d, v in self._sizes.items() if name not in symbols(d)}
        self._masks = {k: v for k, v in self._masks.items() if name not in symbols(k[0])}

    def known(self, dim: Dim) -> bool:
        """Whether the dimension is a number or made of dimensions that are defined."""
        return symbols(dim) <= self.bounds.keys()

    def value(self, value: Value) -> Value:
        """`value`, or what replaces it."""
        return self.padded.get(value, value)

    def upper(self, dim: Dim) -> int:
        """The largest size that a dimension can have."""
        return self.interval(dim)[1]

    def interval(self, dim: Dim) -> tuple[int, int]:
        """The smallest and the largest value that an expression of sizes can have.

        Raises:
            UnsupportedError: it depends on something that is not known.
        """
        self._require_known(dim)
        return _interval(dim, self.bounds)

    def _require_known(self, dim: Dim) -> None:
        if not self.known(dim):
            raise UnsupportedError(f"nothing says how large {dim!r} can get")

    def type(self, type: TensorType) -> TensorType:
        """The type of the buffer for a value of that type."""
        return TensorType(type.dtype, tuple(self.upper(d) for d in type.shape))

    def sizes(self) -> dict[str, Dim]:
        """The bounds, to put into attributes."""
        return dict(self.bounds)

    def count(self, b: Builder, dim: Dim) -> Value:
        """The actual size of a dimension as an int64 scalar.

        Raises:
            UnsupportedError: it depends on something that is not known.
        """
        self._require_known(dim)
        if isinstance(dim, int):
            return number(b, dim)
        if dim not in self._sizes:
            self._sizes[dim] = self._computed(b, dim)
        return self._sizes[dim]

    def _computed(self, b: Builder, dim: SymDim) -> Value:
        total: Value | None = None
        for monomial, factor in dim.terms:
            product: Value | None = None
            for atom in monomial:
                term = self.counts[atom] if isinstance(atom, str) else self._atom(b, *atom)
                product = term if product is None else b.Mul(product, term)
            scaled = number(b, factor) if product is None else product if factor == 1 else b.Mul(product, number(b, factor))
            total = scaled if total is None else b.Add(total, scaled)
        assert total is not None
        return total

    def _atom(self, b: Builder, name: str, left: Dim, right: Dim) -> Value:
        x, y = self.count(b, left), self.count(b, right)
        if name != "//":
            return b.Max(x, y) if name == "max" else b.Min(x, y)
        return b.Div(b.Sub(x, b.Mod(x, y)), y)  # floor, for negative numbers too

    def valid(self, b: Builder, type: TensorType, axes: Sequence[int]) -> Value:
        """A mask that broadcasts to a padded value of `type`: true where the index along each of `axes` is below the actual size."""
        mask: Value | None = None
        for axis in axes:
            key = (type.shape[axis], type.rank, axis)
            if key not in self._masks:
                self._masks[key] = b.Less(positions(b, self.upper(key[0]), type.rank, axis), self.count(b, key[0]))
            mask = self._masks[key] if mask is None else b.And(mask, self._masks[key])
        assert mask is not None
        return mask

    def clean(self, b: Builder, x: Value, axes: Sequence[int], fill: Value) -> Value:
        """The padded `x` with the scalar `fill` behind the actual size along those of `axes` whose size data decides."""
        data, loose = self.value(x), [a for a in axes if not isinstance(x.type.shape[a], int)]
        if not loose or _same(self.tails.get(data), fill):
            return data
        return b.Where(self.valid(b, x.type, loose), data, fill)

    def dynamic_axes(self, type: TensorType) -> tuple[int, ...]:
        """The axes whose size data decides."""
        return tuple(k for k, d in enumerate(type.shape) if not isinstance(d, int))


def _same(one: Value | None, other: Value) -> bool:
    """Whether two scalars are known to be equal."""
    if one is None or one.tensor is None or other.tensor is None:
        return one is other
    return one.type == other.type and one.tensor.digest == other.tensor.digest


def number(b: Builder, value: int) -> Value:
    """An int64 scalar."""
    return b.constant(np.array(value, np.int64))


def positions(b: Builder, size: int, rank: int, axis: int) -> Value:
    """0, 1, ... along one axis of `rank`: int64, ones elsewhere."""
    shape = [1] * rank
    shape[axis] = size
    return b.constant(np.arange(size, dtype=np.int64).reshape(shape))


def reads_unbounded(node: Node, extents: Extents) -> bool:
    """Whether a node reads a value of data-dependent size, or has one in its attributes."""
    return any(not v.type.is_static for v in node.present_inputs) or node.op.bind(extents.sizes()) is not node.op


def _interval(dim: Dim, bounds: Mapping[str, int]) -> tuple[int, int]:
    """Smallest and largest value of an expression whose names lie between 0 and their bounds."""
    if isinstance(dim, int):
        return dim, dim
    low = high = 0
    for monomial, factor in dim.terms:
        product = (1, 1)
        for atom in monomial:
            product = _product(product, (0, bounds[atom]) if isinstance(atom, str) else _atom_interval(atom, bounds))
        low, high = low + min(factor * p for p in product), high + max(factor * p for p in product)
    return low, high


def _atom_interval(atom: tuple[str, Dim, Dim], bounds: Mapping[str, int]) -> tuple[int, int]:
    name, (a, b), (c, d) = atom[0], _interval(atom[1], bounds), _interval(atom[2], bounds)
    if name == "max":
        return max(a, c), max(b, d)
    if name == "min":
        return min(a, c), min(b, d)
    divisors = [n for n in (c, d, 1) if n > 0]
    ends = [x // n for x in (a, b) for n in divisors]
    return min(ends), max(ends)


def _product(x: tuple[int, int], y: tuple[int, int]) -> tuple[int, int]:
    ends = [a * b for a in x for b in y]
    return min(ends), max(ends)
