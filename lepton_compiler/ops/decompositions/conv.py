"""Convolutions of other kinds: integers on int32, columns back to images by scattering, learnt offsets by sampling first."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lepton_compiler.errors import UnsupportedError
from lepton_compiler.ir.graph import Node, Value
from lepton_compiler.ir.types import INT32, INT64
from lepton_compiler.ops import conv as ops
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.decompose import as_type, decomposition, wide
from lepton_compiler.ops.decompositions.whole import whole_data, whole_weights
from lepton_compiler.ops.indexing import Slice
from lepton_compiler.ops.shape import ConstantOfShape, Reshape
from lepton_compiler.ops.window import ints


@decomposition(ops.ConvInteger)
def _(build: Builder, node: Node) -> Sequence[Value]:
    op = node.op
    assert isinstance(op, ops.ConvInteger)
    x, w, x_zero, w_zero = (*node.inputs, None, None)[:4]
    assert x is not None and w is not None
    conv = ops.Conv(strides=op.strides, pads=op.pads, dilations=op.dilations, groups=op.groups, layout=op.layout)
    x_zero = None if x_zero is None else _scalar(build, x_zero)
    w_zero = None if w_zero is None else _per_channel(build, w_zero, w.type.rank)
    whole = whole_weights(build, w, w_zero, tuple(range(1, w.type.rank)))
    if whole is not None and x.type.dtype.bits == 8:
        return [as_type(build, build(conv, whole_data(build, x, x_zero), whole), INT32)]
    data, weights = as_type(build, x, INT32), as_type(build, w, INT32)
    if x_zero is not None:
        data = build.Sub(data, as_type(build, x_zero, INT32))
    if w_zero is not None:
        weights = build.Sub(weights, as_type(build, w_zero, INT32))
    return [build(conv, data, weights)]


def _per_channel(build: Builder, zero: Value, rank: int) -> Value:
    """Zero points of output channels, in a shape that broadcasts to weights; one for all as a scalar."""
    if zero.type.rank != 1 or zero.type.shape[0] == 1:
        return _scalar(build, zero)
    shape = (zero.type.static_shape[0], *(1,) * (rank - 1))
    return build.Reshape(zero, shape=shape) if zero.tensor is None else build.constant(zero.numpy().reshape(shape))


@decomposition(ops.Col2Im)
def col2im(build: Builder, node: Node) -> Sequence[Value]:
    """Each element added to its pixel of the padded image, which is then cropped."""
    op, x = node.op, node.inputs[0]
    assert isinstance(op, ops.Col2Im) and x is not None
    image, block, pads = ints(op.image_shape), ints(op.block_shape), ints(op.pads)
    rank = len(image)
    n, channels = node.output.type.static_shape[:2]
    padded = [size + pads[i] + pads[rank + i] for i, size in enumerate(image)]
    places = _places(block, padded, op.strides, op.dilations)
    index = np.array(np.broadcast_to(places.reshape(-1), (n, channels, places.size)))
    canvas = build(ConstantOfShape(shape=(n, channels, math.prod(padded)), value=0.0, dtype=x.type.dtype))
    columns = build(Reshape(shape=index.shape), x)
    summed = build(Reshape(shape=(n, channels, *padded)), build.ScatterElements(canvas, index, columns, axis=2, reduction="add"))
    spatial = tuple(range(2, 2 + rank))
    ends = tuple(pads[i] + size for i, size in enumerate(image))
    return [build(Slice(starts=tuple(pads[:rank]), ends=ends, axes=spatial, steps=(1,) * rank), summed)]


def _places(block: Sequence[int], padded: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> np.ndarray:
    """Which pixel of the flattened padded image each element of the columns belongs to: `[*block, *windows]`."""
    rank, places = len(block), np.zeros((1,) * (2 * len(block)), np.int64)
    for i, (k, size) in enumerate(zip(block, padded, strict=True)):
        windows = (size - (k - 1) * dilations[i] - 1) // strides[i] + 1
        at = np.arange(k)[:, None] * dilations[i] + np.arange(windows) * strides[i]
        places = places * size + at.reshape([k if j == i else windows if j == rank + i else 1 for j in range(2 * rank)])
    return places


@decomposition(ops.DeformConv)
def deform_conv(build: Builder, node: Node) -> Sequence[Value]:
    """The samples of all taps, then a matrix product with the weights; with groups, a convolution of one pixel."""
    op = node.op
    assert isinstance(op, ops.DeformConv)
    x, w, offset, b, mask = (*node.inputs, None, None)[:5]
    assert x is not None and w is not None and offset is not None
    n, (maps, per_group, kh, kw), (oh, ow) = x.type.shape[0], w.type.shape, node.output.type.shape[2:]
    blocks, (kh, kw) = math.lcm(op.groups, op.offset_groups), (int(kh), int(kw))  # type: ignore[arg-type]
    sampler = ops.DeformPatches((kh, kw), op.strides, op.pads, op.dilations, op.offset_groups, blocks)
    patches = build(sampler, wide(build, build.Transpose(x, perm=(0, 2, 3, 1))), offset, mask)
    per_block = blocks // op.groups
    weights = build.Reshape(wide(build, w), shape=(maps, per_block, per_group // per_block, kh * kw))
    depth = per_group * kh * kw
    if op.groups == 1:
        matrix = build.Reshape(build.Transpose(weights, perm=(1, 3, 2, 0)), shape=(depth, maps))
        y = build.Reshape(build.MatMul(build.Reshape(patches, shape=(n, oh * ow, depth)), matrix), shape=(n, oh, ow, maps))
        y = y if b is None else build.Add(y, wide(build, b))
    else:
        kernel = build.Reshape(build.Transpose(weights, perm=(0, 1, 3, 2)), shape=(maps, depth, 1, 1))
        flat = build.Reshape(patches, shape=(n, oh, ow, depth * op.groups))
        y = build(ops.Conv(groups=op.groups, layout="NHWC"), flat, kernel, None if b is None else wide(build, b))
    return [as_type(build, build.Transpose(y, perm=(0, 3, 1, 2)), x.type.dtype)]


@decomposition(ops.DeformPatches)
def deform_patches(build: Builder, node: Node) -> Sequence[Value]:
    """Four gathers of whole pixels, weighted by how near the place is and by zero outside."""
    op = node.op
    assert isinstance(op, ops.DeformPatches)
    x, offset, mask = (*node.inputs, None)[:3]
    assert x is not None and offset is not None
    if not (x.type.is_static and node.output.type.is_static):
        raise UnsupportedError("DeformPatches of unknown size", where=node.describe(), hint="bind the dimensions")
    (n, h, w, c), (_, oh, ow, blocks, taps, width), groups = x.type.static_shape, node.output.type.static_shape, op.offset_groups
    source, shifts = wide(build, x), build.Reshape(wide(build, offset), shape=(n, groups, taps, 2, oh, ow))
    pixels = build.Transpose(build.Reshape(source, shape=(n, h * w, groups, c // groups)), perm=(0, 2, 1, 3))
    pixels = build.Reshape(pixels, shape=(n * groups, h * w, c // groups))
    ends = [_ends(build, op, shifts, axis, size) for axis, size in enumerate((h, w))]
    total: Value | None = None
    for row, row_part in ends[0]:
        for column, column_part in ends[1]:
            index = build.Reshape(build.Add(build.Mul(row, w), column), shape=(n * groups, taps * oh * ow, 1))
            part = build.Mul(row_part, column_part)
            part = as_type(build, build.Reshape(part, shape=(n * groups, taps * oh * ow, 1)), source.type.dtype)
            term = build.Mul(build.GatherND(pixels, index, batch_dims=1), part)
            total = term if total is None else build.Add(total, term)
    assert total is not None
    if mask is not None:
        total = build.Mul(total, build.Reshape(wide(build, mask), shape=(n * groups, taps * oh * ow, 1)))
    parts = build.Reshape(total, shape=(n, groups, taps, oh, ow, blocks // groups, width))
    y = build.Reshape(build.Transpose(parts, perm=(0, 3, 4, 1, 5, 2, 6)), shape=node.output.type.shape)
    return [as_type(build, y, x.type.dtype)]


def _ends(build: Builder, op: ops.DeformPatches, shifts: Value, axis: int, size: int) -> list[tuple[Value, Value]]:
    """Along one axis, the elements below and above the places, int64 and inside, and their weights, [N, groups, taps, oH, oW]."""
    n, groups, taps, _, *out = shifts.type.static_shape
    shift = build.Reshape(build.Slice(shifts, starts=(axis,), ends=(axis + 1,), axes=(3,), steps=(1,)), shape=(n, groups, taps, *out))
    tap = np.arange(taps) // op.kernel_shape[1] if axis == 0 else np.arange(taps) % op.kernel_shape[1]
    pixel = np.arange(out[axis]) * op.strides[axis] - int(op.pads[axis])  # type: ignore[arg-type]
    regular = (tap * op.dilations[axis])[:, None, None] + pixel.reshape((-1, 1) if axis == 0 else (1, -1))
    at = build.Add(shift, build.constant(regular.astype(shifts.type.dtype.numpy)))
    below = build.Floor(at)
    ends = []
    for end in (below, build.Add(below, 1.0)):
        inside = build.And(build.GreaterOrEqual(end, 0.0), build.Less(end, float(size)))
        part = build.Where(inside, build.Sub(1.0, build.Abs(build.Sub(at, end))), build.constant(0.0, at))
        known = build.Where(build.IsNaN(end), build.constant(0.0, end), end)
        ends.append((as_type(build, build.Clip(known, 0.0, float(size - 1)), INT64), part))
    return ends


def _scalar(build: Builder, value: Value) -> Value:
    if not value.type.rank:
        return value
    return build.Reshape(value, shape=()) if value.tensor is None else build.constant(value.numpy().reshape(()))
