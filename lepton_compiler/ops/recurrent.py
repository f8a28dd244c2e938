"""Recurrent layers over a sequence: RNN, GRU and LSTM as ONNX defines them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lepton_compiler.ir.dim import Dim
from lepton_compiler.ir.op import Cost, Op, Types, require, traffic
from lepton_compiler.ir.types import FLOAT32, TensorType
from lepton_compiler.ops.matmul import exact_matmul
from lepton_compiler.ops.precision import widen
from lepton_compiler.ops.quantize import DynamicQuantizeLinear

Activation = Callable[[np.ndarray], np.ndarray]
Product = Callable[[np.ndarray, Any], np.ndarray]
"""Data times transposed weights of one direction."""

ACTIVATION_PARAMETERS: dict[str, tuple[float | None, float | None]] = {
    "Affine": (1.0, 0.0),
    "Elu": (1.0, None),
    "HardSigmoid": (0.2, 0.5),
    "LeakyRelu": (0.01, None),
    "Relu": (None, None),
    "ScaledTanh": (1.0, 1.0),
    "Sigmoid": (None, None),
    "Softplus": (None, None),
    "Softsign": (None, None),
    "Tanh": (None, None),
    "ThresholdedRelu": (1.0, None),
}
"""The activations that recurrent layers know, with the defaults of their alpha and beta; None where they have none."""


@dataclass(frozen=True)
class Recurrent(Op):
    """Base of the recurrent layers.

    Operands: `x` [time, batch, input]; `w` [directions, gates * hidden, input]; `r` [directions, gates * hidden, hidden];
    `b` [directions, 2 * gates * hidden], the bias of `w` then that of `r`; `sequence_lens` [batch]; initial states
    [directions, batch, hidden]. Results: `y` [time, directions, batch, hidden], then the last states. With layout 1 the
    batch comes first: x [batch, time, input], states [batch, directions, hidden], y [batch, time, directions, hidden].
    Steps past the end of a sequence give zeros and leave its state alone; the backward direction starts at its end.

    Attributes:
        hidden_size: number of units.
        direction: "forward", "reverse" or "bidirectional".
        activations: names, as many per direction as the layer has; given once, they serve both directions.
        activation_alpha: first parameters of those activations that have one, in order; missing ones take the default.
        activation_beta: likewise the second parameters.
        clip: bound on the inputs of the gates' activations; as in ONNX Runtime, not on the cell state that LSTM's third one reads.
        layout: 0 or 1, see above.
    """

    gates: ClassVar[int] = 1
    per_direction: ClassVar[int] = 1
    states: ClassVar[int] = 1

    hidden_size: int
    direction: str = "forward"
    activations: tuple[str, ...] = ("Tanh",)
    activation_alpha: tuple[float, ...] = ()
    activation_beta: tuple[float, ...] = ()
    clip: float | None = None
    layout: int = 0

    @property
    def directions(self) -> int:
        """How many directions the layer runs in."""
        return 2 if self.direction == "bidirectional" else 1

    def is_backward(self, index: int) -> bool:
        """Whether direction number `index` runs from the end."""
        return self.direction == "reverse" or index == 1

    def activation_rows(self) -> list[list[tuple[str, float | None, float | None]]]:
        """Per direction, the activations with their alpha and beta."""
        names = self.activations * (self.directions if len(self.activations) == self.per_direction else 1)
        alphas, betas = iter(self.activation_alpha), iter(self.activation_beta)
        rows = []
        for name in names:
            alpha, beta = ACTIVATION_PARAMETERS[name]
            rows.append((name, alpha if alpha is None else next(alphas, alpha), beta if beta is None else next(betas, beta)))
        return [rows[i * self.per_direction : (i + 1) * self.per_direction] for i in range(self.directions)]

    def infer_layer(
        self,
        x: TensorType,
        w: TensorType,
        r: TensorType,
        b: TensorType | None,
        sequence_lens: TensorType | None,
        initial: Sequence[TensorType | None],
    ) -> tuple[TensorType, ...]:
        """Types of `y` and the last states.

        Raises:
            InferenceError: the operands do not fit each other or the attributes.
        """
        self._check_attributes()
        n, hidden, rows = self.directions, self.hidden_size, self.gates * self.hidden_size
        require(x.rank == 3, f"{self.name}: x {x} must have rank 3")
        batch, time = (x.shape[0], x.shape[1]) if self.layout else (x.shape[1], x.shape[0])
        states = (batch, n, hidden) if self.layout else (n, batch, hidden)
        self.check_operand("w", w, x, (n, rows, x.shape[2]))
        self.check_operand("r", r, x, (n, rows, hidden))
        self.check_operand("b", b, x, (n, 2 * rows))
        for t in initial:
            self.check_operand("an initial state", t, x, states)
        if sequence_lens is not None:
            require(sequence_lens.dtype.is_integer, f"{self.name}: sequence_lens is {sequence_lens}, needs integers")
            self.check_operand("sequence_lens", sequence_lens, sequence_lens, (batch,))
        y = (batch, time, n, hidden) if self.layout else (time, n, batch, hidden)
        return (TensorType(x.dtype, y), *[TensorType(x.dtype, states)] * self.states)

    def _check_attributes(self) -> None:
        require(self.direction in ("forward", "reverse", "bidirectional"), f"{self.name}: unknown direction '{self.direction}'")
        require(self.layout in (0, 1), f"{self.name}: layout {self.layout} must be 0 or 1")
        require(self.hidden_size >= 1, f"{self.name}: hidden_size {self.hidden_size} must be positive")
        unknown = [a for a in self.activations if a not in ACTIVATION_PARAMETERS]
        require(not unknown, f"{self.name}: unknown activations {unknown}; known: {', '.join(ACTIVATION_PARAMETERS)}")
        counts = {self.per_direction, self.per_direction * self.directions}
        require(len(self.activations) in counts, f"{self.name}: needs {max(counts)} activations, has {len(self.activations)}")

    def check_operand(self, what: str, t: TensorType | None, x: TensorType, shape: tuple[Dim, ...]) -> None:
        """Raise InferenceError where an operand that is there has not this shape, or not the element type of `x`."""
        if t is not None:
            clash = t.rank != len(shape) or any(
                isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(t.shape, shape, strict=True)
            )
            require(t.dtype == x.dtype and not clash, f"{self.name}: {what} is {t}, needs {TensorType(x.dtype, shape)}")

    def _run(self, operands: Sequence[Any], initial: Sequence[Any], peepholes: Any = None) -> tuple[np.ndarray, ...]:
        """Run all directions; `operands` are x, w, r, b, sequence_lens."""
        x, w, r, *rest = operands
        return self._multiply([x, widen(w), widen(r), *rest], initial, peepholes, lambda data, weights: np.asarray(data @ weights.T))

    def _multiply(self, operands: Sequence[Any], initial: Sequence[Any], peepholes: Any, product: Product) -> tuple[np.ndarray, ...]:
        """Run all directions with a product of its own; w and r are indexed by the direction."""
        kind, rows = operands[0].dtype, self.gates * self.hidden_size
        x, w, r = widen(operands[0]), *operands[1:3]
        b = np.zeros((self.directions, 2 * rows), x.dtype) if operands[3] is None else widen(operands[3])
        x = np.swapaxes(x, 0, 1) if self.layout else x
        gates = (product(x, w[d]) + b[d, :rows] for d in range(self.directions))
        results = self.run_steps(gates, r, b[:, rows:], operands[4], initial, peepholes, product)
        return tuple(a.astype(kind, copy=False) for a in results)

    def run_steps(
        self,
        gates: Iterable[np.ndarray],
        r: Any,
        bias: np.ndarray,
        sequence_lens: Any,
        initial: Sequence[Any],
        peepholes: Any,
        product: Product,
    ) -> tuple[np.ndarray, ...]:
        """All steps of all directions, and their results as the layer has them.

        Args:
            gates: per direction what the input and its bias add to the gates, [time, batch, gates * hidden].
            r: weights of the hidden state, indexed by the direction.
            bias: of the hidden state, [directions, gates * hidden].
            sequence_lens, initial, peepholes: operands of the layer, or None.
            product: data times transposed weights.
        """
        ys, finals = [], []
        for d, (given, rows) in enumerate(zip(gates, self.activation_rows(), strict=True)):
            time, batch = given.shape[:2]
            lengths = np.full(batch, time) if sequence_lens is None else sequence_lens.astype(np.int64)
            states = [self._initial(s, d, batch, given.dtype) for s in initial]
            functions = [self._clipped(activation(*row)) if k < 2 else activation(*row) for k, row in enumerate(rows)]
            step = self._step(r[d], bias[d], functions, None if peepholes is None else widen(peepholes)[d], product)
            y, states = self._sweep(given, states, step, _order(lengths, time, self.is_backward(d)))
            ys.append(y)
            finals.append(states)
        y, *last = (np.stack(parts, axis) for parts, axis in [(ys, 1), *((s, 0) for s in zip(*finals, strict=True))])
        if self.layout:
            y, last = np.moveaxis(y, 2, 0), [np.swapaxes(s, 0, 1) for s in last]
        return tuple(np.ascontiguousarray(a) for a in (y, *last))

    def _sweep(self, gates: np.ndarray, states: list[np.ndarray], step: Callable[..., list[np.ndarray]], order: Iterator[Any]) -> Any:
        """All steps of one direction; `order` gives for each the time index of every batch row, and which rows take part."""
        y = np.zeros((*gates.shape[:2], self.hidden_size), gates.dtype)
        rows = np.arange(gates.shape[1])
        for times, active in order:
            new = step(gates[times, rows], *states)
            states = [np.where(active[:, None], n, s) for n, s in zip(new, states, strict=True)]
            y[times[active], rows[active]] = new[0][active]
        return y, states

    def _initial(self, state: Any, direction: int, batch: int, kind: np.dtype) -> np.ndarray:
        if state is None:
            return np.zeros((batch, self.hidden_size), kind)
        return np.asarray(widen(state[:, direction] if self.layout else state[direction]))

    def _clipped(self, function: Activation) -> Activation:
        bound = self.clip
        return function if bound is None else lambda a: function(np.clip(a, -bound, bound))

    def _step(
        self, r: Any, bias: np.ndarray, functions: Sequence[Activation], peepholes: Any, product: Product
    ) -> Callable[..., list[np.ndarray]]:
        """The function (gates of the input, *states) -> new states, the hidden state first."""
        raise NotImplementedError(f"{self.name}._step")

    def cost(self, inputs: Types, outputs: Types) -> Cost:  # noqa: D102
        x, w, r = inputs[:3]
        assert x is not None and w is not None and r is not None
        steps = x.static_shape[0] * x.static_shape[1]
        return Cost(steps * (w.size + r.size), steps * self.directions * self.hidden_size * 4 * self.gates, traffic(inputs, outputs))


@dataclass(frozen=True)
class RNN(Recurrent):
    """The simple recurrence `h = f(x W + h R + b)`."""

    def infer(  # noqa: D102
        self,
        x: TensorType,
        w: TensorType,
        r: TensorType,
        b: TensorType | None = None,
        sequence_lens: TensorType | None = None,
        initial_h: TensorType | None = None,
    ) -> tuple[TensorType, ...]:
        return self.infer_layer(x, w, r, b, sequence_lens, (initial_h,))

    def evaluate(  # noqa: D102
        self, x: Any, w: Any, r: Any, b: Any = None, sequence_lens: Any = None, initial_h: Any = None
    ) -> tuple[np.ndarray, ...]:
        return self._run((x, w, r, b, sequence_lens), (initial_h,))

    def _step(
        self, r: Any, bias: np.ndarray, functions: Sequence[Activation], peepholes: Any, product: Product
    ) -> Callable[..., list[np.ndarray]]:
        return lambda gates, h: [functions[0](gates + product(h, r) + bias)]


@dataclass(frozen=True)
class GRU(Recurrent):
    """Gated recurrent unit, gates in the order z (update), r (reset), h (candidate): `h = (1 - z) * candidate + z * h`.

    With `linear_before_reset` the reset gate multiplies `h R + b` instead of `h`.
    """

    gates: ClassVar[int] = 3
    per_direction: ClassVar[int] = 2
    activations: tuple[str, ...] = ("Sigmoid", "Tanh")
    linear_before_reset: bool = False

    def infer(  # noqa: D102
        self,
        x: TensorType,
        w: TensorType,
        r: TensorType,
        b: TensorType | None = None,
        sequence_lens: TensorType | None = None,
        initial_h: TensorType | None = None,
    ) -> tuple[TensorType, ...]:
        return self.infer_layer(x, w, r, b, sequence_lens, (initial_h,))

    def evaluate(  # noqa: D102
        self, x: Any, w: Any, r: Any, b: Any = None, sequence_lens: Any = None, initial_h: Any = None
    ) -> tuple[np.ndarray, ...]:
        return self._run((x, w, r, b, sequence_lens), (initial_h,))

    def _step(
        self, r: Any, bias: np.ndarray, functions: Sequence[Activation], peepholes: Any, product: Product
    ) -> Callable[..., list[np.ndarray]]:
        split, (f, g) = 2 * self.hidden_size, functions

        def step(gates: np.ndarray, h: np.ndarray) -> list[np.ndarray]:
            update, reset = np.split(f(gates[:, :split] + h @ r[:split].T + bias[:split]), 2, 1)
            if self.linear_before_reset:
                recurrent = reset * (h @ r[split:].T + bias[split:])
            else:
                recurrent = (reset * h) @ r[split:].T + bias[split:]
            return [(1 - update) * g(gates[:, split:] + recurrent) + update * h]

        return step


@dataclass(frozen=True)
class LSTM(Recurrent):
    """Long short-term memory, gates in the order i (input), o (output), f (forget), c (cell).

    `p` [directions, 3 * hidden] holds the peephole weights of i, o, f. With `input_forget` the forget gate is `1 - i`.
    """

    gates: ClassVar[int] = 4
    per_direction: ClassVar[int] = 3
    states: ClassVar[int] = 2
    activations: tuple[str, ...] = ("Sigmoid", "Tanh", "Tanh")
    input_forget: bool = False

    def infer(  # noqa: D102
        self,
        x: TensorType,
        w: TensorType,
        r: TensorType,
        b: TensorType | None = None,
        sequence_lens: TensorType | None = None,
        initial_h: TensorType | None = None,
        initial_c: TensorType | None = None,
        p: TensorType | None = None,
    ) -> tuple[TensorType, ...]:
        self.check_operand("p", p, x, (self.directions, 3 * self.hidden_size))
        return self.infer_layer(x, w, r, b, sequence_lens, (initial_h, initial_c))

    def evaluate(  # noqa: D102
        self,
        x: Any,
        w: Any,
        r: Any,
        b: Any = None,
        sequence_lens: Any = None,
        initial_h: Any = None,
        initial_c: Any = None,
        p: Any = None,
    ) -> tuple[np.ndarray, ...]:
        return self._run((x, w, r, b, sequence_lens), (initial_h, initial_c), p)

    def _step(
        self, r: Any, bias: np.ndarray, functions: Sequence[Activation], peepholes: Any, product: Product
    ) -> Callable[..., list[np.ndarray]]:
        f, g, h_out = functions
        peep_i, peep_o, peep_f = [None] * 3 if peepholes is None else np.split(peepholes, 3)

        def seen(weights: Any, c: np.ndarray) -> Any:
            """What a gate sees of the cell: nothing without peepholes, however large the cell is."""
            return 0 if weights is None else weights * c

        def step(gates: np.ndarray, h: np.ndarray, c: np.ndarray) -> list[np.ndarray]:
            i, o, forget, cell = np.split(gates + product(h, r) + bias, 4, 1)
            i = f(i + seen(peep_i, c))
            forget = 1 - i if self.input_forget else f(forget + seen(peep_f, c))
            c = forget * c + i * g(cell)
            return [f(o + seen(peep_o, c)) * h_out(c), c]

        return step


@dataclass(frozen=True)
class DynamicQuantizeLSTM(LSTM):
    """An `LSTM` with 8-bit weights whose data and hidden state are rounded to 8 bits by their own ranges, as in ONNX Runtime.

    `w` and `r` are integers; after `p` follow the scale and the zero point (or None for 0) of `w`, then of `r`: one number per
    direction [directions], or one per row [directions, 4 * hidden]. `x`, as a whole, and the hidden state of each step go through
    `DynamicQuantizeLinear`; products are sums of integers, multiplied by the product of the two scales.
    """

    def infer(  # noqa: D102
        self,
        x: TensorType,
        w: TensorType,
        r: TensorType,
        b: TensorType | None = None,
        sequence_lens: TensorType | None = None,
        initial_h: TensorType | None = None,
        initial_c: TensorType | None = None,
        p: TensorType | None = None,
        w_scale: TensorType | None = None,
        w_zero: TensorType | None = None,
        r_scale: TensorType | None = None,
        r_zero: TensorType | None = None,
    ) -> tuple[TensorType, ...]:
        n, rows = self.directions, self.gates * self.hidden_size
        for what, t, scale, zero in (("w", w, w_scale, w_zero), ("r", r, r_scale, r_zero)):
            require(t.dtype.is_integer and t.dtype.bits == 8, f"{self.name}: {what} is {t}, needs 8-bit integers")
            require(scale is not None and scale.dtype == FLOAT32, f"{self.name}: the scale of {what} is {scale}, needs float32")
            require(zero is None or zero.dtype == t.dtype, f"{self.name}: {what} is {t}, its zero point {zero}")
            for parameter in (scale, zero):
                fits = parameter is None or parameter.shape in ((n,), (n, rows))
                require(fits, f"{self.name}: a parameter of {what} is {parameter}, needs {n} or {n} x {rows} numbers")
        real_w, real_r = TensorType(x.dtype, w.shape), TensorType(x.dtype, r.shape)
        return super().infer(x, real_w, real_r, b, sequence_lens, initial_h, initial_c, p)

    def evaluate(  # noqa: D102
        self,
        x: Any,
        w: Any,
        r: Any,
        b: Any = None,
        sequence_lens: Any = None,
        initial_h: Any = None,
        initial_c: Any = None,
        p: Any = None,
        w_scale: Any = None,
        w_zero: Any = None,
        r_scale: Any = None,
        r_zero: Any = None,
    ) -> tuple[np.ndarray, ...]:
        weights = [
            [(v[d].astype(np.int32) - (0 if zero is None else column(zero[d]).astype(np.int32)), scale[d]) for d in range(self.directions)]
            for v, scale, zero in ((w, w_scale, w_zero), (r, r_scale, r_zero))
        ]
        return self._multiply((x, *weights, b, sequence_lens), (initial_h, initial_c), p, quantized_product)


def column(parameter: np.ndarray) -> np.ndarray:
    """Parameters per row, to be subtracted from rows."""
    return parameter[:, None] if parameter.ndim else parameter


def quantized_product(x: np.ndarray, weights: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """`x`, quantized by its own range, times the transposed integers, times both scales."""
    whole, scale = weights
    codes, x_scale, zero = DynamicQuantizeLinear().evaluate(x.astype(np.float32))
    sums = exact_matmul(codes.astype(np.int32) - zero.astype(np.int32), whole.T).astype(np.int32)
    return np.asarray(sums.astype(np.float32) * (x_scale * scale), np.float32)


def activation(name: str, alpha: float | None, beta: float | None) -> Activation:
    """The activation function of that name; what it leaves unused of alpha and beta is None."""
    a, b = alpha or 0.0, beta or 0.0
    table: dict[str, Activation] = {
        "Affine": lambda v: a * v + b,
        "Elu": lambda v: np.where(v < 0, a * np.expm1(np.minimum(v, 0)), v),
        "HardSigmoid": lambda v: np.clip(a * v + b, 0, 1),
        "LeakyRelu": lambda v: np.where(v < 0, a * v, v),
        "Relu": lambda v: np.maximum(v, 0),
        "ScaledTanh": lambda v: a * np.tanh(b * v),
        "Sigmoid": lambda v: 1 / (1 + np.exp(-v)),
        "Softplus": lambda v: np.logaddexp(v, np.zeros((), v.dtype)),
        "Softsign": lambda v: v / (1 + np.abs(v)),
        "Tanh": np.tanh,
        "ThresholdedRelu": lambda v: np.where(v > a, v, 0).astype(v.dtype),
    }
    return table[name]


def _order(lengths: np.ndarray, time: int, backward: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for t in range(time):
        active = t < lengths
        yield np.where(active, lengths - 1 - t, t) if backward else np.full(len(lengths), t), active
