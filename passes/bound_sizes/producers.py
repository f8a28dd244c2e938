"""Operators whose results have a size that data decides, written with operators of static shapes.

Each rule gives the padded results and defines their dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lepton_compiler.errors import UnsupportedError
from lepton_compiler.ir.graph import Node, Value
from lepton_compiler.ir.types import BOOL, FLOAT32, INT64, UINT8
from lepton_compiler.ops.builder import Builder
from lepton_compiler.passes.bound_sizes.extents import Extents, number, positions

Producer = Callable[[Extents, Builder, Node], Sequence[Value]]

PAIRS = 1 << 22
"""Most elements of the comparison of all slices with each other in Unique along an axis."""


def chosen(b: Builder, mask: Value) -> tuple[Value, Value]:
    """The positions in a boolean vector [n] that are true, in order, padded to int64 [n] with zeros; and how many there are."""
    n = mask.type.static_shape[0]
    if n == 0:
        return b.constant(np.zeros(0, np.int64)), number(b, 0)
    rank = b.CumSum(b.Cast(mask, to=INT64), axis=0)
    target = b.Where(mask, b.Sub(rank, number(b, 1)), number(b, n))
    places = b.ScatterElements(b.constant(np.zeros(n + 1, np.int64)), target, positions(b, n, 1, 0), axis=0)
    return b.Slice(places, starts=(0,), ends=(n,), axes=(0,), steps=(1,)), b.Gather(rank, number(b, n - 1), axis=0)


def non_zero(extents: Extents, b: Builder, node: Node) -> Sequence[Value]:
    """NonZero(x)  -->  the positions of the true elements of the flat mask, taken apart into indices"""
    (x,) = node.present_inputs
    source = extents.value(x)
    shape = source.type.static_shape
    mask = source if source.type.dtype == BOOL else b.Cast(source, to=BOOL)
    if axes := extents.dynamic_axes(x.type):
        mask = b.And(mask, extents.valid(b, x.type, axes))
    flat, count = chosen(b, b.Reshape(mask, shape=(math.prod(shape),)))
    rows = []
    for axis, size in enumerate(shape):
        stride = math.prod(shape[axis + 1 :])
        row = b.Mod(b.Div(flat, number(b, max(1, stride))), number(b, max(1, size)))
        rows.append(b.Unsqueeze(row, axes=(0,)))
    extents.define(node.output.type.shape[1], math.prod(shape), count)
    return [b.Concat(*rows, axis=0) if rows else b.constant(np.zeros((0, 1), np.int64))]


def compress(extents: Extents, b: Builder, node: Node) -> Sequence[Value]:
    """Compress(x, condition)  -->  Gather(x, positions where it is true)"""
    x, condition = node.present_inputs
    axis = getattr(node.op, "axis")  # noqa: B009
    data, mask = extents.value(x), extents.value(condition)
    if axis is None and extents.dynamic_axes(x.type):
        raise UnsupportedError("its operand is flattened, and data decides more than its first dimension")
    if dynamic := extents.dynamic_axes(condition.type):
        mask = b.And(mask, extents.valid(b, condition.type, dynamic))
    if axis is None:
        data, axis = b.Reshape(data, shape=(data.type.size,)), 0
    axis %= data.type.rank
    bound = min(mask.type.static_shape[0], data.type.static_shape[axis])
    mask = b.Slice(mask, starts=(0,), ends=(bound,), axes=(0,), steps=(1,))
    indices, count = chosen(b, mask)
    extents.define(node.output.type.shape[axis], bound, count)
    return [b.Gather(data, indices, axis=axis)]


def unique(extents: Extents, b: Builder, node: Node) -> Sequence[Value]:
    """Unique(x)  -->  sort; where a sorted element differs from the one before it, a new group begins"""
    (x,) = node.present_inputs
    op: Any = node.op
    if extents.dynamic_axes(x.type):
        raise UnsupportedError("data decides the size of its operand")
    source = extents.value(x)
    if op.axis is None:
        rows = b.Reshape(source, shape=(source.type.size,))
        order, begins = _sorted_elements(b, rows)
        axis = 0
    else:
        axis = op.axis % x.type.rank
        rows = b.Transpose(source, perm=(axis, *(a for a in range(x.type.rank) if a != axis)))
        order, begins = _sorted_slices(b, rows)
    n = rows.type.static_shape[0]
    group = b.Sub(b.CumSum(b.Cast(begins, to=INT64), axis=0), number(b, 1))
    starts, count = chosen(b, begins)
    first = b.Gather(order, starts, axis=0)
    zeros = b.constant(np.zeros(n, np.int64))
    inverse = b.ScatterElements(zeros, order, group, axis=0)
    repeats = b.ScatterElements(zeros, group, b.constant(np.ones(n, np.int64)), axis=0, reduction="add")
    if not op.sorted:
        ladder = positions(b, n, 1, 0)
        key = b.Where(b.Less(ladder, count), first, b.Add(ladder, number(b, n)))
        place = b.node(_top_k(n), [key]).outputs[1]
        first, repeats = b.Gather(first, place, axis=0), b.Gather(repeats, place, axis=0)
        inverse = b.Gather(b.ScatterElements(zeros, place, ladder, axis=0), inverse, axis=0)
    found = b.Gather(rows, first, axis=0)
    if axis:
        found = b.Transpose(found, perm=tuple(np.argsort([axis, *(a for a in range(x.type.rank) if a != axis)]).tolist()))
    for dim in (node.outputs[0].type.shape[axis], node.outputs[1].type.shape[0], node.outputs[3].type.shape[0]):
        extents.define(dim, n, count)
    return [found, first, inverse, repeats]


def _top_k(k: int) -> Any:
    from lepton_compiler import ops

    return ops.get("TopK")(k=k, axis=0, largest=False, sorted=True)  # type: ignore[call-arg]


def _sorted_elements(b: Builder, x: Value) -> tuple[Value, Value]:
    """For a vector: the order that sorts it, equal elements as they come, and where in that order a new value begins."""
    n = x.type.static_shape[0]
    key = x
    if x.type.dtype == BOOL:
        key = b.Cast(x, to=UINT8)
    elif x.type.dtype.is_float and x.type.dtype.bits < FLOAT32.bits:
        key = b.Cast(x, to=FLOAT32)
    ordered, order = b.node(_top_k(n), [key]).outputs
    before = b.Slice(ordered, starts=(0,), ends=(max(n - 1, 0),), axes=(0,), steps=(1,))
    after = b.Slice(ordered, starts=(1,), ends=(n,), axes=(0,), steps=(1,))
    same = b.Equal(before, after)
    if key.type.dtype.is_float:
        same = b.Or(same, b.And(b.IsNaN(before), b.IsNaN(after)))
    return order, b.Concat(b.constant(np.ones(min(n, 1), np.bool_)), b.Not(same), axis=0)


def _sorted_slices(b: Builder, rows: Value) -> tuple[Value, Value]:
    """The same for slices [n, ...] in lexicographic order: each is compared with each other one."""
    n, *rest = rows.type.static_shape
    m = math.prod(rest)
    if n * n * m > PAIRS:
        raise UnsupportedError(f"comparing {n} slices of {m} elements with each other takes more than {PAIRS} comparisons")
    if n == 0 or m == 0:
        raise UnsupportedError("slices without elements are all equal")
    flat = b.Reshape(b.Cast(rows, to=UINT8) if rows.type.dtype == BOOL else rows, shape=(n, m))
    one, other = b.Unsqueeze(flat, axes=(1,)), b.Unsqueeze(flat, axes=(0,))
    differs = b.Cast(b.Not(b.Equal(one, other)), to=UINT8)
    where = b.ArgMax(differs, axis=2, keepdims=True)
    less = b.Squeeze(b.GatherElements(b.Cast(b.Less(one, other), to=UINT8), where, axis=2), axes=(2,))
    equal = b.Not(b.Cast(b.ReduceMax(differs, axes=(2,), keepdims=False), to=BOOL))
    earlier = b.constant(np.arange(n)[:, None] < np.arange(n)[None, :])
    ahead = b.Or(b.Cast(less, to=BOOL), b.And(equal, earlier))
    rank = b.ReduceSum(b.Cast(ahead, to=INT64), axes=(0,), keepdims=False)
    order = b.ScatterElements(b.constant(np.zeros(n, np.int64)), rank, positions(b, n, 1, 0), axis=0)
    repeated = b.And(equal, earlier)
    first = b.Not(b.Cast(b.ReduceMax(b.Cast(repeated, to=UINT8), axes=(0,), keepdims=False), to=BOOL))
    return order, b.Cast(b.Gather(b.Cast(first, to=UINT8), order, axis=0), to=BOOL)


def late_slice(extents: Extents, b: Builder, node: Node) -> Sequence[Value]:
    """Slice whose bounds are computed at run time  -->  Gather(x, start + 0, 1, ...), as many as there are before the end"""
    op: Any = node.op
    x, *late = node.inputs
    assert x is not None
    if not x.type.is_static or any(v is not None and not v.type.is_static for v in late):
        raise UnsupportedError("data decides the size of its operand as well as what is cut out of it")
    given = dict(zip(op.params, late, strict=True))
    if given.keys() - {"starts", "ends"}:
        raise UnsupportedError("its axes or steps are computed at run time", hint="make them constants of the model")
    template = op.template
    result, length = x, max(v.type.size for v in given.values() if v is not None)
    axes = template.axes or tuple(range(length))
    for k, axis in enumerate(axes):
        size, step = x.type.static_shape[axis], template.steps[k] if template.steps else 1
        if step < 1:
            raise UnsupportedError("it goes backwards, from where is computed at run time")
        first = _late_bound(b, given.get("starts"), template.starts, k, size)
        last = _late_bound(b, given.get("ends"), template.ends, k, size)
        room = b.Add(b.Sub(last, first), number(b, step - 1))
        count = b.Div(b.Max(room, number(b, 0)), number(b, step))
        bound = -(-size // step)
        place = b.Add(b.Mul(positions(b, bound, 1, 0), number(b, step)), first)
        result = b.Gather(result, b.Min(place, number(b, max(0, size - 1))), axis=axis)
        extents.define(node.output.type.shape[axis], bound, count)
    return [result]


def _late_bound(b: Builder, late: Value | None, known: Sequence[Any], k: int, size: int) -> Value:
    """Start or end k of a slice: counted from the end where negative, and kept inside the axis."""
    if late is None:
        return number(b, slice(0, int(known[k])).indices(size)[1])
    bound = b.Cast(b.Gather(b.Reshape(late, shape=(late.type.size,)), number(b, k), axis=0), to=INT64)
    bound = b.Where(b.Less(bound, number(b, 0)), b.Add(bound, number(b, size)), bound)
    return b.Max(number(b, 0), b.Min(bound, number(b, size)))


def late_top_k(extents: Extents, b: Builder, node: Node) -> Sequence[Value]:
    """TopK whose k is computed at run time  -->  TopK of all, of which the first k count"""
    op: Any = node.op
    x, k = node.present_inputs
    if not x.type.is_static:
        raise UnsupportedError("data decides the size of its operand as well as how much of it is wanted")
    axis = op.template.axis % x.type.rank
    size = x.type.static_shape[axis]
    count = b.Max(number(b, 0), b.Min(b.Cast(b.Reshape(k, shape=()), to=INT64), number(b, size)))
    for out in node.outputs:
        extents.define(out.type.shape[axis], size, count)
    return b.node(replace(op.template, k=size), [x]).outputs


def template_name(node: Node) -> str:
    """The operator's name; that of its template in parentheses for a `Dynamic`."""
    template = getattr(node.op, "template", None)
    return node.op.name if template is None else f"{node.op.name}({template.name})"


PRODUCERS: dict[str, Producer] = {
    "NonZero": non_zero,
    "Compress": compress,
    "Unique": unique,
    "Dynamic(Slice)": late_slice,
    "Dynamic(TopK)": late_top_k,
}
