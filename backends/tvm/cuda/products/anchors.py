"""The product that a kernel is about: a matrix product or a convolution, with the element-wise operators around it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from tvm import tirx

from lepton_compiler.backends.tvm.carriers import carrier
from lepton_compiler.backends.tvm.cuda.products.product import Element, Expr, Product, Side
from lepton_compiler.backends.tvm.cuda.products.weights import are_converted, packed_weights
from lepton_compiler.backends.tvm.cuda.products.zero_points import are_fit, number_at, zero_points
from lepton_compiler.backends.tvm.cuda.rules import element_of, number_of, sum_type
from lepton_compiler.backends.tvm.cuda.tensor_cores import Arithmetic, Convolution, Gemm, Matrix
from lepton_compiler.backends.tvm.cuda.tensor_cores import Element as TensorElement
from lepton_compiler.backends.tvm.kernels import KernelParameter, PackedWeight
from lepton_compiler.backends.tvm.lower import scales_of_groups, stored_weight
from lepton_compiler.backends.tvm.lower.context import ELEMENTS, Arg, expression
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
BYTES = frozenset({"int8", "uint8"})
"""Types of codes, of which tensor cores take any two."""
INTEGER = frozenset({"ConvInteger", "MatMulInteger"})
"""Operators that sum products of codes."""


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


def find_anchor(spec: KernelSpec, generated: frozenset[str]) -> Anchor | None:
    """The product of a kernel, if that is one, and all other operators are element-wise and of the same shape as its result, or before it.

    Products of types that are `generated` have their weights as the generator of tensor cores wants them.
    """
    heavy = [s for s in spec.steps if s.op.name not in ELEMENTS]
    if len(heavy) != 1 or heavy[0].op.name not in PRODUCTS or len(spec.outputs) != 1:
        return None
    step = heavy[0]
    shape = spec.types[step.outputs[0]].shape
    place = spec.steps.index(step)
    if any(spec.types[s.outputs[0]].shape != shape for s in spec.steps[place + 1 :]) or 0 in spec.types[step.outputs[0]].static_shape:
        return None
    return _Builder(spec, step, place, generated).build()


class _Builder:
    """Collects the buffers of one kernel while its product is described."""

    def __init__(self, spec: KernelSpec, step: Step, place: int, generated: frozenset[str]) -> None:
        self.spec, self.step, self.place, self.generated = spec, step, place, generated
        self.args: dict[int, Arg] = {}
        self.inputs: dict[int, Any] = {}
        self.packed: dict[tuple[int, PackedWeight], tuple[Any, TensorType]] = {}
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
        if product.multiplications < SMALL or (min(product.rows, product.columns) <= THIN and not product.takes_few):
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
        for (operand, packed), (buffer, kind) in self.packed.items():
            found.buffers.append(buffer)
            found.parameters.append(KernelParameter("packed", operand, kind, packed))
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
        result = Arg(kind, body=lambda index, read: ELEMENTS[step.op.name](step.op, kind, index, read, *operands))
        result.stored, result.scales = stored_weight(step.op, operands[0]), scales_of_groups(step.op, operands)
        self.args[step.outputs[0]] = result

    def ending(self, change: Callable[[Expr, Sequence[Expr]], Expr]) -> Callable[[Expr, Sequence[Expr]], Expr]:
        """What is stored for a sum: `change` of it, then the operators after the product."""
        kind = self.spec.types[self.step.outputs[0]]
        self.args[self.step.outputs[0]] = self.result.arg(kind)
        for step in self.spec.steps[self.place + 1 :]:
            self.elementwise(step)
        last = self.args[self.spec.outputs[0]]

        def end(total: Expr, index: Sequence[Expr]) -> Expr:
            self.result.value = element_of(change(total, index), kind.dtype)
            return expression(last, index)

        return end

    def weight(self, w: Arg, function: str, *arguments: int) -> Any:
        """A constant rearranged at compile time by a packing function."""
        w = w.stored or w
        assert w.operand is not None
        key = w.operand, PackedWeight(function, arguments)
        if key not in self.packed:
            made = PACKINGS[function](np.broadcast_to(np.zeros((), w.type.dtype.numpy), w.shape), *arguments)
            kind = TensorType(dtype(made.dtype), made.shape)
            buffer = tirx.decl_buffer(made.shape, carrier(kind.dtype).name, f"packed{len(self.packed)}", layout=None)
            self.packed[key] = buffer, kind
        return self.packed[key][0]

    def buffer(self, x: Arg) -> Any:
        """The buffer of an operand that is one of the kernel's."""
        assert x.operand is not None
        return self.inputs[x.operand]


