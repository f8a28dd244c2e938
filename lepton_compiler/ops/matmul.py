"""Matrix products. Integers are exact (modulo the width of the result); narrow floats are computed in float32."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from lepton_compiler.ir.dim import Dim
from lepton_compiler.ir.op import Cost, Op, Types, require, traffic
from lepton_compiler.ir.types import INT32, TensorType
from lepton_compiler.ops.broadcasting import broadcast_shapes, may_equal, require_broadcastable, shape_text
from lepton_compiler.ops.einsum import Equation
from lepton_compiler.ops.precision import compute_wide

_EXACT_FLOAT32, _EXACT_FLOAT64 = 2**24, 2**53


@dataclass(frozen=True)
class MatMul(Op):
    """numpy.matmul: the last two axes are matrices, leading ones broadcast; a rank-1 operand is a row or a column."""

    def infer(self, a: TensorType, b: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        require(a.dtype == b.dtype, f"MatMul mixes element types {a.dtype} and {b.dtype}")
        require(a.dtype.kind in ("int", "uint", "float"), f"MatMul takes numbers, not {a.dtype}")
        return (TensorType(a.dtype, product_shape(a.shape, b.shape)),)

    def evaluate(self, a: Any, b: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        if np.issubdtype(a.dtype, np.integer):
            return (exact_matmul(a, b).astype(a.dtype),)
        return (compute_wide(np.matmul, a, b),)

    def cost(self, inputs: Types, outputs: Types) -> Cost:  # noqa: D102
        return _product_cost(inputs, outputs)


@dataclass(frozen=True)
class Gemm(Op):
    """alpha * A @ B + beta * C on matrices, each of A and B possibly transposed first; C broadcasts to the product."""

    alpha: float = 1.0
    beta: float = 1.0
    trans_a: bool = False
    trans_b: bool = False

    def infer(self, a: TensorType, b: TensorType, c: TensorType | None = None) -> tuple[TensorType, ...]:  # noqa: D102
        require(a.rank == 2 and b.rank == 2, f"Gemm takes matrices, not {a} and {b}")
        require(a.dtype == b.dtype, f"Gemm mixes element types {a.dtype} and {b.dtype}")
        rows, inner = reversed(a.shape) if self.trans_a else a.shape
        other, columns = reversed(b.shape) if self.trans_b else b.shape
        require(may_equal(inner, other), f"Gemm multiplies {shape_text((rows, inner))} by {shape_text((other, columns))}")
        if c is not None:
            require(c.dtype == a.dtype, f"Gemm's C is {c.dtype}, the product {a.dtype}")
            require_broadcastable(c.shape, (rows, columns), "Gemm's C")
        return (TensorType(a.dtype, (rows, columns)),)

    def evaluate(self, a: Any, b: Any, c: Any = None) -> tuple[np.ndarray, ...]:  # noqa: D102
        return (compute_wide(self._apply, a, b, c),)

    def _apply(self, a: Any, b: Any, c: Any) -> Any:
        left, right = (a.T if self.trans_a else a), (b.T if self.trans_b else b)
        whole = np.issubdtype(a.dtype, np.integer)
        product: np.ndarray = exact_matmul(left, right) if whole else np.matmul(left, right)
        if self.alpha != 1:
            product = product * self.alpha
        if c is not None and self.beta != 0:
            product = product + (c if self.beta == 1 else c * self.beta)
        return product.astype(a.dtype)

    def cost(self, inputs: Types, outputs: Types) -> Cost:  # noqa: D102
        out, first = outputs[0], inputs[0]
        assert out is not None and first is not None
        inner = first.static_shape[0 if self.trans_a else 1]
        return Cost(out.size * inner, out.size if len(inputs) > 2 and inputs[2] else 0, traffic(inputs, outputs))


@dataclass(frozen=True)
class MatMulInteger(Op):
    """(A - zero point of A) @ (B - zero point of B) of 8-bit integers, accumulated in int32 with wrap-around.

    A zero point is one value, or one per row of A (of shape [M] or [..., M, 1]), per column of B ([N] or [..., 1, N]).
    """

    def infer(  # noqa: D102
        self, a: TensorType, b: TensorType, a_zero_point: TensorType | None = None, b_zero_point: TensorType | None = None
    ) -> tuple[TensorType, ...]:
        for what, t, zero in (("A", a, a_zero_point), ("B", b, b_zero_point)):
            require(t.dtype.is_integer, f"MatMulInteger's {what} is {t.dtype}, not an integer")
            require(zero is None or zero.dtype == t.dtype, f"MatMulInteger's zero point of {what} is {zero}, its operand {t.dtype}")
        return (TensorType(INT32, product_shape(a.shape, b.shape)),)

    def evaluate(self, a: Any, b: Any, a_zero_point: Any = None, b_zero_point: Any = None) -> tuple[np.ndarray, ...]:  # noqa: D102
        left, right = a.astype(np.int32), b.astype(np.int32)
        if a_zero_point is not None:
            zero = a_zero_point.astype(np.int32)
            left = left - (zero[:, None] if zero.ndim == 1 and zero.size > 1 else zero.reshape(()) if zero.size == 1 else zero)
        if b_zero_point is not None:
            right = right - b_zero_point.astype(np.int32)
        return (exact_matmul(left, right).astype(np.int32),)

    def cost(self, inputs: Types, outputs: Types) -> Cost:  # noqa: D102
        return _product_cost(inputs, outputs)


@dataclass(frozen=True)
class Einsum(Op):
    """Einstein summation, `...` and implicit outputs included."""

    equation: str

    @cached_property
    def parsed(self) -> Equation:
        """The equation, taken apart.

        Raises:
            InferenceError: it is malformed.
        """
        return Equation.parse(self.equation)

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        require(bool(operands), "Einsum needs an operand")
        first = operands[0].dtype
        require(all(t.dtype == first for t in operands), f"Einsum mixes element types {', '.join(str(t.dtype) for t in operands)}")
        terms, output = self.parsed.labels([t.rank for t in operands])
        sizes = label_sizes(terms, [t.shape for t in operands])
        return (TensorType(first, tuple(sizes[label] for label in output)),)

    def evaluate(self, *operands: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        equation = self.equation.replace(" ", "")
        return (compute_wide(lambda *xs: np.einsum(equation, *xs, optimize="greedy"), *operands).astype(operands[0].dtype),)

    def cost(self, inputs: Types, outputs: Types) -> Cost:  # noqa: D102
        present = [t for t in inputs if t is not None]
        terms, _ = self.parsed.labels([t.rank for t in present])
        sizes = label_sizes(terms, [t.shape for t in present])
        return Cost(math.prod(int(d) for d in sizes.values() if isinstance(d, int)), 0, traffic(inputs, outputs))


@dataclass(frozen=True)
class Det(Op):
    """Determinant of the square matrices in the last two axes."""

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        require(x.rank >= 2 and may_equal(x.shape[-1], x.shape[-2]), f"Det takes square matrices, not {x}")
        require(x.dtype.is_float, f"Det takes floats, not {x.dtype}")
        return (TensorType(x.dtype, x.shape[:-2]),)

    def evaluate(self, x: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        return (compute_wide(np.linalg.det, x),)

    def cost(self, inputs: Types, outputs: Types) -> Cost:  # noqa: D102
        x = inputs[0]
        assert x is not None
        order = x.static_shape[-1]
        return Cost(x.size * order // 3, x.size, traffic(inputs, outputs))


def product_shape(a: Sequence[Dim], b: Sequence[Dim]) -> tuple[Dim, ...]:
    """The shape of numpy.matmul's result.

    Raises:
        InferenceError: a scalar, inner sizes that differ, or leading axes that do not broadcast.
    """
    require(len(a) > 0 and len(b) > 0, f"a matrix product takes no scalars, got {shape_text(a)} and {shape_text(b)}")
    require(may_equal(a[-1], b[-2:][0]), f"{shape_text(a)} and {shape_text(b)} differ in their inner size: {a[-1]} and {b[-2:][0]}")
    return (*broadcast_shapes(a[:-2], b[:-2]), *a[-2:-1], *(b[-1:] if len(b) > 1 else ()))


def exact_matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The product of integer arrays, exact modulo 2**64, through floating-point BLAS where no intermediate can be rounded."""
    bound = _magnitude(a) * _magnitude(b) * a.shape[-1]
    if bound >= _EXACT_FLOAT64:
        return np.asarray(np.matmul(a.astype(np.int64), b.astype(np.int64)))
    wide = np.float32 if bound < _EXACT_FLOAT32 else np.float64
    return np.asarray(np.matmul(a.astype(wide), b.astype(wide))).astype(np.int64)


def label_sizes(terms: Sequence[Sequence[str]], shapes: Sequence[Sequence[Dim]]) -> dict[str, Dim]:
    """The size of every label of an Einstein summation; axes of size 1 broadcast.

    Raises:
        InferenceError: one label names axes of different sizes.
    """
    sizes: dict[str, Dim] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for label, dim in zip(term, shape, strict=True):
            known = sizes.setdefault(label, dim)
            require(may_equal(known, dim) or 1 in (known, dim), f"Einsum's label '{label}' names axes of size {known} and {dim}")
            if known == 1 or (isinstance(dim, int) and dim != 1):
                sizes[label] = dim
    return sizes


def _magnitude(array: np.ndarray) -> int:
    return max(abs(int(array.max())), abs(int(array.min()))) if array.size else 0


def _product_cost(inputs: Types, outputs: Types) -> Cost:
    out, first = outputs[0], inputs[0]
    assert out is not None and first is not None
    return Cost(out.size * first.static_shape[-1], 0, traffic(inputs, outputs))
