"""A graph in the making, with the values that its inputs and intermediate results have."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lepton_compiler.ir.graph import Graph, Loc, Value
from lepton_compiler.ir.op import Op
from lepton_compiler.ir.types import DTYPES, DType, TensorType
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.evaluator import evaluate_node
from lepton_compiler.testing.generate.values import draw_array

LARGEST = 1200
"""Most elements of a value that later steps read."""
WILD = 1e4
"""Floats whose typical magnitude is beyond this are not read any more: what follows would only overflow."""

FLOATS = tuple(DTYPES[n] for n in ("float32", "float16", "float64"))
SIGNED = tuple(DTYPES[n] for n in ("int8", "int16", "int32", "int64"))
UNSIGNED = tuple(DTYPES[n] for n in ("uint8", "uint16", "uint32", "uint64"))
INTEGERS = SIGNED + UNSIGNED
FLOAT32, INT64, BOOL = DTYPES["float32"], DTYPES["int64"], DTYPES["bool"]

Step = Callable[["Maker"], None]
STEPS: dict[str, tuple[Step, float]] = {}
"""What a maker can add to a graph, by name, with weights; the modules of the families fill this."""


def step(weight: float) -> Callable[[Step], Step]:
    """Register a construction; `weight` says how often it is drawn relative to the others."""

    def register(function: Step) -> Step:
        STEPS[function.__name__] = (function, weight)
        return function

    return register


class Maker:
    """Adds random constructions to a graph, and knows what every value holds, so that graphs stay within what is defined.

    Args:
        rng: every decision comes from it.
        graph: where to; a region of another graph, too.
        wild: how likely an element of an input is special: NaN, an infinity, a denormal, an extreme integer.
        depth: how many graphs this one is nested in.

    Attributes:
        pool: the values that later steps may read, oldest first.
        arrays: what the inputs, and all results so far, hold. In a loop's body: in its first iteration.
    """

    def __init__(self, rng: random.Random, graph: Graph, wild: float = 0.0, depth: int = 0) -> None:
        self.rng, self.graph, self.wild, self.depth = rng, graph, wild, depth
        self.b = Builder(graph)
        self.pool: list[Value] = []
        self.arrays: dict[Value, np.ndarray] = {}
        self._evaluated = 0

    # -- drawing

    def number(self, low: int, high: int) -> int:
        """An integer within bounds, both included."""
        return self.rng.randint(low, high)

    def flag(self, chance: float = 0.5) -> bool:
        """True with this chance."""
        return self.rng.random() < chance

    def pick(self, items: Sequence[Any]) -> Any:
        """One of the items."""
        return items[self.rng.randrange(len(items))]

    def some(self, items: Sequence[Any], least: int = 0) -> list[Any]:
        """A subset in random order."""
        return self.rng.sample(list(items), self.number(min(least, len(items)), len(items)))

    def size(self) -> int:
        """A dimension: small as a rule, sometimes empty, sometimes longer than a vector register."""
        kind = self.number(0, 40)
        return 0 if kind == 0 else self.pick((7, 8, 9, 16, 17, 33)) if kind < 4 else self.number(1, 5)

    def shape(self, low: int = 0, high: int = 5) -> tuple[int, ...]:
        """A shape with a rank within bounds, smaller ranks more often, of at most `LARGEST` elements."""
        rank = min(self.number(low, high), self.number(low, high))
        while True:
            shape = tuple(self.size() for _ in range(rank))
            if np.prod(shape, dtype=np.int64) <= LARGEST:
                return shape

    def axis(self, rank: int) -> int:
        """An axis, counted from either end."""
        return self.number(-rank, rank - 1)

    def axes(self, rank: int, least: int = 0) -> tuple[int, ...]:
        """Distinct axes, counted from either end."""
        return tuple(a - rank if self.flag(0.3) else a for a in self.some(range(rank), least))

    def float_type(self) -> DType:
        """float32 as a rule."""
        return self.pick(FLOATS) if self.flag(0.3) else FLOAT32

    def any_type(self) -> DType:
        """Any element type, float32 more often."""
        return FLOAT32 if self.flag(0.4) else self.pick((*FLOATS, *INTEGERS, BOOL))

    # -- operands

    def find(self, fits: Callable[[Value], bool]) -> Value | None:
        """A value of the pool that fits, later ones more often."""
        found = [v for v in self.pool if fits(v)]
        return found[max(self.number(0, len(found) - 1), self.number(0, len(found) - 1))] if found else None

    def value(self, kinds: Sequence[str] = ("float",), low: int = 0, high: int = 5) -> Value:
        """A value of one of the kinds, and a rank within bounds; a new input where the pool has none."""
        found = self.find(lambda v: v.type.dtype.kind in kinds and low <= v.type.rank <= high)
        if found is not None and self.flag(0.85):
            return found
        every = (self.float_type(), *SIGNED, *UNSIGNED, BOOL)
        return self.fresh(TensorType(self.pick([t for t in every if t.kind in kinds]), self.shape(low, high)))

    def like(self, type: TensorType) -> Value:
        """A value of exactly this type: from the pool, else new."""
        found = self.find(lambda v: v.type == type)
        return found if found is not None and self.flag(0.7) else self.fresh(type)

    def fresh(self, type: TensorType) -> Value:
        """A new input, or a new constant; always a constant inside nested graphs."""
        array = draw_array(self.rng, type, self.wild)
        return self.weight(array) if self.depth or self.flag(0.25) else self.input(array)

    def input(self, array: np.ndarray) -> Value:
        """A new graph input that holds `array`."""
        value = self.graph.add_input(f"x{len(self.graph.inputs)}", TensorType(_dtype(array), array.shape))
        self.arrays[value] = array
        self.pool.append(value)
        return value

    def formal(self, name: str, type: TensorType, array: np.ndarray) -> Value:
        """An input of a nested graph, with what it holds at first."""
        value = self.graph.add_input(name, type)
        self.arrays[value] = array
        self.pool.append(value)
        return value

    def weight(self, array: np.ndarray) -> Value:
        """A constant."""
        value = self.b.constant(array)
        self.arrays[value] = array
        return value

    def tame(self, type: TensorType) -> Value:
        """A constant of ordinary numbers."""
        return self.weight(draw_array(self.rng, type))

    def broadcastable(self, x: Value) -> Value:
        """Another operand that broadcasts with `x`: a value, a number, an array of some of its axes, or one that makes the result larger."""
        kind = self.number(0, 5)
        element, shape = x.type.dtype, x.type.static_shape
        if kind <= 1 and (found := self.find(lambda v: v.type.dtype == element and _fit(v.type.static_shape, shape))):
            return found
        if kind == 2:
            return self.fresh(TensorType(element, ()))
        part = [1 if self.flag(0.3) else d for d in shape[self.number(0, len(shape)) :]]
        if kind == 3 and x.type.size <= LARGEST // 8:
            part = [self.number(1, 4) if d == 1 else n for d, n in zip(shape[len(shape) - len(part) :], part, strict=True)]
            part = [self.number(1, 2), *part] if len(part) == len(shape) < 5 else part
        return self.fresh(TensorType(element, tuple(part)))

    # -- adding

    def add(self, op: Op, *inputs: Any) -> Value:
        """Add a node; gives its first output. Results join the pool when the step is done."""
        return self.b.node(op, inputs).output

    def known(self, value: Value) -> np.ndarray:
        """What a value holds."""
        self._catch_up()
        return value.numpy() if value.is_constant else self.arrays[value]

    def step(self, name: str | None = None) -> None:
        """Add a random construction, or the one of that name."""
        self.b.loc = Loc((f"step{len(self.graph)}",))
        names = list(STEPS)
        function, _ = STEPS[name or self.rng.choices(names, [STEPS[n][1] for n in names])[0]]
        first = len(self.b.created)
        function(self)
        self._catch_up()
        for node in self.b.created[first:]:
            self.pool += [v for v in node.outputs if self._readable(v)]

    def _catch_up(self) -> None:
        """Evaluate the nodes that were added since the last time."""
        with np.errstate(all="ignore"):
            for node in self.b.created[self._evaluated :]:
                inputs = [None if v is None else v.numpy() if v.is_constant else self.arrays[v] for v in node.inputs]
                self.arrays.update(zip(node.outputs, evaluate_node(node, inputs), strict=True))
        self._evaluated = len(self.b.created)

    def _readable(self, value: Value) -> bool:
        array = self.arrays[value]
        if not value.type.is_static or array.size > LARGEST or value.type.rank > 5 or value.type.dtype.kind == "complex":
            return False
        if value.type.dtype.is_float and array.size:
            finite = array[np.isfinite(array)].astype(np.float64)
            return finite.size * 2 >= array.size and float(np.median(np.abs(finite))) < WILD
        return True

    def ends(self, most: int = 4) -> list[Value]:
        """What the graph may return: values that nobody reads, and now and then one in between."""
        every = [v for node in self.graph for v in node.outputs]
        unread = [v for v in every if not v.uses]
        extra = [self.pick(every)] if every and self.flag(0.3) else []
        return list(dict.fromkeys([*unread[-most:], *extra]))


def _dtype(array: np.ndarray) -> DType:
    return DTYPES[array.dtype.name]


def _fit(a: Sequence[int], b: Sequence[int]) -> bool:
    """Whether two shapes broadcast, without making a large result."""
    try:
        return int(np.prod(np.broadcast_shapes(tuple(a), tuple(b)), dtype=np.int64)) <= LARGEST
    except ValueError:
        return False