def _reader(buffer: Any) -> Callable[..., Expr]:
    return lambda *index: tirx.BufferLoad(buffer, list(index))


def _stored(arg: Arg, index: Sequence[Expr], kind: str, conditions: tuple[Expr, ...] = ()) -> Element:
    """An element of an operand, which may be computed from what is stored."""
    value = expression(arg, index) if arg.body is not None else arg[index]
    plain = arg.body is None and arg.number is None and arg.dtype == kind == "float32"
    return Element(number_of(value, arg.type.dtype, kind), conditions, (value.source, tuple(value.indices)) if plain else None)


def _chunk(arg: Arg, *sizes: int) -> int:
    """How many neighbours lie side by side: 4 where all sizes allow it and elements are read as they are."""
    plain = arg.body is None and arg.number is None and arg.dtype == "float32"
    return WIDE if plain and all(n % WIDE == 0 for n in sizes) else 1


def _same(total: Expr, index: Sequence[Expr]) -> Expr:
    return total


def _less(element: Element, zero: Arg | None, channel: Expr | None = None) -> Element:
    """A code less its zero point, in int32."""
    return element if zero is None else Element(element.value - number_at(zero, channel), element.conditions)


def _batched(x: Arg, index: Sequence[Expr]) -> list[Expr]:
    """The leading indices of an operand for an index of the broadcast batch."""
    sizes = x.shape[:-2]
    return [tirx.const(0, "int32") if d == 1 else index[len(index) - len(sizes) + a] for a, d in enumerate(sizes)]


def _matmul(b: _Builder, op: Any, x: Arg, y: Arg, x_zero: Arg | None = None, y_zero: Arg | None = None) -> Product | None:
    """MatMul and MatMulInteger; all leading axes of the left operand are rows where the right one is a matrix."""
    kind = b.spec.types[b.step.outputs[0]]
    acc = "int32" if op.name == "MatMulInteger" else sum_type(kind.dtype)
    if len(x.shape) < 2 or len(y.shape) < 2 or not are_fit(x_zero, y_zero, y.shape[-1]):
        return None
    flat, depth, columns = len(y.shape) == 2, x.shape[-1], y.shape[-1]
    outer = x.shape[:-1] if flat else kind.static_shape[:-1]
    batch, rows = (1, math.prod(outer)) if flat else (math.prod(outer[:-1]), outer[-1])

    def place(at: Expr, m: Expr, n: Expr) -> tuple[Expr, ...]:
        return (*unravel(m, outer), n) if flat else (*unravel(at, outer[:-1]), m, n)

    def left(at: Expr, m: Expr, k: Expr) -> Element:
        index = [*unravel(m, outer), k] if flat else [*_batched(x, unravel(at, outer[:-1])), m, k]
        return _less(_stored(x, index, acc), x_zero)

    def right(at: Expr, n: Expr, k: Expr) -> Element:
        return _less(_stored(y, [k, n] if flat else [*_batched(y, unravel(at, outer[:-1])), k, n], acc), y_zero, n)

    plain = x_zero is None and y_zero is None
    sides = Side(left, "depth", _chunk(x, depth) if plain else 1), Side(right, "extent", _chunk(y, columns) if plain else 1)
    converted = flat and _is_converted(b, x, y, 0)
    if not (converted or _is_plain(b, x, y)):
        return Product(batch, rows, columns, depth, *sides, acc, place, b.ending(_same))
    turned = converted or (acc == "int32" and flat and y.constant)
    packed = packed_weights(b.weight, y, "columns", turn=True) if turned else None
    zeros = zero_points(x_zero, y_zero, None if packed is None else lambda: b.weight(y, "column_sums"), depth)

    def problem(name: Callable[[Any], str], arithmetic: Arithmetic) -> Gemm:
        axes = () if flat else outer[:-1]
        a = Matrix(name(b.buffer(x)), _element(x), depth, 1, () if flat else _steps(x.shape, axes))
        if packed is None:
            c = Matrix(name(b.buffer(y)), _element(y), columns, 1, () if flat else _steps(y.shape, axes))
        else:
            c = Matrix(name(packed.buffer), _element(y), 1, packed.depth, depth=packed.depth, codes=packed.codes(name))
        return Gemm(rows, columns, depth, a, c, arithmetic, tuple(axes), *(z is not None for z in zeros.taken_off(_zero())))

    end = b.ending(lambda total, index: zeros.end(total, index[-1]))
    return Product(
        batch,
        rows,
        columns,
        depth,
        *sides,
        acc,
        place,
        end,
        problem,
        lambda at, m, n: zeros.taken_off(n),
        takes_few=turned or acc == "int32",
    )


