"""Random graphs for hypothesis: small, static, numerically tame, and full of what the passes look for.

    @given(graphs())
    def test_my_pass(graph): ...

Values stay within `BOUND`, and what would magnify rounding (comparisons, conversions to integers and half floats) reads only values that
are exact, so that a different order of arithmetic shows as a small difference and a wrong pass as a large one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from lepton_compiler.ir.graph import Graph, Loc, Value
from lepton_compiler.ir.types import BOOL, FLOAT16, FLOAT32, FLOAT64, INT32, INT64, TensorType
from lepton_compiler.ops.builder import Builder, make_op

BOUND = 200.0
"""Largest magnitude that a value may have."""

LARGEST = 600
"""Most elements of a value."""

INPUT_BOUND = 6.0
NUMBERS = (0.0, 1.0, 2.0, 0.5, -1.0, 3.0, 6.0)

UNARY = {
    "Relu": None, "Neg": None, "Abs": None, "LeakyRelu": None, "HardSwish": None, "Gelu": None, "Swish": None, "Mish": None, "Elu": None,
    "Softplus": None, "Sigmoid": 1.0, "Tanh": 1.0, "Sin": 1.0, "Cos": 1.0, "Erf": 1.0, "HardSigmoid": 1.0, "Softsign": 1.0,
}  # fmt: skip
"""Functions of one operand and a bound of their results; None: that of the operand, and a little more."""

EXACT = frozenset({"Relu", "Neg", "Abs"})

Made = tuple[Value, float]


class _Maker:
    """A graph in the making: each method adds nodes, or nothing where the values so far do not lend themselves to it.

    Attributes:
        bounds: float values so far, with their largest magnitudes.
        exact: those that every correct compiler computes bit for bit.
        conditions: boolean values so far.
    """

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw, self.graph = draw, Graph()
        self.b = Builder(self.graph)
        self.bounds: dict[Value, float] = {}
        self.exact: set[Value] = set()
        self.conditions: list[Value] = []
        for i in range(self.number(1, 3)):
            shape = self.image() if i == 0 and self.flag() else tuple(self.number(1, 4) for _ in range(self.number(0, 3)))
            self.bounds[value := self.graph.add_input(f"x{i}", TensorType(FLOAT32, shape))] = INPUT_BOUND
            self.exact.add(value)

    # -- drawing

    def number(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def flag(self) -> bool:
        return self.draw(st.booleans())

    def pick(self, items: Sequence[Any]) -> Any:
        return self.draw(st.sampled_from(items))

    def image(self) -> tuple[int, ...]:
        return (self.number(1, 2), self.pick((1, 2, 3, 4)), self.number(3, 6), self.number(3, 6))

    def value(self, minimum: int = 0, maximum: int = 5, exact: bool = False) -> Value | None:
        """One of the values of a rank within bounds, later ones first."""
        found = [v for v in reversed(self.bounds) if minimum <= v.type.rank <= maximum and (not exact or v in self.exact)]
        return self.pick(found) if found else None

    def weights(self, shape: Sequence[int], low: float = -1.0) -> np.ndarray:
        """Multiples of an eighth, so that exact operators stay exact."""
        rng = np.random.default_rng(self.number(0, 9))
        return np.asarray(rng.integers(int(low * 8), 9, tuple(shape)) / 8, np.float32)

    def axis(self, rank: int) -> int:
        """An axis, counted from either end."""
        return self.number(-rank, rank - 1)

    # -- keeping

    def keep(self, value: Value, bound: float, exact: bool = False) -> None:
        """Let later nodes use a value, unless it is too large."""
        if bound <= BOUND and value.type.size <= LARGEST:
            self.bounds[value] = bound
            if exact:
                self.exact.add(value)

    def step(self) -> None:
        """Add something."""
        self.b.loc = Loc((f"step{len(self.graph)}",))
        STEPS[self.pick(list(STEPS))](self)

    def finish(self) -> Graph:
        """Return what nobody reads, and one value in between."""
        every = [v for v in (*self.bounds, *self.conditions) if not v.is_input]
        ends = [v for v in every if not v.uses] or [self.b.Relu(self.graph.inputs[0])]
        extra = [self.pick(every)] if every and self.flag() else []
        self.graph.set_outputs(dict.fromkeys([*ends[:4], *extra]))
        return self.graph

    # -- arithmetic

    def unary(self) -> None:
        x = self.value()
        assert x is not None
        name = self.pick(list(UNARY))
        self.keep(self.b(make_op(name, {}), x), UNARY[name] or self.bounds[x] + 1, name in EXACT and x in self.exact)

    def other_operand(self, x: Value) -> Made:
        """A second operand: another value, a number, a constant that broadcasts."""
        kind = self.number(0, 3)
        fitting = [v for v in self.bounds if _broadcasts(v, x)]
        if kind == 0 and fitting:
            value = self.pick(fitting)
            return value, self.bounds[value]
        if kind == 1:
            number = self.pick(NUMBERS)
            return self.b.constant(number, x), abs(number)
        shape = x.type.static_shape[self.number(0, x.type.rank) :]
        return self.b.constant(self.weights([d if self.flag() else 1 for d in shape])), 1.0

    def binary(self) -> None:
        x = self.value()
        assert x is not None
        y, limit = self.other_operand(x)
        name = self.pick(("Add", "Sub", "Mul", "Mul", "Max", "Min"))
        a = self.bounds[x]
        bound = a * limit if name == "Mul" else a + limit if name in ("Add", "Sub") else max(a, limit)
        if bound > BOUND:
            return
        pair = (y, x) if self.flag() else (x, y)
        exact = name in ("Max", "Min") and x in self.exact and (y.is_constant or y in self.exact)
        self.keep(self.b(make_op(name, {}), *pair), bound, exact)

    def divide(self) -> None:
        x = self.value()
        assert x is not None
        a = self.bounds[x]
        match self.number(0, 4):
            case 0:
                self.keep(self.b.Div(x, self.pick((1.0, 2.0, 4.0, 3.0))), a)
            case 1:
                self.keep(self.b.Div(x, self.b.Add(self.b.Abs(x), 1.0)), 1.0)
            case 2:
                self.keep(self.b.Sqrt(self.b.Add(self.b.Abs(x), 1.0)), math.sqrt(a + 1))
            case 3 if a * a <= BOUND:
                self.keep(self.b.Pow(x, self.pick((1.0, 2.0))), a * a + 1)
            case _:
                self.keep(self.b.Exp(self.b.Clip(x, -3.0, 3.0)), 21.0)

    def idiom(self) -> None:
        """Composite operators as exporters spell them out."""
        x, b = self.value(1), self.b
        if x is None:
            return
        a, axis = self.bounds[x], x.type.rank - 1
        match self.number(0, 5):
            case 0:
                self.keep(b.Mul(x, b.Sigmoid(x)), a)
            case 1:
                self.keep(b.Div(b.Mul(x, b.Clip(b.Add(x, 3.0), 0.0, 6.0)), 6.0), a)
            case 2:
                self.keep(b.Mul(b.Mul(x, 0.5), b.Add(b.Erf(b.Div(x, math.sqrt(2))), 1.0)), a)
            case 3:
                e = b.Exp(b.Sub(x, b.ReduceMax(x, axes=(axis,))))
                self.keep(b.Div(e, b.ReduceSum(e, axes=(axis,))), 1.0)
            case 4:
                d = b.Sub(x, b.ReduceMean(x, axes=(axis,)))
                variance = b.ReduceMean(b.Mul(d, d), axes=(axis,))
                normal = b.Div(d, b.Sqrt(b.Add(variance, 0.01)))
                scale, shift = self.weights(x.type.static_shape[-1:]), self.weights(x.type.static_shape[-1:])
                self.keep(b.Add(b.Mul(normal, scale), shift), 4.0)
            case _:
                self.keep(b.Tanh(b.Log(b.Add(b.Exp(b.Min(x, 5.0)), 1.0))), 1.0)

    # -- products and windows

    def matmul(self) -> None:
        x = self.value(2, 4)
        if x is None:
            return
        k, a = x.type.static_shape[-1], self.bounds[x]
        if self.flag():
            self.keep(self.b.MatMul(x, self.weights((k, self.number(1, 5)))), a * k)
        elif x.type.rank == 2 and self.flag():
            n = self.number(1, 4)
            self.keep(self.b.Gemm(x, self.weights((n, k)), self.weights((n,)), trans_b=True), a * k + 1)
        elif a * a * k <= BOUND:
            turned = self.b.Transpose(x, perm=(*range(x.type.rank - 2), x.type.rank - 1, x.type.rank - 2))
            self.keep(self.b.MatMul(x, turned), a * a * k)

    def conv(self) -> None:
        x = self.value(4, 4)
        if x is None or min(x.type.static_shape[2:]) < 2:
            return
        c, kernel, pad = x.type.static_shape[1], self.pick((1, 2, 3)), self.number(0, 1)
        kernel = min(kernel, *x.type.static_shape[2:])
        groups = c if self.flag() else 1
        filters = c * self.number(1, 2) if groups > 1 else self.number(1, 4)
        w, stride = self.weights((filters, c // groups, kernel, kernel)), self.number(1, 2)
        bias = self.weights((filters,)) if self.flag() else None
        pads = (pad, pad, pad, 0) if self.flag() else (pad,) * 4
        bound = self.bounds[x] * c // groups * kernel * kernel + 1
        if bound > BOUND * 4:
            return
        y = self.b.Conv(x, w, bias, strides=(stride, stride), pads=pads, groups=groups)
        if self.flag():
            mean, scale, shift = (self.weights((filters,)) for _ in range(3))
            y = self.b.BatchNormalization(y, scale, shift, mean, self.weights((filters,), low=0.5), epsilon=0.01)
            bound = 2 * (bound + 1) + 1
        self.keep(self.b.Mul(y, 0.125), bound / 8)

    def pool(self) -> None:
        x = self.value(4, 4)
        if x is None or min(x.type.static_shape[2:]) < 2:
            return
        stride, pad = self.number(1, 2), self.number(0, 1)
        window: dict[str, Any] = {"kernel_shape": (2, 2), "strides": (stride,) * 2, "pads": (pad,) * 4, "dilations": (1, 1)}
        if self.flag():
            self.keep(self.b.MaxPool(x, ceil_mode=self.flag(), **window), self.bounds[x], x in self.exact)
        else:
            self.keep(self.b.AveragePool(x, count_include_pad=self.flag(), **window), self.bounds[x])

    def reduce(self) -> None:
        x = self.value(1)
        if x is None:
            return
        axes = tuple(self.draw(st.lists(st.integers(0, x.type.rank - 1), min_size=1, unique=True)))
        axes = tuple(a - x.type.rank for a in axes) if self.flag() else axes
        name = self.pick(("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin"))
        y = self.b(make_op(name, {"axes": axes, "keepdims": self.flag()}), x)
        count = x.type.size // max(1, y.type.size)
        self.keep(y, self.bounds[x] * (count if name == "ReduceSum" else 1), name in ("ReduceMax", "ReduceMin") and x in self.exact)

    def normalize(self) -> None:
        x = self.value(1)
        if x is None:
            return
        axis = self.axis(x.type.rank)
        if self.flag():
            self.keep(self.b.Softmax(x, axis=axis), 1.0)
        else:
            shape = x.type.static_shape[axis % x.type.rank :]
            self.keep(self.b.LayerNormalization(x, self.weights(shape), self.weights(shape), axis=axis, epsilon=0.01), 25.0)

    # -- movement

    def move(self, x: Value, y: Value) -> None:
        self.keep(y, self.bounds[x], x in self.exact)

    def reshape(self) -> None:
        x = self.value(0, 4)
        assert x is not None
        shape, at = list(x.type.static_shape), self.number(0, x.type.rank)
        match self.number(0, 3):
            case 0:
                self.move(x, self.b.Reshape(x, shape=(-1,)))
            case 1:
                self.move(x, self.b.Unsqueeze(x, axes=(at,)))
            case 2 if 1 in shape:
                self.move(x, self.b.Squeeze(x, axes=(shape.index(1),)))
            case _ if at and shape[at - 1] % 2 == 0:
                self.move(x, self.b.Reshape(x, shape=(*shape[: at - 1], 2, shape[at - 1] // 2, *shape[at:])))
            case _ if len(shape) >= 2:
                self.move(x, self.b.Reshape(x, shape=(shape[0] * shape[1], *shape[2:])))

    def transpose(self) -> None:
        x = self.value(1)
        if x is not None:
            self.move(x, self.b.Transpose(x, perm=tuple(self.draw(st.permutations(range(x.type.rank))))))

    def concat(self) -> None:
        x = self.value(1)
        if x is None:
            return
        axis, parts = self.axis(x.type.rank), [x]
        shape = x.type.static_shape
        parts += [v for v in self.bounds if v.type == x.type and self.flag()][:2]
        if self.flag():
            parts.append(self.b.constant(self.weights([1 if i == axis % len(shape) else d for i, d in enumerate(shape)])))
        bound = max(1.0, *(self.bounds.get(v, 1.0) for v in parts))
        self.keep(self.b.Concat(*parts, axis=axis), bound, all(v.is_constant or v in self.exact for v in parts))

    def slice(self) -> None:
        x = self.value(1)
        if x is None:
            return
        axis, size = self.axis(x.type.rank), 0
        size = x.type.static_shape[axis]
        if self.flag() and size > 1:
            at = self.number(1, size - 1)
            for part in self.b.node(make_op("Split", {"axis": axis, "sizes": (at, size - at)}), [x]).outputs:
                self.move(x, part)
        elif self.number(0, 3):
            start = self.number(0, size - 1)
            end = self.pick((self.number(start + 1, size), 1 << 40))
            self.move(x, self.b.Slice(x, starts=(start,), ends=(end,), axes=(axis,), steps=(self.number(1, 2),)))
        else:
            self.move(x, self.b.Slice(x, starts=(-1,), ends=(-(1 << 40),), axes=(axis,), steps=(-1,)))

    def pad(self) -> None:
        x = self.value(1, 4)
        if x is None:
            return
        mode = self.pick(("constant", "constant", "edge", "reflect", "wrap"))
        most = 1 if mode == "constant" else min(1, *(d - 1 for d in x.type.static_shape))
        pads = tuple(self.number(0, most) for _ in range(2 * x.type.rank))
        if x.type.rank == 4 and self.flag():
            pads = (0, 0, *pads[2:4], 0, 0, *pads[6:])
        fill = self.pick((None, 0.0, 1.5)) if mode == "constant" else None
        self.keep(self.b.Pad(x, fill, pads=pads, mode=mode), max(self.bounds[x], 1.5), x in self.exact)

    def spread(self) -> None:
        x = self.value(1, 4)
        if x is None:
            return
        shape = x.type.static_shape
        if self.flag():
            wanted = tuple(self.number(1, 3) if d == 1 else d for d in shape)
            self.move(x, self.b.Expand(x, shape=(self.number(1, 2), *wanted) if self.flag() else wanted))
        else:
            self.move(x, self.b.Tile(x, repeats=tuple(self.number(1, 2) for _ in shape)))

    def gather(self) -> None:
        x = self.value(1, 3)
        if x is None:
            return
        axis = self.axis(x.type.rank)
        size = x.type.static_shape[axis]
        shape = tuple(self.number(1, 3) for _ in range(self.number(0, 2)))
        indices = np.random.default_rng(self.number(0, 9)).integers(-size, size, shape)
        self.move(x, self.b.Gather(x, np.asarray(indices, np.int64), axis=axis))

    # -- conditions and conversions

    def condition(self) -> None:
        x = self.value(exact=True)
        if x is None or self.number(0, 3) == 0:
            shape = x.type.static_shape if x is not None else (2,)
            self.conditions.append(self.graph.add_input(f"c{len(self.graph.inputs)}", TensorType(BOOL, shape)))
            return
        name = self.pick(("Greater", "LessOrEqual", "Equal"))
        found = self.b(make_op(name, {}), x, self.b.constant(self.pick(NUMBERS), x))
        self.conditions.append(self.b.Not(found) if self.flag() else found)

    def where(self) -> None:
        x = self.value()
        assert x is not None
        fitting = [c for c in self.conditions if _broadcasts(c, x)]
        if not fitting:
            self.condition()
            return
        y, limit = self.other_operand(x)
        exact = x in self.exact and (y.is_constant or y in self.exact)
        self.keep(self.b.Where(self.pick(fitting), *((x, y) if self.flag() else (y, x))), max(self.bounds[x], limit), exact)

    def cast(self) -> None:
        if self.conditions and self.flag():
            self.keep(self.b.Cast(self.pick(self.conditions), to=FLOAT32), 1.0, True)
            return
        x = self.value(exact=True)
        if x is None:
            return
        middle = self.pick((INT32, INT64, FLOAT16, FLOAT64))
        self.move(x, self.b.Cast(self.b.Cast(x, to=middle), to=FLOAT32))


STEPS: dict[str, Callable[[_Maker], None]] = {
    name: getattr(_Maker, name)
    for name in "unary binary divide idiom matmul conv pool reduce normalize reshape transpose concat slice pad spread gather where cast".split()
}


@st.composite
def graphs(draw: st.DrawFn, steps: int = 10) -> Graph:
    """Graphs of three to `steps` random constructions on one to three inputs, with one to five outputs."""
    maker = _Maker(draw)
    for _ in range(maker.number(min(3, steps), steps)):
        maker.step()
    return maker.finish()


def _broadcasts(value: Value, other: Value) -> bool:
    """Whether `value` broadcasts to the shape of `other`."""
    a, b = value.type.static_shape, other.type.static_shape
    return len(a) <= len(b) and all(m in (1, n) for m, n in zip(a[::-1], b[::-1], strict=False))
