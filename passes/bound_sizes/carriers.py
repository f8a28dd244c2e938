"""Operators on padded values: what can be computed on the whole buffer, and what needs its unused part masked first.

A rule gets the node and gives its results on the padded operands. What lies behind the actual size of a result means nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lepton_compiler.errors import UnsupportedError
from lepton_compiler.ir.dim import Dim, SymDim
from lepton_compiler.ir.graph import Node, Value
from lepton_compiler.ir.types import TensorType
from lepton_compiler.ops.builder import Builder
from lepton_compiler.passes.bound_sizes.extents import Extents, number, positions

Carrier = Callable[[Extents, Builder, Node], Sequence[Value]]

ELEMENTWISE_FAMILIES = frozenset({"unary", "activation", "binary", "cast"})


def rule_for(node: Node) -> Carrier | None:
    """The rule of an operator, if it has one."""
    family = type(node.op).__module__.rpartition(".")[2]
    return elementwise if family in ELEMENTWISE_FAMILIES else CARRIERS.get(node.op.name)


def as_it_is(extents: Extents, b: Builder, node: Node) -> Sequence[Value]:
    """The same operator on the whole buffers."""
    operands = [None if v is None else extents.value(v) for v in node.inputs]
    return b.node(node.op.bind(extents.sizes()), operands).outputs


def elementwise(extents: Extents, b: Builder, node: Node) -> Sequence[Value]:
    """Element-wise operators, where operands agree in which dimensions data decides."""
    rank = node.output.type.rank
    for axis in range(-rank, 0):
        sizes = {v.type.shape[axis] for v in node.present_inputs if v.type.rank >= -axis} - {1}
        if len(sizes) > 1:
            raise UnsupportedError(
                f"its operands have {' and '.join(sorted(map(str, sizes)))} elements along an axis, equal only if data wills"
            )
    return as_it_is(extents, b, node)


def along_other_axes(*fields: str) -> Carrier:
    """Operators that treat the slices along the axes in their attributes `fields` one by one; those axes must have known sizes."""

    def rule(extents: Extents, b: Builder, node: Node) -> Sequence[Value]:
        x = node.present_inputs[0]
        require_known(x.type, _axes(node, fields, x.type.rank))
        for other in node.present_inputs[1:]:
            require_known(other.type, range(other.type.rank))
        return as_it_is(extents, b, node)

    return rule


def on_first_axes(kept: int) -> Carrier:
    """Operators on batches: the first `kept` axes of the first operand are independent."""

    def rule(extents: Extents, b: Builder, node: Node) -> Sequence[Value]:
        x, *others = node.present_inputs
        require_known(x.type, range(kept, x.type.rank))
        for other in others:
            require_known(other.type, range(other.type.rank))
        return as_it_is(extents, b, node)

    return rule


def masked(fill: Callable[[Node, TensorType], float]) -> Carrier:
    """Reductions: what lies behind the actual size becomes the neutral element."""

    def rule(extents: Extents, b: Builder, node: Node) -> Sequence[Value]:
        x = node.present_inputs[0]
        axes = [a for a in _axes(node, ("axes", "axis"), x.type.rank) if not isinstance(x.type.shape[a], int)]
        if not axes:
            return as_it_is(extents, b, node)
        clean = masked_input(extents, b, x, axes, fill(node, x.type))
        return b.node(node.op.bind(extents.sizes()), [clean, *node.inputs[1:]]).outputs

    return rule


def mean(extents: Extents, b: Builder, node: Node) -> Sequence[Value]:
    """ReduceMean(x)  -->  ReduceSum(x masked) / actual number of elements"""
    x = node.present_inputs[0]
    axes = _axes(node, ("axes",), x.type.rank)
    if all(isinstance(x.type.shape[a], int) for a in axes):
        return as_it_is(extents, b, node)
    if not x.type.dtype.is_float or x.type.dtype.bits < 32:
        raise UnsupportedError("the mean of such elements over a size that data decides is rounded in another way")
    total = b.ReduceSum(masked_input(extents, b, x, axes, 0), axes=tuple(axes), keepdims=getattr(node.op, "keepdims"))  # noqa: B009
    size: Dim = 1
    for axis in axes:
        size = x.type.shape[axis] * size
    return [b.Div(total, b.Cast(extents.count(b, size), to=x.type.dtype))]


def masked_input(extents: Extents, b: Builder, x: Value, axes: Sequence[int], fill: float) -> Value:
    """The padded `x` with `fill` behind the actual size along `axes`."""
    return extents.clean(b, x, axes, b.constant(np.asarray(fill).astype(x.type.dtype.numpy)))


def matmul(extents: Extents, b: Builder, node: Node) -> Sequence[Value]:
    """MatMul; the contracted axis is masked in both operands."""
    x, y = node.present_inputs
    require_same_batches(x.type, y.type)
    contracted = y.type.rank - 2 if y.type.rank > 1 else 0
    left = masked_input(extents, b, x, [x.type.rank - 1], 0)
    right = masked_input(extents, b, y, [contracted], 0)
    return [b(node.op, left, right)]


def gemm(extents: Extents, b: Builder, node: Node) -> Sequence[Value]:
    """Gemm; the contracted axis is masked in both operands."""
    op: Any = node.op
    x, y, *rest = node.present_inputs
    left = masked_input(extents, b, x, [0 if op.trans_a else 1], 0)
    right = masked_input(extents, b, y, [1 if op.trans_b else 0], 0)
    return [b(node.op, left, right, *(extents.value(v) for v in rest))]


def gather(extents: Extents, b: Builder, node: Node) -> Sequence[Value]:
    """Gather; negative indices count from the actual end."""
    op: Any = node.op
    x, indices = node.present_inputs
    size = x.type.shape[op.axis % x.type.rank]
    where = extents.value(indices)
    if not isinstance(size, int):
        zero = b.constant(np.zeros((), indices.type.dtype.numpy))
        end = b.Cast(extents.count(b, size), to=indices.type.dtype)
        where = b.Where(b.Less(where, zero), b.Add(where, end), where)
    return [b(node.op, extents.value(x), where)]


def gather_elements(extents: Extents, b: Builder, node: Node) -> Sequence[Value]:
    """GatherElements and GatherND along axes of known size."""
    x, indices = node.present_inputs
    require_known(x.type, range(x.type.rank))
    return [b(node.op, x, extents.value(indices))]


def concat(extents: Extents, b: Builder, node: Node) -> Sequence[Value]:
    """Concat; along an axis whose size data decides, a gather skips the unused parts."""
    parts = node.present_inputs
    axis = getattr(node.op, "axis") % parts[0].type.rank  # noqa: B009
    sizes = [v.type.shape[axis] for v in parts]
    joined = b(node.op, *(extents.value(v) for v in parts))
    if all(isinstance(d, int) for d in sizes[:-1]):
        return [joined]
    total = sum(extents.upper(d) for d in sizes)
    place = positions(b, total, 1, 0)
    source, offset, begin = place, 0, number(b, 0)
    for k, size in enumerate(sizes):
        if k:
            moved = b.Add(b.Sub(place, begin), number(b, offset))
            source = b.Where(b.GreaterOrEqual(place, begin), moved, source)
        offset += extents.upper(size)
        begin = b.Add(begin, extents.count(b, size))
    return [b.Gather(joined, b.Min(source, number(b, max(0, total - 1))), axis=axis)]


def slices(extents: Extents, b: Builder, node: Node) -> Sequence[Value]:
    """Slice; along an axis whose size data decides, positions are counted from its actual ends."""
    op: Any = node.op.bind(extents.sizes())
    x = node.present_inputs[0]
    data = extents.value(x)
    axes = op.axes or tuple(range(len(op.starts)))
    steps = op.steps or (1,) * len(op.starts)
    original: Any = node.op
    for start, end, axis, step in zip(original.starts, original.ends, axes, steps, strict=True):
        axis %= x.type.rank
        size = x.type.shape[axis]
        if isinstance(size, int) and isinstance(start, int) and isinstance(end, int):
            data = b.Slice(data, starts=(start,), ends=(end,), axes=(axis,), steps=(step,))
            continue
        if step < 0:
            raise UnsupportedError("it goes backwards along an axis whose size data decides")
        _require_inside(extents, size, start, end, node)
        bound = extents.upper(node.output.type.shape[axis])
        if isinstance(start, int) and start >= 0:
            data = b.Slice(data, starts=(start,), ends=(start + bound * step,), axes=(axis,), steps=(step,))
            continue
        first = _from_end(extents, b, start, size)
        place = b.Add(b.Mul(positions(b, bound, 1, 0), number(b, step)), first)
        last = number(b, max(0, data.type.static_shape[axis] - 1))
        data = b.Gather(data, b.Min(place, last), axis=axis)
    return [data]


def _require_inside(extents: Extents, size: Dim, start: Dim, end: Dim, node: Node) -> None:
    """Types take symbolic bounds of slices to lie inside the axis, unless they are always behind it: here that must be certain."""
    for bound in (start, end):
        if not isinstance(bound, SymDim) or all(factor < 0 for _, factor in bound.terms):
            continue
        low, high = extents.interval(size - bound)
        if low < 0 < high:
            raise UnsupportedError(f"it cuts at {bound!r} of {size!r}, which may lie behind the end")


def _from_end(extents: Extents, b: Builder, start: Dim, size: Dim) -> Value:
    """Where a slice starts, as an actual position."""
    count = extents.count(b, size)
    if isinstance(start, int):
        inside = b.Add(count, number(b, start)) if start < 0 else number(b, start)
        return b.Max(number(b, 0), b.Min(inside, count))
    place = extents.count(b, start)
    return b.Max(number(b, 0), b.Min(b.Where(b.Less(place, number(b, 0)), b.Add(place, count), place), count))


def reshape(extents: Extents, b: Builder, node: Node) -> Sequence[Value]:
    """Reshape, Squeeze, Unsqueeze: what is in use stays where it is, or is moved to the front first."""
    x = node.present_inputs[0]
    before, after = x.type, node.output.type
    shape = tuple(extents.upper(d) for d in after.shape)
    if _keeps_places(before.shape, after.shape):
        return [b.Reshape(extents.value(x), shape=shape)]
    if any(not isinstance(d, int) for d in after.shape[1:]):
        raise UnsupportedError(f"it rearranges {before} to {after}, whose sizes data decides")
    flat = compacted(extents, b, x)
    room = int(np.prod(shape, dtype=np.int64))
    missing = room - flat.type.size
    flat = b.Pad(flat, pads=(0, missing)) if missing > 0 else b.Slice(flat, starts=(0,), ends=(room,), axes=(0,), steps=(1,))
    return [b.Reshape(flat, shape=shape)]


def _keeps_places(before: Sequence[Dim], after: Sequence[Dim]) -> bool:
    """Whether each element in use has the same flat position in both buffers: all that data decides comes first, or is one equal axis."""
    if all(isinstance(d, int) for d in (*before[1:], *after[1:])):
        return True
    loose = [(k, d) for k, d in enumerate(before) if not isinstance(d, int)]
    others = [(k, d) for k, d in enumerate(after) if not isinstance(d, int)]
    if [d for _, d in loose] != [d for _, d in others]:
        return False
    edges = [[0, *(k for k, _ in found), len(shape)] for found, shape in ((loose, before), (others, after))]
    return all(
        _product(before[a:b]) == _product(after[c:d])
        for (a, b), (c, d) in zip(*([(e[k] + (k > 0), e[k + 1]) for k in range(len(e) - 1)] for e in edges), strict=True)
    )


def _product(dims: Sequence[Dim]) -> int:
    return int(np.prod([d for d in dims if isinstance(d, int)], dtype=np.int64))


def compacted(extents: Extents, b: Builder, x: Value) -> Value:
    """The elements in use of a value, in order, at the front of a flat buffer."""
    source = extents.value(x)
    shape = source.type.static_shape
    flat = b.Reshape(source, shape=(source.type.size,))
    if source.type.size == 0 or _leads(x.type.shape):
        return flat
    rest: Value = positions(b, source.type.size, 1, 0)
    place: Value = number(b, 0)
    stride = 1
    for axis in reversed(range(len(shape))):
        if axis == 0:
            index = rest
        else:
            size = b.Max(extents.count(b, x.type.shape[axis]), number(b, 1))
            index, rest = b.Mod(rest, size), b.Div(rest, size)
        place = b.Add(b.Mul(index, number(b, stride)), place)
        stride *= shape[axis]
    return b.Gather(flat, b.Min(place, number(b, source.type.size - 1)), axis=0)


def _leads(shape: Sequence[Dim]) -> bool:
    """Whether only the first dimension of more than one element has a size that data decides."""
    first = next((k for k, d in enumerate(shape) if d != 1), 0)
    return all(isinstance(d, int) for d in shape[first + 1 :])


def filled(extents: Extents, b: Builder, node: Node) -> Sequence[Value]:
    """ConstantOfShape, Expand, Tile and Range of a size that data decides: the first elements of the largest one."""
    return as_it_is(extents, b, node)


def cumulative(extents: Extents, b: Builder, node: Node) -> Sequence[Value]:
    """CumSum and CumProd; backwards, what lies behind the actual end must not count."""
    op: Any = node.op
    x = node.present_inputs[0]
    axis = op.axis % x.type.rank
    data = masked_input(extents, b, x, [axis], 1 if op.name == "CumProd" else 0) if op.reverse else extents.value(x)
    return [b(replace(op), data)]


def _axes(node: Node, fields: Sequence[str], rank: int) -> list[int]:
    found: list[int] = []
    for field in fields:
        given = getattr(node.op, field, None)
        if given is not None:
            found += [a % rank for a in (given if isinstance(given, tuple) else (given,))]
    return found


def require_known(type: TensorType, axes: Sequence[int]) -> None:
    """Refuse axes whose size data decides.

    Raises:
        UnsupportedError: there is one.
    """
    for axis in axes:
        if not isinstance(type.shape[axis], int):
            raise UnsupportedError(f"data decides the size of axis {axis} of {type}, which it needs to know")


def require_same_batches(x: TensorType, y: TensorType) -> None:
    """Refuse products of batches of which data decides whether they are equal.

    Raises:
        UnsupportedError: there are such.
    """
    for a, c in zip(reversed(x.shape[:-2]), reversed(y.shape[:-2]), strict=False):
        if a != c and 1 not in (a, c):
            raise UnsupportedError(f"it multiplies batches of {a} and {c} matrices, equal only if data wills")


def lowest(node: Node, type: TensorType) -> float:
    """The smallest number of an element type."""
    return -np.inf if type.dtype.is_float else 0 if type.dtype.kind == "bool" else int(np.iinfo(type.dtype.numpy).min)


def highest(node: Node, type: TensorType) -> float:
    """The largest number of an element type."""
    return np.inf if type.dtype.is_float else 1 if type.dtype.kind == "bool" else int(np.iinfo(type.dtype.numpy).max)


_zero, _one, _minus_infinity = masked(lambda n, t: 0), masked(lambda n, t: 1), masked(lambda n, t: -np.inf)

CARRIERS: dict[str, Carrier] = {
    **dict.fromkeys(("ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum"), _zero),
    "ReduceProd": _one,
    **dict.fromkeys(("ReduceLogSumExp", "Softmax", "LogSoftmax"), _minus_infinity),
    "ReduceMax": masked(lowest),
    "ReduceMin": masked(highest),
    "ReduceMean": mean,
    "MatMul": matmul,
    "Gemm": gemm,
    "Gather": gather,
    **dict.fromkeys(("GatherElements", "GatherND"), gather_elements),
    "Concat": concat,
    "Slice": slices,
    **dict.fromkeys(("Reshape", "Squeeze", "Unsqueeze"), reshape),
    **dict.fromkeys(("ConstantOfShape", "Expand", "Range", "Transpose"), filled),
    **dict.fromkeys(("CumSum", "CumProd"), cumulative),
    **dict.fromkeys(("TopK", "ArgMax", "ArgMin", "Split", "Hardmax", "DequantizeLinear", "QuantizeLinear"), along_other_axes("axis")),
    **dict.fromkeys(("BatchNormalization", "DepthToSpace"), on_first_axes(1)),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), on_first_axes(2)),
}
