"""Operators that slide or sample along an axis whose size data decides: what lies behind the actual end must look like their padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from lepton_compiler.errors import UnsupportedError
from lepton_compiler.ir.dim import Dim, SymDim
from lepton_compiler.ir.graph import Node, Value
from lepton_compiler.ops.builder import Builder
from lepton_compiler.passes.bound_sizes.carriers import CARRIERS, as_it_is, lowest, masked_input, require_known
from lepton_compiler.passes.bound_sizes.extents import Extents, number, positions

SAMPLED_ALIKE = frozenset({"half_pixel", "asymmetric"})
"""Ways of placing samples that look at the ratio of the sizes only, not at the sizes."""


def _spatial(node: Node) -> tuple[int, ...]:
    """The axes that windows slide along."""
    rank = node.present_inputs[0].type.rank
    return tuple(range(1, rank - 1)) if getattr(node.op, "layout", "NCHW") == "NHWC" else tuple(range(2, rank))


def _looks_behind(node: Node) -> list[int]:
    """Those of the spatial axes along which a window can reach over the end of the data."""
    op: Any = node.op
    axes = _spatial(node)
    return [axis for k, axis in enumerate(axes) if op.pads[len(axes) + k] != 0 or getattr(op, "ceil_mode", False)]


def _require_static_operands(node: Node) -> None:
    for other in node.present_inputs[1:]:
        require_known(other.type, range(other.type.rank))


def _on_first(extents: Extents, b: Builder, node: Node, first: Value) -> Sequence[Value]:
    """The operator on another first operand."""
    return b.node(node.op.bind(extents.sizes()), [first, *node.inputs[1:]]).outputs


def conv(extents: Extents, b: Builder, node: Node) -> Sequence[Value]:
    """Conv(x)  -->  Conv(x with zeros behind its actual end)"""
    _require_static_operands(node)
    return _on_first(extents, b, node, masked_input(extents, b, node.present_inputs[0], _looks_behind(node), 0))


def conv_integer(extents: Extents, b: Builder, node: Node) -> Sequence[Value]:
    """ConvInteger(x)  -->  ConvInteger(x with its zero point behind its actual end)"""
    _require_static_operands(node)
    x, _, zero, *_ = [*node.inputs, None, None]
    assert x is not None
    fill = b.constant(np.zeros((), x.type.dtype.numpy)) if zero is None else zero if zero.type.rank == 0 else b.Reshape(zero, shape=())
    return _on_first(extents, b, node, extents.clean(b, x, _looks_behind(node), fill))


def conv_transpose(extents: Extents, b: Builder, node: Node) -> Sequence[Value]:
    """ConvTranspose(x)  -->  ConvTranspose(x with zeros behind its actual end): its last elements reach over that end"""
    _require_static_operands(node)
    return _on_first(extents, b, node, masked_input(extents, b, node.present_inputs[0], _spatial(node), 0))


def max_pool(extents: Extents, b: Builder, node: Node) -> Sequence[Value]:
    """MaxPool(x)  -->  MaxPool(x with the smallest number behind its actual end)"""
    x = node.present_inputs[0]
    if len(node.outputs) > 1 and extents.dynamic_axes(x.type):
        raise UnsupportedError("it gives places in a flat array whose sizes data decides")
    return _on_first(extents, b, node, masked_input(extents, b, x, _looks_behind(node), lowest(node, x.type)))


def average_pool(extents: Extents, b: Builder, node: Node) -> Sequence[Value]:
    """AveragePool(x)  -->  the average of x, zeros behind its actual end, divided by the share of each window that is data"""
    op: Any = node.op
    x = node.present_inputs[0]
    axes = [a for a in _looks_behind(node) if not isinstance(x.type.shape[a], int)]
    if not axes:
        return as_it_is(extents, b, node)
    if op.ceil_mode:
        raise UnsupportedError("a last, partial window is averaged over as much as there is, which data decides")
    clean = masked_input(extents, b, x, axes, 0)
    if op.count_include_pad:
        return _on_first(extents, b, node, clean)
    whole = replace(op.bind(extents.sizes()), count_include_pad=True)
    ones = b.Expand(b.constant(np.ones((), x.type.dtype.numpy)), shape=clean.type.static_shape)
    share = b(whole, b.Where(extents.valid(b, x.type, axes), ones, b.constant(np.zeros((), x.type.dtype.numpy))))
    return [b.Div(b(whole, clean), share)]


def resize(extents: Extents, b: Builder, node: Node) -> Sequence[Value]:
    """Resize(x)  -->  Resize(x with its last element repeated behind its actual end): samples beyond the end are those of the end"""
    op: Any = node.op
    x = node.present_inputs[0]
    loose = extents.dynamic_axes(x.type)
    if not loose:
        require_known(node.output.type, range(node.output.type.rank))
    if op.coordinate_transformation_mode not in SAMPLED_ALIKE or op.exclude_outside or op.antialias:
        raise UnsupportedError("where it takes its samples depends on a size that data decides")
    scales = op.scales or tuple(_ratio(a, c) for a, c in zip(x.type.shape, node.output.type.shape, strict=True))
    data = extents.value(x)
    for axis in loose:
        last = b.Max(b.Sub(extents.count(b, x.type.shape[axis]), number(b, 1)), number(b, 0))
        if op.mode != "nearest" or scales[axis] < 1 or op.nearest_mode != "floor" or op.coordinate_transformation_mode != "asymmetric":
            data = b.Gather(data, b.Min(positions(b, data.type.static_shape[axis], 1, 0), last), axis=axis)
    return [b(replace(op.bind(extents.sizes()), scales=scales), data)]


def _ratio(before: Dim, after: Dim) -> float:
    """The factor between two sizes, known though the sizes are not."""
    if isinstance(before, int) and isinstance(after, int):
        return after / max(before, 1)
    if isinstance(before, SymDim) and isinstance(after, SymDim) and len(before.terms) == len(after.terms):
        found = {Fraction(c, d) for (m, d), (n, c) in zip(before.terms, after.terms, strict=True) if m == n}
        if len(found) == 1 and all(m == n for (m, _), (n, _) in zip(before.terms, after.terms, strict=True)):
            return float(found.pop())
    raise UnsupportedError(f"the factor between {before!r} and {after!r} depends on the data")


def pad(extents: Extents, b: Builder, node: Node) -> Sequence[Value]:
    """Pad(x)  -->  along each axis whose size data decides, a gather that knows where the actual end is"""
    op: Any = node.op
    x, *value = node.present_inputs
    rank = x.type.rank
    data = extents.value(x)
    still = [p if isinstance(x.type.shape[k % rank], int) else 0 for k, p in enumerate(op.pads)]
    if any(isinstance(p, SymDim) for p in op.pads):
        raise UnsupportedError("data decides how much it pads")
    fill = value[0] if value else b.constant(np.zeros((), x.type.dtype.numpy))
    for axis in extents.dynamic_axes(x.type):
        if (before := op.pads[axis]) or op.pads[rank + axis]:
            data = _padded_axis(extents, b, x, data, axis, int(before), node, fill)
    return [b(replace(op, pads=tuple(still)), data, *value) if any(still) else data]


def _padded_axis(extents: Extents, b: Builder, x: Value, data: Value, axis: int, before: int, node: Node, fill: Value) -> Value:
    mode = getattr(node.op, "mode")  # noqa: B009
    room = extents.upper(node.output.type.shape[axis])
    count = extents.count(b, x.type.shape[axis])
    place = b.constant(np.arange(room, dtype=np.int64) - before)
    last = b.Max(b.Sub(count, number(b, 1)), number(b, 0))
    source = place
    if mode == "reflect":
        period = b.Max(b.Mul(last, number(b, 2)), number(b, 1))
        turn = b.Mod(place, period)
        source = b.Min(turn, b.Sub(period, turn))
    elif mode == "wrap":
        source = b.Mod(place, b.Max(count, number(b, 1)))
    inside = b.Max(b.Min(source, last), number(b, 0))
    moved = b.Gather(data, b.Min(inside, number(b, max(0, data.type.static_shape[axis] - 1))), axis=axis)
    if mode != "constant":
        return moved
    shape = [1] * x.type.rank
    shape[axis] = room
    valid = b.And(b.GreaterOrEqual(place, number(b, 0)), b.Less(place, count))
    return b.Where(b.Reshape(valid, shape=tuple(shape)), moved, b.Reshape(fill, shape=()) if fill.type.rank else fill)


CARRIERS.update(
    {
        "Conv": conv,
        "ConvInteger": conv_integer,
        "ConvTranspose": conv_transpose,
        "MaxPool": max_pool,
        "AveragePool": average_pool,
        "Resize": resize,
        "Pad": pad,
    }
)
