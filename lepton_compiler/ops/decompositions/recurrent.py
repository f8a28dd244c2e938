"""Recurrent layers as one matrix product over all time steps, then a `Scan` whose body is a small product and element-wise work."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ir.op import Op
from lepton_compiler.ir.types import FLOAT32, INT32, TensorType
from lepton_compiler.ops.activation import Clip, Elu, HardSigmoid, LeakyRelu, Relu, Softplus, Softsign, ThresholdedRelu
from lepton_compiler.ops.binary import Add, Less, Mul, Sub, Where
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.cast import Cast
from lepton_compiler.ops.control import Scan
from lepton_compiler.ops.decompose import decomposition
from lepton_compiler.ops.indexing import Concat, Gather, ReverseSequence, Slice, Split
from lepton_compiler.ops.matmul import MatMul, MatMulInteger
from lepton_compiler.ops.precision import NARROW
from lepton_compiler.ops.quantize import DynamicQuantizeLinear
from lepton_compiler.ops.recurrent import GRU, LSTM, RNN, DynamicQuantizeLSTM, Recurrent
from lepton_compiler.ops.shape import ConstantOfShape, Squeeze, Transpose, Unsqueeze
from lepton_compiler.ops.unary import Sigmoid, Tanh

Step = Callable[["Body", Value, list[Value]], list[Value]]
"""From the gates of one time step and the states to the new states, the hidden state first."""


Product = Callable[["Parts", Builder, Value, str, Callable[[Value], Value]], Value]
"""Of a direction, a builder, the data, "w" or "r" for the weights, and what brings outer values to where the builder builds."""


class Body:
    """The body of a `Scan` under construction: a region that takes what it needs from outside as captures."""

    def __init__(self, build: Builder, layer: Recurrent) -> None:
        self.region = Graph("step")
        self.build = Builder(self.region, loc=build.loc)
        self.layer = layer
        self.captures: list[Value] = []
        self._inside: dict[Value, Value] = {}

    def take(self, value: Value) -> Value:
        """An outer value inside the body; a constant is shared, anything else becomes a capture."""
        if value not in self._inside:
            if value.tensor is not None:
                self._inside[value] = self.build.constant(value.tensor)
            else:
                self._inside[value] = self.region.add_input(value.name, value.type)
                self.captures.append(value)
        return self._inside[value]

    def activate(self, row: tuple[str, float | None, float | None], x: Value, *, gate: bool = True) -> Value:
        """The activation called `row[0]` with alpha and beta, that of a gate with its input clipped where the layer says so."""
        b, (name, alpha, beta) = self.build, row
        if gate and self.layer.clip is not None:
            bound = float(self.layer.clip)
            x = b(Clip(), x, b.constant(-bound, x), b.constant(bound, x))
        match name:
            case "Affine":
                return b(Add(), b(Mul(), x, b.constant(float(alpha or 0), x)), b.constant(float(beta or 0), x))
            case "ScaledTanh":
                return b(Mul(), b(Tanh(), b(Mul(), x, b.constant(float(beta or 0), x))), b.constant(float(alpha or 0), x))
        return b(_activation(name, alpha, beta), x)


@decomposition(RNN)
def rnn(build: Builder, node: Node) -> Sequence[Value]:
    """`h = f(x W + h R + b)`."""
    layer = node.op
    assert isinstance(layer, RNN)

    def prepare(part: Parts) -> tuple[Value | None, Step]:
        weights = part.transposed(part.r)

        def step(body: Body, gates: Value, states: list[Value]) -> list[Value]:
            total = body.build(Add(), gates, body.build(MatMul(), states[0], body.take(weights)))
            return [body.activate(part.activations[0], total)]

        return part.both_biases(), step

    return _unrolled(build, node, layer, prepare)


@decomposition(GRU)
def gru(build: Builder, node: Node) -> Sequence[Value]:
    """Gates z, r, h; the bias of `h R` stays in the loop only with `linear_before_reset`."""
    layer = node.op
    assert isinstance(layer, GRU)
    size = layer.hidden_size

    def prepare(part: Parts) -> tuple[Value | None, Step]:
        if layer.linear_before_reset:
            bias, inner = part.split_biases(2 * size)
            return bias, _linear_first(part, part.transposed(part.r), inner)
        heads = part.transposed(part.rows(part.r, 0, 2 * size))
        return part.both_biases(), _reset_first(part, heads, part.transposed(part.rows(part.r, 2 * size, 3 * size)))

    return _unrolled(build, node, layer, prepare)


def _linear_first(part: Parts, weights: Value, inner: Value | None) -> Step:
    size = part.layer.hidden_size

    def step(body: Body, gates: Value, states: list[Value]) -> list[Value]:
        b, h = body.build, states[0]
        products = b(MatMul(), h, body.take(weights))
        head, last = _split(b, products, (2 * size, size))
        if inner is not None:
            last = b(Add(), last, body.take(inner))
        x_head, x_last = _split(b, gates, (2 * size, size))
        update, reset = _split(b, body.activate(part.activations[0], b(Add(), x_head, head)), (size, size))
        candidate = body.activate(part.activations[1], b(Add(), x_last, b(Mul(), reset, last)))
        return [_mixed(b, update, candidate, h)]

    return step


def _reset_first(part: Parts, heads: Value, tail: Value) -> Step:
    size = part.layer.hidden_size

    def step(body: Body, gates: Value, states: list[Value]) -> list[Value]:
        b, h = body.build, states[0]
        x_head, x_last = _split(b, gates, (2 * size, size))
        head = b(Add(), x_head, b(MatMul(), h, body.take(heads)))
        update, reset = _split(b, body.activate(part.activations[0], head), (size, size))
        last = b(MatMul(), b(Mul(), reset, h), body.take(tail))
        return [_mixed(b, update, body.activate(part.activations[1], b(Add(), x_last, last)), h)]

    return step


def _mixed(b: Builder, update: Value, candidate: Value, h: Value) -> Value:
    return b(Add(), b(Mul(), b(Sub(), b.constant(1.0, update), update), candidate), b(Mul(), update, h))


@decomposition(LSTM)
def lstm(build: Builder, node: Node) -> Sequence[Value]:
    """Gates i, o, f, c, with peepholes and coupled forget gate where the layer has them."""
    return _lstm(build, node, plain_product)


@decomposition(DynamicQuantizeLSTM)
def dynamic_quantize_lstm(build: Builder, node: Node) -> Sequence[Value]:
    """The same with products of integers; the data is quantized once for all directions."""
    x, *rest = node.inputs
    assert x is not None
    scales = dict(zip("wr", (rest[7:9], (*rest[9:], None)[:2]), strict=True))
    known: dict[Value, list[Value]] = {}

    def product(part: Parts, b: Builder, data: Value, name: str, take: Callable[[Value], Value]) -> Value:
        weights, (scale, zero) = part.w if name == "w" else part.r, scales[name]
        assert scale is not None
        if data not in known:
            known[data] = list(b.node(DynamicQuantizeLinear(), [data]).outputs)
        codes, x_scale, x_zero = known[data]
        zeros = None if zero is None or _is_zero(zero) else take(part.direction(zero, 0))
        sums = b(MatMulInteger(), codes, take(part.transposed(weights)), x_zero, zeros)
        return b(Mul(), b(Cast(to=FLOAT32), sums), b(Mul(), x_scale, take(part.direction(scale, 0))))

    return _lstm(build, node, product)


def _is_zero(value: Value) -> bool:
    return value.tensor is not None and not value.numpy().any()


def _lstm(build: Builder, node: Node, product: Product) -> Sequence[Value]:
    layer = node.op
    assert isinstance(layer, LSTM)
    size = layer.hidden_size
    peepholes = node.inputs[7] if len(node.inputs) > 7 else None

    def prepare(part: Parts) -> tuple[Value | None, Step]:
        p = None if peepholes is None else part.direction(part.widened(peepholes), 0)
        peeps = None if p is None else [part.rows(p, i * size, (i + 1) * size) for i in range(3)]
        first, cell_in, cell_out = part.activations

        def peep(body: Body, gate: Value, index: int, cell: Value) -> Value:
            return gate if peeps is None else body.build(Add(), gate, body.build(Mul(), body.take(peeps[index]), cell))

        def step(body: Body, gates: Value, states: list[Value]) -> list[Value]:
            b, (h, c) = body.build, states
            total = b(Add(), gates, product(part, b, h, "r", body.take))
            i, o, f, cell = _split(b, total, (size,) * 4)
            i = body.activate(first, peep(body, i, 0, c))
            forget = b(Sub(), b.constant(1.0, i), i) if layer.input_forget else body.activate(first, peep(body, f, 2, c))
            c = b(Add(), b(Mul(), forget, c), b(Mul(), i, body.activate(cell_in, cell)))
            o = body.activate(first, peep(body, o, 1, c))
            return [b(Mul(), o, body.activate(cell_out, c, gate=False)), c]

        return part.both_biases(), step

    return _unrolled(build, node, layer, prepare, product)


class Parts:
    """The operands of one direction of a layer, sliced; constants are sliced now, other values by nodes."""

    def __init__(self, build: Builder, node: Node, layer: Recurrent, index: int) -> None:
        self.build, self.layer, self.index = build, layer, index
        self.activations = layer.activation_rows()[index]
        w, r, b = ([*node.inputs[1:], None, None])[:3]
        assert w is not None and r is not None
        self.w, self.r = (self.direction(self.widened(v), 0) for v in (w, r))
        self.b = None if b is None else self.direction(self.widened(b), 0)

    def widened(self, value: Value) -> Value:
        """`value` in the type the layer computes in."""
        return self.apply(Cast(to=FLOAT32), value) if value.type.dtype.numpy in NARROW else value

    def apply(self, op: Op, *values: Value) -> Value:
        """A node, or its result where all operands are constants."""
        if all(v.is_constant for v in values):
            return self.build.constant(np.ascontiguousarray(op.evaluate(*(v.numpy() for v in values))[0]))
        return self.build(op, *values)

    def direction(self, value: Value, axis: int) -> Value:
        """This direction's slice along `axis`."""
        if self.layer.directions == 1:
            return self.apply(Squeeze(axes=(axis,)), value)
        return self.apply(Gather(axis=axis), value, self.build.constant(np.array(self.index, np.int64)))

    def rows(self, value: Value, start: int, end: int) -> Value:
        """Rows `start` to `end` of the first axis."""
        return self.apply(Slice(starts=(start,), ends=(end,), axes=(0,), steps=(1,)), value)

    def transposed(self, value: Value) -> Value:
        """A matrix with its axes exchanged."""
        return self.apply(Transpose(perm=(1, 0)), value)

    def both_biases(self) -> Value | None:
        """The sum of the input's and the state's bias."""
        if self.b is None:
            return None
        size = self.layer.gates * self.layer.hidden_size
        return self.apply(Add(), self.rows(self.b, 0, size), self.rows(self.b, size, 2 * size))

    def split_biases(self, at: int) -> tuple[Value | None, Value | None]:
        """The input's bias with the state's first `at` entries added, and the rest of the state's."""
        if self.b is None:
            return None, None
        size = self.layer.gates * self.layer.hidden_size
        head = self.apply(Add(), self.rows(self.b, 0, at), self.rows(self.b, size, size + at))
        return self.apply(Concat(axis=0), head, self.rows(self.b, at, size)), self.rows(self.b, size + at, 2 * size)