def _gemm(b: _Builder, op: Any, x: Arg, y: Arg, c: Arg | None = None) -> Product:
    """`alpha * op(x) @ op(y) + beta * c`."""
    kind = b.spec.types[b.step.outputs[0]]
    acc = sum_type(kind.dtype)
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
        other = number_of(c.at(index), c.type.dtype, acc)
        return value + (other if op.beta == 1.0 else other * tirx.const(op.beta, acc))

    converted = _is_converted(b, x, y, int(op.trans_b))
    pack = ("filters", 0) if op.trans_b else ("columns",)
    packed = packed_weights(b.weight, y, *pack, turn=not op.trans_b) if converted else None

    def problem(name: Callable[[Any], str], arithmetic: Arithmetic) -> Gemm:
        a = Matrix(name(b.buffer(x)), _element(x), *((1, rows) if op.trans_a else (depth, 1)))
        if packed is None:
            other = Matrix(name(b.buffer(y)), _element(y), *((1, depth) if op.trans_b else (columns, 1)))
        else:
            other = Matrix(name(packed.buffer), _element(y), 1, packed.depth, depth=packed.depth, codes=packed.codes(name))
        return Gemm(rows, columns, depth, a, other, arithmetic)

    return Product(
        1, rows, columns, depth,
        Side(left, "extent" if op.trans_a else "depth", _chunk(x, rows if op.trans_a else depth)),
        Side(right, "depth" if op.trans_b else "extent", _chunk(y, depth if op.trans_b else columns)),
        acc, lambda at, m, n: (m, n), b.ending(change), problem if converted or _is_plain(b, x, y) else None,
        takes_few=converted,
    )  # fmt: skip


def _conv(b: _Builder, op: Any, x: Arg, w: Arg, *rest: Arg | None) -> Product | None:
    """Convolutions as products of pixels and taps; what lies outside of the image is zero."""
    kind, last = b.spec.types[b.step.outputs[0]], getattr(op, "layout", "NCHW") == "NHWC"
    integer = op.name == "ConvInteger"
    acc = "int32" if integer else sum_type(kind.dtype)
    bias, x_zero, w_zero = (None, *(*rest, None, None)[:2]) if integer else ((*rest, None)[0], None, None)
    spatial, in_group, per_group = len(x.shape) - 2, w.shape[1], w.shape[0] // op.groups
    if spatial < 1 or per_group < WIDE or in_group * math.prod(w.shape[2:]) < WIDE or not are_fit(x_zero, w_zero, w.shape[0]):
        return None
    size, out = (s[1:-1] if last else s[2:] for s in (x.shape, kind.static_shape))
    taps, images = w.shape[2:], x.shape[0]
    order = (*taps, in_group) if last else (in_group, *taps)

    known = (_is_plain(b, x, w) and w.constant) or (w.scales is None and _is_converted(b, x, w, 0))
    plain, depth = spatial <= 2 and known, math.prod(order)
    packed = packed_weights(b.weight, w, "filters", int(last)) if plain else None
    points = zero_points(x_zero, w_zero, (lambda: b.weight(w, "filter_sums")) if plain else None, depth)

    def of(at: Expr, m: Expr, n: Expr) -> tuple[Expr, Expr, Expr]:
        """Image, channel of the result, pixel of the image."""
        if last:
            return tirx.floordiv(m, math.prod(out)), at * per_group + n if op.groups > 1 else n, tirx.floormod(m, math.prod(out))
        return tirx.floordiv(at, op.groups), tirx.floormod(at, op.groups) * per_group + m if op.groups > 1 else m, n

    def pixel(at: Expr, m: Expr, k: Expr) -> Element:
        image, channel, flat = of(at, m, _zero()) if last else of(at, _zero(), m)
        steps, position = unravel(k, order), unravel(flat, out)
        step, tap = (steps[-1], steps[:-1]) if last else (steps[0], steps[1:])
        where = [p * s + t * d - low for p, s, t, d, low in zip(position, op.strides, tap, op.dilations, op.pads[:spatial], strict=True)]
        ends = zip(where, size, op.pads[:spatial], op.pads[spatial:], strict=True)
        inside = tuple(c for a, n, low, high in ends for c in ((a >= 0, a < n) if low or high else ()))
        source = tirx.floordiv(channel, per_group) * in_group + step if op.groups > 1 else step
        return _less(_stored(x, [image, *where, source] if last else [image, source, *where], acc, inside), x_zero)

    def filters(at: Expr, n: Expr, k: Expr) -> Element:
        _, channel, _ = of(at, _zero(), n) if last else of(at, n, _zero())
        steps = unravel(k, order)
        return _less(_stored(w, [channel, steps[-1], *steps[:-1]] if last else [channel, *steps], acc), w_zero, channel)

    def place(at: Expr, m: Expr, n: Expr) -> tuple[Expr, ...]:
        image, channel, flat = of(at, m, n)
        return (image, *unravel(flat, out), channel) if last else (image, channel, *unravel(flat, out))

    def change(total: Expr, index: Sequence[Expr]) -> Expr:
        channel = index[-1] if last else index[1]
        total = points.end(total, channel) if plain else total
        return total if bias is None else total + number_of(bias[[channel]], bias.type.dtype, acc)

    def taken_off(at: Expr, m: Expr, n: Expr) -> tuple[Expr | None, Expr | None]:
        data, weights = points.taken_off(of(at, m, n)[1])
        return (data, weights) if last else (weights, data)

    fill = points.data if any(op.pads) else None

    def problem(name: Callable[[Any], str], arithmetic: Arithmetic) -> Convolution:
        assert packed is not None
        conv = _windows(op, x, w, name(b.buffer(x)), name(packed.buffer), arithmetic)
        zero_a, zero_b = taken_off(_zero(), _zero(), _zero())
        return replace(conv, codes=packed.codes(name), filled=fill is not None, zero_a=zero_a is not None, zero_b=zero_b is not None)

    whole = x_zero is None and w_zero is None
    pixels = Side(pixel, "depth" if last else "extent", _chunk(x, in_group, x.shape[-1]) if last and whole else 1)
    weights = Side(filters, "depth", _chunk(w, depth) if whole and not last else 1)
    if bias is not None:
        bias.uses += 1
    generated: Any = (problem, taken_off, fill, integer or w.stored is not None) if plain else ()
    end = b.ending(change)
    if last:
        return Product(op.groups, images * math.prod(out), per_group, depth, pixels, weights, acc, place, end, *generated)
    return Product(images * op.groups, per_group, math.prod(out), depth, weights, pixels, acc, place, end, *generated)


