"""Triangles, one-hot codes and reversed sequences as comparisons of indices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lepton_compiler.ir.dim import Dim
from lepton_compiler.ir.graph import Node, Value
from lepton_compiler.ir.types import INT32, INT64, DType
from lepton_compiler.ops.axes import normal_axis
from lepton_compiler.ops.binary import Add, Equal, GreaterOrEqual, Less, LessOrEqual, Sub, Where
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.cast import Cast
from lepton_compiler.ops.decompose import decomposition
from lepton_compiler.ops.indexing import Gather, GatherElements, OneHot, ReverseSequence, Trilu
from lepton_compiler.ops.shape import Expand, Range, Reshape


@decomposition(Trilu)
def trilu(build: Builder, node: Node) -> Sequence[Value]:
    """Compare row and column numbers, then Where."""
    assert isinstance(node.op, Trilu)
    x = node.inputs[0]
    assert x is not None
    compare = GreaterOrEqual() if node.op.upper else LessOrEqual()
    kept = build(compare, diagonals(build, *x.type.shape[-2:]), build.constant(np.array(node.op.k, np.int64)))
    return [build(Where(), kept, x, build.constant(np.zeros((), x.type.dtype.numpy)))]


def diagonals(build: Builder, rows: Dim, cols: Dim) -> Value:
    """The number of the diagonal that each element of a matrix lies on, int64 [rows, cols]."""
    down = build(Reshape(shape=(rows, 1)), _ladder(build, rows, INT64))
    return build(Sub(), _ladder(build, cols, INT64), down)


def _ladder(build: Builder, size: Dim, kind: DType) -> Value:
    """0, 1, ... `size` - 1."""
    if isinstance(size, int):
        return build.constant(np.arange(size, dtype=kind.numpy))
    return build(Range(start=0, limit=size, delta=1, dtype=kind))


@decomposition(OneHot)
def one_hot(build: Builder, node: Node) -> Sequence[Value]:
    """Compare with a ladder along the new axis, then Where between the two values."""
    assert isinstance(node.op, OneHot)
    indices, values = node.inputs
    assert indices is not None and values is not None
    depth, rank = node.op.depth, indices.type.rank + 1
    axis = normal_axis(node.op.axis, rank)
    whole = indices if indices.type.dtype == INT64 else build(Cast(to=INT64), indices)
    size = (
        build.constant(np.array(depth, np.int64))
        if isinstance(depth, int)
        else build(Range(start=depth, limit=depth + 1, delta=1, dtype=INT64))
    )
    zero = build.constant(np.array(0, np.int64))
    whole = build(Where(), build(Less(), whole, zero), build(Add(), whole, size), whole)
    places = build(Reshape(shape=(*indices.type.shape[:axis], 1, *indices.type.shape[axis:])), whole)
    ladder = build(Reshape(shape=(depth, *(1,) * (rank - 1 - axis))), _ladder(build, depth, INT64))
    off, on = (build(Gather(axis=0), values, build.constant(np.array(i, np.int64))) for i in (0, 1))
    return [build(Where(), build(Equal(), places, ladder), on, off)]


@decomposition(ReverseSequence)
def reverse_sequence(build: Builder, node: Node) -> Sequence[Value]:
    """The source step of each step, then GatherElements along time."""
    assert isinstance(node.op, ReverseSequence)
    x, lengths = node.inputs
    assert x is not None and lengths is not None
    rank = x.type.rank
    batch, time = normal_axis(node.op.batch_axis, rank), normal_axis(node.op.time_axis, rank)
    lengths = lengths if lengths.type.dtype == INT32 else build(Cast(to=INT32), lengths)
    lengths = build(Reshape(shape=_along(rank, batch, x.type.shape[batch])), lengths)
    steps = build(Reshape(shape=_along(rank, time, x.type.shape[time])), _ladder(build, x.type.shape[time], INT32))
    last = build(Sub(), lengths, build.constant(np.array(1, np.int32)))
    source = build(Where(), build(Less(), steps, lengths), build(Sub(), last, steps), steps)
    return [build(GatherElements(axis=time), x, build(Expand(shape=x.type.shape), source))]


def _along(rank: int, axis: int, size: Dim) -> tuple[Dim, ...]:
    return tuple(size if i == axis else 1 for i in range(rank))