def plain_product(part: Parts, b: Builder, data: Value, name: str, take: Callable[[Value], Value]) -> Value:
    """The matrix product of real numbers."""
    return b(MatMul(), data, take(part.transposed(part.w if name == "w" else part.r)))


def _unrolled(
    build: Builder, node: Node, layer: Recurrent, prepare: Callable[[Parts], tuple[Value | None, Step]], product: Product = plain_product
) -> list[Value]:
    """All directions of a layer, put together as its outputs."""
    operands = [*node.inputs, *[None] * 7]
    x, lengths = operands[0], operands[4]
    assert x is not None
    kind, results = x.type.dtype, []
    for index in range(layer.directions):
        part = Parts(build, node, layer, index)
        bias, step = prepare(part)
        source = part.widened(x)
        source = build(Transpose(perm=(1, 0, 2)), source) if layer.layout else source
        initial = [None if s is None else part.widened(s) for s in operands[5 : 5 + layer.states]]
        states = [_initial(part, s, source.type) for s in initial]
        results.append(_direction(part, source, bias, states, lengths, step, product))
    outputs = []
    for i, column in enumerate(zip(*results, strict=True)):
        axis = 1 if i == 0 else 0
        stacked = [build(Unsqueeze(axes=(axis,)), v) for v in column]
        value = stacked[0] if len(stacked) == 1 else build(Concat(axis=axis), *stacked)
        if layer.layout:
            value = build(Transpose(perm=(2, 0, 1, 3) if i == 0 else (1, 0, 2)), value)
        outputs.append(value if value.type.dtype == kind else build(Cast(to=kind), value))
    return outputs


