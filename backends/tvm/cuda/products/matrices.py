"""Matrix products, of floats and of codes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx

from lepton_compiler.backends.tvm.cuda.products.builder import Builder
from lepton_compiler.backends.tvm.cuda.products.operands import ZERO, chunk, element_type, is_converted, is_plain, is_turned, less, stored
from lepton_compiler.backends.tvm.cuda.products.product import Element, Expr, Product, Side
from lepton_compiler.backends.tvm.cuda.products.weights import packed_weights
from lepton_compiler.backends.tvm.cuda.products.zero_points import are_fit, zero_points
from lepton_compiler.backends.tvm.cuda.rules import number_of, sum_type
from lepton_compiler.backends.tvm.cuda.tensor_cores import Arithmetic, Gemm, Matrix
from lepton_compiler.backends.tvm.lower.context import Arg
from lepton_compiler.backends.tvm.lower.movement import unravel


def matmul(b: Builder, op: Any, x: Arg, y: Arg, x_zero: Arg | None = None, y_zero: Arg | None = None) -> Product | None:
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
        return less(stored(x, index, acc), x_zero)

    def right(at: Expr, n: Expr, k: Expr) -> Element:
        return less(stored(y, [k, n] if flat else [*_batched(y, unravel(at, outer[:-1])), k, n], acc), y_zero, n)

    plain = x_zero is None and y_zero is None
    sides = Side(left, "depth", chunk(x, depth) if plain else 1), Side(right, "extent", chunk(y, columns) if plain else 1)
    converted = flat and is_converted(b, x, y, 0)
    if not (converted or is_plain(b, x, y)):
        return Product(batch, rows, columns, depth, *sides, acc, place, b.ending(_same))
    turned = converted or (flat and is_turned(y))
    packed = packed_weights(b.weight, y, "columns", turn=True) if turned else None
    zeros = zero_points(x_zero, y_zero, None if packed is None else lambda: b.weight(y, "column_sums"), depth)

    def problem(name: Callable[[Any], str], arithmetic: Arithmetic) -> Gemm:
        axes = () if flat else outer[:-1]
        a = Matrix(name(b.buffer(x)), element_type(x), depth, 1, () if flat else _steps(x.shape, axes))
        if packed is None:
            c = Matrix(name(b.buffer(y)), element_type(y), columns, 1, () if flat else _steps(y.shape, axes))
        else:
            c = Matrix(name(packed.buffer), element_type(y), 1, packed.depth, depth=packed.depth, codes=packed.codes(name))
        return Gemm(rows, columns, depth, a, c, arithmetic, tuple(axes), *(z is not None for z in zeros.taken_off(ZERO)))

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
        takes_few=converted or acc == "int32",
    )


def gemm(b: Builder, op: Any, x: Arg, y: Arg, c: Arg | None = None) -> Product:
    """`alpha * op(x) @ op(y) + beta * c`."""
    kind = b.spec.types[b.step.outputs[0]]
    acc = sum_type(kind.dtype)
    rows, depth = x.shape[::-1] if op.trans_a else x.shape
    columns = y.shape[0] if op.trans_b else y.shape[1]
    if c is not None:
        c.uses += 1

    def left(at: Expr, m: Expr, k: Expr) -> Element:
        return stored(x, [k, m] if op.trans_a else [m, k], acc)

    def right(at: Expr, n: Expr, k: Expr) -> Element:
        return stored(y, [n, k] if op.trans_b else [k, n], acc)

    def change(total: Expr, index: Sequence[Expr]) -> Expr:
        value = total * tirx.const(op.alpha, acc) if op.alpha != 1.0 else total
        if c is None:
            return value
        other = number_of(c.at(index), c.type.dtype, acc)
        return value + (other if op.beta == 1.0 else other * tirx.const(op.beta, acc))

    converted = is_converted(b, x, y, int(op.trans_b))
    pack = ("filters", 0) if op.trans_b else ("columns",)
    turned = converted or (is_plain(b, x, y) and not op.trans_b and is_turned(y))
    packed = packed_weights(b.weight, y, *pack, turn=not op.trans_b) if turned else None

    def problem(name: Callable[[Any], str], arithmetic: Arithmetic) -> Gemm:
        a = Matrix(name(b.buffer(x)), element_type(x), *((1, rows) if op.trans_a else (depth, 1)))
        if packed is None:
            other = Matrix(name(b.buffer(y)), element_type(y), *((1, depth) if op.trans_b else (columns, 1)))
        else:
            other = Matrix(name(packed.buffer), element_type(y), 1, packed.depth, depth=packed.depth, codes=packed.codes(name))
        return Gemm(rows, columns, depth, a, other, arithmetic)

    return Product(
        1, rows, columns, depth,
        Side(left, "extent" if op.trans_a else "depth", chunk(x, rows if op.trans_a else depth)),
        Side(right, "depth" if op.trans_b else "extent", chunk(y, depth if op.trans_b else columns)),
        acc, lambda at, m, n: (m, n), b.ending(change), problem if converted or is_plain(b, x, y) else None,
        takes_few=converted,
    )  # fmt: skip


def _same(total: Expr, index: Sequence[Expr]) -> Expr:
    return total


def _batched(x: Arg, index: Sequence[Expr]) -> list[Expr]:
    """The leading indices of an operand for an index of the broadcast batch."""
    sizes = x.shape[:-2]
    return [tirx.const(0, "int32") if d == 1 else index[len(index) - len(sizes) + a] for a, d in enumerate(sizes)]


def _steps(shape: Sequence[int], batch: Sequence[int]) -> tuple[int, ...]:
    """Elements from one matrix to the next along each axis of a broadcast batch."""
    sizes = (1,) * (len(batch) + 2 - len(shape)) + tuple(shape)
    return tuple(0 if sizes[a] == 1 else math.prod(sizes[a + 1 :]) for a in range(len(batch)))
