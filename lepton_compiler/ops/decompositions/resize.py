"""Resizing as a weighted sum of gathers along each axis, and affine grids as a matrix product."""

from __future__ import annotations

from collections.abc import Sequence

from lepton_compiler.errors import UnsupportedError
from lepton_compiler.ir.graph import Node, Value
from lepton_compiler.ir.types import FLOAT32
from lepton_compiler.ops.binary import Add, Mul, Where
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.decompose import as_type, decomposition, wide
from lepton_compiler.ops.indexing import Gather
from lepton_compiler.ops.matmul import MatMul
from lepton_compiler.ops.reduce import ReduceSum
from lepton_compiler.ops.resize import AffineGrid, Resize, Taps
from lepton_compiler.ops.shape import Reshape, Transpose


@decomposition(Resize)
def resize(build: Builder, node: Node) -> Sequence[Value]:
    """Axis after axis: `Gather` for nearest, a weighted one for each tap, or, if there are many, for all at once."""
    op, x = node.op, node.inputs[0]
    assert isinstance(op, Resize) and x is not None
    old, new = x.type.shape, node.output.type.shape
    rank, nearest = x.type.rank, op.mode == "nearest" and op.coordinate_transformation_mode != "tf_crop_and_resize"
    loose = [i for i in range(rank) if not (isinstance(old[i], int) and isinstance(new[i], int))]
    if any(old[i] != new[i] or (op.scales and op.scales[i] != 1) or op.roi for i in loose):
        raise UnsupportedError("Resize of an axis of unknown size", where=node.describe(), hint="bind the dimension")
    moved = [i for i in range(rank) if i not in loose and not op.is_identity(i, int(old[i]), int(new[i]))]  # type: ignore[arg-type]
    y = x if nearest else wide(build, x) if x.type.dtype.is_float else as_type(build, x, FLOAT32)
    outside: Value | None = None
    for axis in moved:
        taps = op.taps(axis, int(old[axis]), int(new[axis]), rank)  # type: ignore[arg-type]
        if nearest:
            y = build(Gather(axis=axis), y, build.constant(taps.indices[:, 0]))
            continue
        y = _resampled(build, y, taps, axis)
        if taps.outside.any():
            here = build.constant(taps.outside.reshape([-1 if i == axis else 1 for i in range(rank)]))
            outside = here if outside is None else build.Or(outside, here)
    if outside is not None:
        y = build(Where(), outside, build.constant(op.extrapolation_value, y), y)
    return [as_type(build, y, x.type.dtype)]


def _resampled(build: Builder, x: Value, taps: Taps, axis: int) -> Value:
    size, count = taps.indices.shape
    if count > 4:
        return _gathered(build, x, taps, axis)
    total: Value | None = None
    for t in range(count):
        weights = taps.weights[:, t].reshape(size, *[1] * (x.type.rank - 1 - axis)).astype(x.type.dtype.numpy)
        part = build(Mul(), build(Gather(axis=axis), x, build.constant(taps.indices[:, t])), build.constant(weights))
        total = part if total is None else build(Add(), total, part)
    assert total is not None
    return total


def _gathered(build: Builder, x: Value, taps: Taps, axis: int) -> Value:
    """All taps of a sample next to each other on a new axis, weighted and summed up."""
    weights = taps.weights.reshape(*taps.weights.shape, *[1] * (x.type.rank - 1 - axis)).astype(x.type.dtype.numpy)
    parts = build(Mul(), build(Gather(axis=axis), x, build.constant(taps.indices)), build.constant(weights))
    return build(ReduceSum(axes=(axis + 1,), keepdims=False), parts)


@decomposition(AffineGrid)
def affine_grid(build: Builder, node: Node) -> Sequence[Value]:
    """The grid of the identity map, a constant, times the transposed maps."""
    op, theta = node.op, node.inputs[0]
    assert isinstance(op, AffineGrid) and theta is not None
    if not all(isinstance(s, int) for s in op.size[2:]):
        raise UnsupportedError("AffineGrid of unknown size", where=node.describe(), hint="bind the dimension")
    matrix = wide(build, theta)
    points = op.points(matrix.type.dtype.numpy)
    grid = build(MatMul(), build.constant(points.reshape(-1, points.shape[-1])), build(Transpose(perm=(0, 2, 1)), matrix))
    return [as_type(build, build(Reshape(shape=node.output.type.shape), grid), theta.type.dtype)]