def _initial(part: Parts, state: Value | None, x: TensorType) -> Value:
    if state is not None:
        return part.direction(state, 1 if part.layer.layout else 0)
    shape = (x.shape[1], part.layer.hidden_size)
    return part.build(ConstantOfShape(shape=shape, value=0.0, dtype=x.dtype))


def _direction(
    part: Parts, x: Value, bias: Value | None, states: list[Value], lengths: Value | None, step: Step, product: Product
) -> list[Value]:
    """One direction over `x` [time, batch, input]: `y` [time, batch, hidden] and the last states."""
    build, layer = part.build, part.layer
    backward = layer.is_backward(part.index)
    reverse = ReverseSequence(batch_axis=1, time_axis=0)
    if backward and lengths is not None:
        x = build(reverse, x, lengths)
    gates = product(part, build, x, "w", lambda value: value)
    gates = gates if bias is None else build(Add(), gates, bias)
    body = Body(build, layer)
    names = ("h", "c")
    inner = [body.region.add_input(n, s.type) for n, s in zip(names, states, strict=False)]
    if lengths is not None:
        counter = body.region.add_input("t", TensorType(INT32, ()))
    now = body.region.add_input("gates", TensorType(gates.type.dtype, gates.type.shape[1:]))
    new = step(body, now, inner)
    outputs, carried = [*new, new[0]], list(states)
    if lengths is not None:
        outputs = _masked(body, build, counter, lengths, inner, new)
        carried.append(build.constant(np.array(0, np.int32)))
    body.region.set_outputs(outputs)
    flip = (int(backward and lengths is None),)
    scan = Scan(num_scan_inputs=1, input_axes=(0,), input_directions=flip, output_axes=(0,), output_directions=flip, carried=len(carried))
    found = build.node(scan, [*carried, gates, *body.captures], regions=[body.region]).outputs
    y = found[len(carried)]
    return [build(reverse, y, lengths) if backward and lengths is not None else y, *found[: len(states)]]


