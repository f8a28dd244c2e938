"""The product that a kernel is about: a matrix product or a convolution, with the element-wise operators around it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tvm import tirx

from lepton_compiler.backends.cuda.products.product import Element, Expr, Product, Side
from lepton_compiler.backends.tvm.carriers import carrier
from lepton_compiler.backends.tvm.kernels import KernelParameter, PackedWeight
from lepton_compiler.backends.tvm.lower.context import ELEMENTS, Arg, expression
from lepton_compiler.backends.tvm.lower.dense import accumulator
from lepton_compiler.backends.tvm.lower.movement import unravel
from lepton_compiler.backends.tvm.lower.whole import Result
from lepton_compiler.backends.tvm.packing import PACKINGS
from lepton_compiler.backends.tvm.spec import KernelSpec, Step
from lepton_compiler.ir.types import TensorType, dtype

THIN = 4
"""Rows, or columns, up to which a warp for each element of the result does better than tiles."""
SMALL = 1 << 14
"""Multiplications of a product that is not worth tiles."""
WIDE = 4


@dataclass
class Anchor:
    """A product with the buffers that its kernel takes, and what they are.

    Attributes:
        product: the product.
        buffers, parameters: of the kernel; the last one is its result.
    """

    product: Product
    buffers: list[Any] = field(default_factory=list)
    parameters: list[KernelParameter] = field(default_factory=list)

    @property
    def output(self) -> Any:
        """The buffer of the result."""
        return self.buffers[-1]


def find_anchor(spec: KernelSpec) -> Anchor | None:
    """The product of a kernel, if that is one, and all other operators are element-wise and of the same shape as its result, or before it."""
    heavy = [s for s in spec.steps if s.op.name not in ELEMENTS]
    if len(heavy) != 1 or heavy[0].op.name not in PRODUCTS or len(spec.outputs) != 1:
        return None
    step = heavy[0]
    shape = spec.types[step.outputs[0]].shape
    place = spec.steps.index(step)
    if any(spec.types[s.outputs[0]].shape != shape for s in spec.steps[place + 1 :]) or 0 in spec.types[step.outputs[0]].static_shape:
        return None
    return _Builder(spec, step, place).build()


class _Builder:
    """Collects the buffers of one kernel while its product is described."""

    def __init__(self, spec: KernelSpec, step: Step, place: int) -> None:
        self.spec, self.step, self.place = spec, step, place
        self.args: dict[int, Arg] = {}
        self.inputs: dict[int, Any] = {}
        self.packed: dict[tuple[int, tuple[int, ...]], tuple[Any, TensorType]] = {}
        self.result = Result()

    def build(self) -> Anchor | None:
        spec = self.spec
        for k in range(spec.inputs):
            kind = spec.types[k]
            self.inputs[k] = tirx.decl_buffer(kind.static_shape, carrier(kind.dtype).name, f"in{k}", layout=None)
            self.args[k] = Arg(kind, tensor=_reader(self.inputs[k]), operand=k, constant=k in spec.constants)
        for k, value in spec.scalars:
            self.args[k] = Arg(spec.types[k], number=value)
        for step in spec.steps[: self.place]:
            self.elementwise(step)
        operands = [None if i is None else self.args[i] for i in self.step.inputs]
        product = PRODUCTS[self.step.op.name](self, self.step.op, *operands)
        if product is None or product.depth < 1:
            return None
        if product.multiplications < SMALL or min(product.rows, product.columns) <= THIN:
            return None
        return self.anchor(product)

    def anchor(self, product: Product) -> Anchor:
        spec = self.spec
        read = sorted({i for s in spec.steps for i in s.inputs if i is not None and i in self.inputs})
        found = Anchor(product)
        replaced = {operand for operand, _ in self.packed}
        for k in read:
            if k not in replaced:
                found.buffers.append(self.inputs[k])
                found.parameters.append(KernelParameter("input", k, spec.types[k]))
        for (operand, axes), (buffer, kind) in self.packed.items():
            found.buffers.append(buffer)
            found.parameters.append(KernelParameter("packed", operand, kind, PackedWeight("transpose", axes)))
        kind = spec.types[spec.outputs[0]]
        found.buffers.append(tirx.decl_buffer(kind.static_shape, carrier(kind.dtype).name, "out", layout=None))
        found.parameters.append(KernelParameter("output", 0, kind))
        return found

    def elementwise(self, step: Step) -> None:
        """An operator as an expression of its operands."""
        operands = [None if i is None else self.args[i] for i in step.inputs]
        kind = self.spec.types[step.outputs[0]]
        for operand in operands:
            if operand is not None:
                operand.uses += 1
        self.args[step.outputs[0]] = Arg(kind, body=lambda index, read: ELEMENTS[step.op.name](step.op, kind, index, read, *operands))

    def ending(self, change: Callable[[Expr, Sequence[Expr]], Expr]) -> Callable[[Expr, Sequence[Expr]], Expr]:
        """What is stored for a sum: `change` of it, then the operators after the product."""
        kind = self.spec.types[self.step.outputs[0]]
        self.args[self.step.outputs[0]] = self.result.arg(kind)
        for step in self.spec.steps[self.place + 1 :]:
            self.elementwise(step)
        last = self.args[self.spec.outputs[0]]

        def end(total: Expr, index: Sequence[Expr]) -> Expr:
            self.result.value = change(total, index).astype(carrier(kind.dtype).name)
            return expression(last, index)

        return end

    def weight(self, w: Arg, axes: tuple[int, ...]) -> Any:
        """A constant with its axes in another order, worked out at compile time."""
        assert w.operand is not None
        key = w.operand, axes
        if key not in self.packed:
            made = PACKINGS["transpose"](np.broadcast_to(np.zeros((), w.type.dtype.numpy), w.shape), *axes)
            kind = TensorType(w.type.dtype, made.shape)
            buffer = tirx.decl_buffer(made.shape, carrier(dtype(made.dtype)).name, f"packed{len(self.packed)}", layout=None)
            self.packed[key] = buffer, kind
        return self.packed[key][0]


def _reader(buffer: Any) -> Callable[..., Expr]:
    return lambda *index: tirx.BufferLoad(buffer, list(index))


def _stored(arg: Arg, index: Sequence[Expr], kind: str, conditions: tuple[Expr, ...] = ()) -> Element:
    """An element of an operand, which may be computed from what is stored."""
    value = expression(arg, index) if arg.body is not None else arg[index]
    plain = arg.body is None and arg.number is None and arg.dtype == kind == "float32"
    return Element(value.astype(kind), conditions, (value.source, tuple(value.indices)) if plain else None)


def _chunk(arg: Arg, *sizes: int) -> int:
    """How many neighbours lie side by side: 4 where all sizes allow it and elements are read as they are."""
    plain = arg.body is None and arg.number is None and arg.dtype == "float32"
    return WIDE if plain and all(n % WIDE == 0 for n in sizes) else 1


def _same(total: Expr, index: Sequence[Expr]) -> Expr:
    return total


def _less(element: Element, zero: Arg | None, kind: str) -> Element:
    """A code less its zero point."""
    if zero is None:
        return element
    return Element(element.value - zero[[tirx.const(0, "int32")] * len(zero.shape)].astype(kind), element.conditions)


def _batched(x: Arg, index: Sequence[Expr]) -> list[Expr]:
    """The leading indices of an operand for an index of the broadcast batch."""
    sizes = x.shape[:-2]
    return [tirx.const(0, "int32") if d == 1 else index[len(index) - len(sizes) + a] for a, d in enumerate(sizes)]


def _matmul(b: _Builder, op: Any, x: Arg, y: Arg, x_zero: Arg | None = None, y_zero: Arg | None = None) -> Product | None:
    """MatMul and MatMulInteger; all leading axes of the left operand are rows where the right one is a matrix."""
    kind = b.spec.types[b.step.outputs[0]]
    acc = "int32" if op.name == "MatMulInteger" else accumulator(kind.dtype.name)
    if len(x.shape) < 2 or len(y.shape) < 2 or any(z is not None and z.type.size != 1 for z in (x_zero, y_zero)):
        return None
    flat, depth, columns = len(y.shape) == 2, x.shape[-1], y.shape[-1]
    outer = x.shape[:-1] if flat else kind.static_shape[:-1]
    batch, rows = (1, math.prod(outer)) if flat else (math.prod(outer[:-1]), outer[-1])

    def place(at: Expr, m: Expr, n: Expr) -> tuple[Expr, ...]:
        return (*unravel(m, outer), n) if flat else (*unravel(at, outer[:-1]), m, n)

    def left(at: Expr, m: Expr, k: Expr) -> Element:
        index = [*unravel(m, outer), k] if flat else [*_batched(x, unravel(at, outer[:-1])), m, k]
        return _less(_stored(x, index, acc), x_zero, acc)

    def right(at: Expr, n: Expr, k: Expr) -> Element:
        return _less(_stored(y, [k, n] if flat else [*_batched(y, unravel(at, outer[:-1])), k, n], acc), y_zero, acc)

    plain = x_zero is None and y_zero is None
    sides = Side(left, "depth", _chunk(x, depth) if plain else 1), Side(right, "extent", _chunk(y, columns) if plain else 1)
    return Product(batch, rows, columns, depth, *sides, acc, place, b.ending(_same), "columns")


def _gemm(b: _Builder, op: Any, x: Arg, y: Arg, c: Arg | None = None) -> Product:
    """`alpha * op(x) @ op(y) + beta * c`."""
    kind = b.spec.types[b.step.outputs[0]]
    acc = accumulator(kind.dtype.name)
    rows, depth = x.shape[::-1] if op.trans_a else x.shape
    columns = y.shape[0] if op.trans_b else y.shape[1]
    if c is not None:
        c.uses += 1

    def left(at: Expr, m: Expr, k: Expr) -> Element:
        return _stored(x, [k, m] if op.trans_a else [m, k], acc)

    def right(at: Expr, n: Expr, k: Expr) -> Element:
        return _stored(y, [n, k] if op.trans_b else [k, n], acc)

    def change(total: Expr, index: Sequence[Expr]) -> Expr:
        value = total * tirx.const(op.alpha, acc) if op.alpha != 1.0 else total
        if c is None:
            return value
        other = c.at(index).astype(acc)
        return value + (other if op.beta == 1.0 else other * tirx.const(op.beta, acc))

    return Product(
        1, rows, columns, depth,
        Side(left, "extent" if op.trans_a else "depth", _chunk(x, rows if op.trans_a else depth)),
        Side(right, "depth" if op.trans_b else "extent", _chunk(y, depth if op.trans_b else columns)),
        acc, lambda at, m, n: (m, n), b.ending(change), "columns",
    )  # fmt: skip


def _conv(b: _Builder, op: Any, x: Arg, w: Arg, *rest: Arg | None) -> Product | None:
    """Convolutions as products of pixels and taps; what lies outside of the image is zero."""
    kind, last = b.spec.types[b.step.outputs[0]], getattr(op, "layout", "NCHW") == "NHWC"
    integer = op.name == "ConvInteger"
    acc = "int32" if integer else accumulator(kind.dtype.name)
    bias, zeros = (None, (*rest, None, None)[:2]) if integer else ((*rest, None)[0], (None, None))
    spatial, in_group, per_group = len(x.shape) - 2, w.shape[1], w.shape[0] // op.groups
    if (
        spatial < 1
        or per_group < WIDE
        or in_group * math.prod(w.shape[2:]) < WIDE
        or any(z is not None and z.type.size != 1 for z in zeros)
    ):
        return None
    size, out = (s[1:-1] if last else s[2:] for s in (x.shape, kind.static_shape))
    taps, images = w.shape[2:], x.shape[0]
    order = (*taps, in_group) if last else (in_group, *taps)

    def pixel(at: Expr, m: Expr, k: Expr) -> Element:
        image, *position = unravel(m, (images, *out))
        steps = unravel(k, order)
        channel, tap = (steps[-1], steps[:-1]) if last else (steps[0], steps[1:])
        where = [p * s + t * d - low for p, s, t, d, low in zip(position, op.strides, tap, op.dilations, op.pads[:spatial], strict=True)]
        ends = zip(where, size, op.pads[:spatial], op.pads[spatial:], strict=True)
        inside = tuple(c for a, n, low, high in ends for c in ((a >= 0, a < n) if low or high else ()))
        source = at * in_group + channel if op.groups > 1 else channel
        return _less(_stored(x, [image, *where, source] if last else [image, source, *where], acc, inside), zeros[0], acc)

    packed = b.weight(w, (*range(2, len(w.shape)), 1, 0)) if last and w.body is None and w.constant else None

    def filters(at: Expr, n: Expr, k: Expr) -> Element:
        steps, channel = unravel(k, order), at * per_group + n if op.groups > 1 else n
        if packed is not None:
            load = tirx.BufferLoad(packed, [*steps, channel])
            return _less(Element(load.astype(acc), (), (packed, (*steps, channel))), zeros[1], acc)
        index = [channel, steps[-1], *steps[:-1]] if last else [channel, *steps]
        return _less(_stored(w, index, acc), zeros[1], acc)

    def place(at: Expr, m: Expr, n: Expr) -> tuple[Expr, ...]:
        image, *position = unravel(m, (images, *out))
        channel = at * per_group + n if op.groups > 1 else n
        return (image, *position, channel) if last else (image, channel, *position)

    def change(total: Expr, index: Sequence[Expr]) -> Expr:
        return total if bias is None else total + bias[[index[-1] if last else index[1]]].astype(acc)

    depth, plain = math.prod(order), not any(z is not None for z in zeros)
    pixels = Side(pixel, "depth" if last else "extent", _chunk(x, in_group, x.shape[-1]) if last and plain else 1)
    along = "extent" if packed is not None else "depth"
    weights = Side(filters, along, (_chunk(w, per_group, w.shape[0]) if packed is not None else _chunk(w, depth)) if plain else 1)  # type: ignore[arg-type]
    rows, end = images * math.prod(out), b.ending(change)
    if last:
        return Product(op.groups, rows, per_group, depth, pixels, weights, acc, place, end, "columns")
    return Product(op.groups, per_group, rows, depth, weights, pixels, acc, lambda at, m, n: place(at, n, m), end, "columns")


PRODUCTS: dict[str, Callable[..., Product | None]] = {
    "Conv": _conv,
    "ConvInteger": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
}
"""What describes the product of an operator."""
