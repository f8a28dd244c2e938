"""Matrix products with extras in terms of MatMul."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from lepton_compiler.ir.dim import Dim
from lepton_compiler.ir.graph import Node, Value
from lepton_compiler.ir.types import INT32, INT64
from lepton_compiler.ops import matmul as ops
from lepton_compiler.ops.broadcasting import broadcast_dim
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.decompose import as_type, decomposition, decomposition_in_float32, wide
from lepton_compiler.ops.decompositions.whole import whole_data, whole_weights

Labels = tuple[str, ...]


@decomposition_in_float32(ops.Gemm)
def _(build: Builder, op: ops.Gemm, a: Value, b: Value, c: Value | None = None) -> Value:
    a = build.Transpose(a, perm=(1, 0)) if op.trans_a else a
    b = build.Transpose(b, perm=(1, 0)) if op.trans_b else b
    product = build.MatMul(a, b)
    if op.alpha != 1:
        product = build.Mul(product, op.alpha)
    if c is None or op.beta == 0:
        return product
    return build.Add(product, c if op.beta == 1 else build.Mul(c, op.beta))


@decomposition(ops.MatMulInteger)
def _(build: Builder, node: Node) -> Sequence[Value]:
    a, b, a_zero, b_zero = (*node.inputs, None, None)[:4]
    assert a is not None and b is not None
    if a_zero is not None:
        rows = a_zero.type.rank == 1 and a_zero.type.shape[0] != 1
        a_zero = build.Reshape(a_zero, shape=(a_zero.type.shape[0], 1)) if rows else _at_most_rank(build, a_zero, a)
    if b_zero is not None:
        b_zero = _at_most_rank(build, b_zero, b)
    whole = whole_weights(build, b, b_zero, (b.type.rank - 2,)) if b.type.rank >= 2 else None
    if whole is not None and a.type.dtype.bits == 8:
        return [as_type(build, build.MatMul(whole_data(build, a, a_zero), whole), INT32)]
    left, right = as_type(build, a, INT32), as_type(build, b, INT32)
    if a_zero is not None:
        left = build.Sub(left, as_type(build, a_zero, INT32))
    if b_zero is not None:
        right = build.Sub(right, as_type(build, b_zero, INT32))
    return [build.MatMul(left, right)]


def _at_most_rank(build: Builder, zero: Value, operand: Value) -> Value:
    if zero.type.rank <= operand.type.rank and zero.type.shape != (1,):
        return zero
    return build.Reshape(zero, shape=()) if zero.tensor is None else build.constant(zero.numpy().reshape(()))


@decomposition(ops.Einsum)
def _(build: Builder, node: Node) -> Sequence[Value]:
    op, operands = node.op, node.present_inputs
    assert isinstance(op, ops.Einsum)
    terms, output = op.parsed.labels([v.type.rank for v in operands])
    factors = [_diagonal(build, wide(build, v), term) for v, term in zip(operands, terms, strict=True)]
    while len(factors) > 1:
        i, j = _smallest_product(factors, output)
        right, left = factors.pop(j), factors.pop(i)
        factors.append(_contract(build, left, right, _needed(factors, output)))
    result, kept = _sum_out(build, *factors[0], set(output))
    perm = tuple(kept.index(label) for label in output)
    result = build.Transpose(result, perm=perm) if perm != tuple(range(len(perm))) else result
    return [as_type(build, result, node.output.type.dtype)]


def _diagonal(build: Builder, value: Value, labels: Labels) -> tuple[Value, Labels]:
    """Keep, of axes with the same label, the elements with equal indices."""
    for label in dict.fromkeys(labels):
        while labels.count(label) > 1:
            first = labels.index(label)
            second = labels.index(label, first + 1)
            rank, size = len(labels), value.type.shape[first]
            places = build.Range(start=0, limit=size, delta=1, dtype=INT64)
            along = [build.Reshape(places, shape=tuple(size if i == axis else 1 for i in range(rank))) for axis in (first, second)]
            kept = build.Where(build.Equal(*along), value, build.constant(0, value))
            value = build.ReduceSum(kept, axes=(second,), keepdims=False)
            labels = (*labels[:second], *labels[second + 1 :])
    return value, labels


def _sum_out(build: Builder, value: Value, labels: Labels, needed: set[str]) -> tuple[Value, Labels]:
    """Sum over the axes that nobody needs any more."""
    axes = tuple(i for i, label in enumerate(labels) if label not in needed)
    return (build.ReduceSum(value, axes=axes, keepdims=False) if axes else value), tuple(label for label in labels if label in needed)


def _needed(factors: Sequence[tuple[Value, Labels]], output: Labels) -> set[str]:
    return set(output).union(*(labels for _, labels in factors))


def _smallest_product(factors: Sequence[tuple[Value, Labels]], output: Labels) -> tuple[int, int]:
    """The two operands to multiply first: those with the smallest product, the first of equals (unknown sizes count as 64)."""

    def size(pair: tuple[int, int]) -> int:
        rest = [f for k, f in enumerate(factors) if k not in pair]
        sizes = {label: d for k in pair for label, d in zip(factors[k][1], factors[k][0].type.shape, strict=True) if d != 1}
        return math.prod(d if isinstance(d, int) else 64 for label, d in sizes.items() if label in _needed(rest, output))

    return min(itertools.combinations(range(len(factors)), 2), key=size)


def _contract(build: Builder, left: tuple[Value, Labels], right: tuple[Value, Labels], later: set[str]) -> tuple[Value, Labels]:
    """The product of two operands; the result's labels are the shared kept ones, then the left's, then the right's.

    A batched matrix product; where no axis is summed, or each result is one inner product, the elements' products, summed.
    """
    a, a_labels = _sum_out(build, *left, later | set(right[1]))
    b, b_labels = _sum_out(build, *right, later | set(a_labels))
    sizes_a, sizes_b = dict(zip(a_labels, a.type.shape, strict=True)), dict(zip(b_labels, b.type.shape, strict=True))
    shared = [label for label in a_labels if label in sizes_b]
    batch = tuple(label for label in shared if label in later)
    inner = tuple(label for label in shared if label not in later)
    rows = tuple(label for label in a_labels if label not in shared)
    columns = tuple(label for label in b_labels if label not in shared)
    if not inner or not (rows or columns):
        return _by_element(build, (a, a_labels), (b, b_labels), (*batch, *rows, *columns), inner)
    for label in inner:  # one of the operands broadcasts along the axis that is summed
        size = broadcast_dim(sizes_a[label], sizes_b[label])
        a = _stretched(build, a, a_labels.index(label), size)
        b = _stretched(build, b, b_labels.index(label), size)
        sizes_a[label] = sizes_b[label] = size
    head_a, head_b = tuple(sizes_a[label] for label in batch), tuple(sizes_b[label] for label in batch)
    depth = _product([sizes_a[label] for label in inner])
    a = _matrix(build, a, a_labels, (*batch, *rows, *inner), (*head_a, _product([sizes_a[label] for label in rows]), depth))
    b = _matrix(build, b, b_labels, (*batch, *inner, *columns), (*head_b, depth, _product([sizes_b[label] for label in columns])))
    product = build.MatMul(a, b)
    shape = (*product.type.shape[: len(batch)], *(sizes_a[label] for label in rows), *(sizes_b[label] for label in columns))
    result = build.Reshape(product, shape=shape) if shape != product.type.shape else product
    return result, (*batch, *rows, *columns)


def _by_element(
    build: Builder, left: tuple[Value, Labels], right: tuple[Value, Labels], kept: Labels, summed: Labels
) -> tuple[Value, Labels]:
    """`left * right` with axes aligned, summed over the axes `summed`."""
    order, factors = (*kept, *summed), []
    for value, labels in (left, right):
        sizes = dict(zip(labels, value.type.shape, strict=True))
        own = tuple(label for label in order if label in sizes)
        factors.append(_matrix(build, value, labels, own, tuple(sizes.get(label, 1) for label in order)))
    return _sum_out(build, build.Mul(*factors), order, set(kept))


def _matrix(build: Builder, value: Value, labels: Labels, order: Labels, shape: tuple[Dim, ...]) -> Value:
    """`value` with its axes in `order`, folded to `shape`."""
    perm = tuple(labels.index(label) for label in order)
    value = build.Transpose(value, perm=perm) if perm != tuple(range(len(perm))) else value
    return build.Reshape(value, shape=shape) if value.type.shape != shape else value


def _stretched(build: Builder, value: Value, axis: int, size: Dim) -> Value:
    if value.type.shape[axis] == size:
        return value
    return build.Expand(value, shape=(*value.type.shape[:axis], size, *value.type.shape[axis + 1 :]))


def _product(sizes: Sequence[Dim]) -> Dim:
    total: Dim = 1
    for size in sizes:
        total = total * size
    return total