def _masked(body: Body, build: Builder, counter: Value, lengths: Value, old: list[Value], new: list[Value]) -> list[Value]:
    """Body outputs that leave finished sequences alone: states, the counter, and `y`."""
    b = body.build
    column = build(Unsqueeze(axes=(1,)), lengths if lengths.type.dtype == INT32 else build(Cast(to=INT32), lengths))
    active = b(Less(), counter, body.take(column))
    kept = [b(Where(), active, n, o) for n, o in zip(new, old, strict=True)]
    return [*kept, b(Add(), counter, b.constant(np.array(1, np.int32))), b(Where(), active, new[0], b.constant(0.0, new[0]))]


def _split(b: Builder, x: Value, sizes: tuple[int, ...]) -> tuple[Value, ...]:
    return b.node(Split(axis=1, sizes=sizes), [x]).outputs


def _activation(name: str, alpha: float | None, beta: float | None) -> Op:
    a, b = float(alpha or 0), float(beta or 0)
    match name:
        case "Elu":
            return Elu(alpha=a)
        case "HardSigmoid":
            return HardSigmoid(alpha=a, beta=b)
        case "LeakyRelu":
            return LeakyRelu(alpha=a)
        case "ThresholdedRelu":
            return ThresholdedRelu(alpha=a)
    plain: dict[str, Op] = {"Relu": Relu(), "Sigmoid": Sigmoid(), "Softplus": Softplus(), "Softsign": Softsign(), "Tanh": Tanh()}
    return plain[name]