def _zero() -> Expr:
    return tirx.const(0, "int32")


def _windows(op: Any, x: Arg, w: Arg, image: str, weight: str, arithmetic: Arithmetic) -> Convolution:
    """A convolution over one axis, or two, as the generator of tensor cores takes it."""
    last, one = getattr(op, "layout", "NCHW") == "NHWC", len(x.shape) == 3
    size = x.shape[1:-1] if last else x.shape[2:]
    height, width = (1, *size) if one else size
    pads = (0, op.pads[0], 0, op.pads[1]) if one else tuple(op.pads)

    def two(values: Sequence[int]) -> tuple[int, int]:
        return (1, int(values[0])) if one else (int(values[0]), int(values[1]))

    return Convolution(
        image, weight, _element(x), _element(w), arithmetic, x.shape[0], height, width, x.shape[-1] if last else x.shape[1], w.shape[0],
        two(w.shape[2:]), two(op.strides), (int(pads[0]), int(pads[1]), int(pads[2]), int(pads[3])), two(op.dilations), op.groups, last,
    )  # fmt: skip


def _is_plain(b: _Builder, x: Arg, w: Arg) -> bool:
    """Whether operands are read as they are stored, and have types that tensor cores, or ordinary ones, multiply with each other."""
    stored = all(a.body is None and a.number is None for a in (x, w))
    names = {a.type.dtype.name for a in (x, w)}
    if b.step.op.name in INTEGER:
        return stored and names <= BYTES and "int8" in b.generated
    return stored and len(names) == 1 and names <= b.generated - {"int8"}


def _is_converted(b: _Builder, x: Arg, w: Arg, along: int) -> bool:
    """Whether data of floats is read as it is stored, and weights are converted from codes; `along` is their axis of the sum."""
    stored = x.body is None and x.number is None and x.type.dtype == w.type.dtype and x.type.dtype.name in b.generated - {"int8"}
    return stored and are_converted(w, along)


def _element(x: Arg) -> TensorElement:
    names: dict[str, TensorElement] = {"float16": "float16", "bfloat16": "bfloat16", "int8": "int8", "uint8": "uint8"}
    return names.get(x.type.dtype.name, "float32")


def _steps(shape: Sequence[int], batch: Sequence[int]) -> tuple[int, ...]:
    """Elements from one matrix to the next along each axis of a broadcast batch."""
    sizes = (1,) * (len(batch) + 2 - len(shape)) + tuple(shape)
    return tuple(0 if sizes[a] == 1 else math.prod(sizes[a + 1 :]) for a in range(len(batch)))


PRODUCTS: dict[str, Callable[..., Product | None]] = {
    "Conv": _conv,
    "ConvInteger": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
}
"""What describes the product of an operator."""
