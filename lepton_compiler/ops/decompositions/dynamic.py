"""Operators with an attribute that is known at run time only, as arithmetic on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np

from lepton_compiler.errors import UnsupportedError
from lepton_compiler.ir.graph import Node, Value
from lepton_compiler.ir.op import Op
from lepton_compiler.ir.types import FLOAT32, INT64
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.decompose import as_type, decomposition, wide
from lepton_compiler.ops.decompositions.indexing import diagonals
from lepton_compiler.ops.dynamic import Dynamic
from lepton_compiler.ops.indexing import Gather, Trilu
from lepton_compiler.ops.rearrange import Concat
from lepton_compiler.ops.resize import Resize


@decomposition(Dynamic)
def dynamic(build: Builder, node: Node) -> Sequence[Value]:
    """By the operator and the attributes that are operands."""
    op = node.op
    assert isinstance(op, Dynamic)
    rule = _RULES.get((type(op.template), op.params))
    if rule is None:
        raise UnsupportedError(
            f"{op.template.name} with {', '.join(op.params)} known at run time only",
            where=node.describe(),
            hint="make it a constant of the model",
        )
    return rule(build, node)


def _trilu(build: Builder, node: Node) -> Sequence[Value]:
    x, k = node.inputs
    assert isinstance(node.op, Dynamic) and isinstance(node.op.template, Trilu) and x is not None and k is not None
    ahead = build.Sub(diagonals(build, *x.type.shape[-2:]), build.Reshape(as_type(build, k, INT64), shape=()))
    kept = build.GreaterOrEqual(ahead, 0) if node.op.template.upper else build.LessOrEqual(ahead, 0)
    return [build.Where(kept, x, build.constant(np.zeros((), x.type.dtype.numpy)))]


def _cropped(build: Builder, node: Node) -> Sequence[Value]:
    """Coordinates of each axis from the region, then weighted gathers along it."""
    x, roi = node.inputs
    assert isinstance(node.op, Dynamic) and isinstance(node.op.template, Resize) and x is not None and roi is not None
    op = node.op.template
    if op.coordinate_transformation_mode != "tf_crop_and_resize":
        return [build(op, x)]
    if not (x.type.is_static and node.output.type.is_static):
        raise UnsupportedError("Resize of a region of unknown size", where=node.describe(), hint="bind the dimensions")
    new, rank = node.output.type.static_shape, x.type.rank
    y = x if op.mode == "nearest" else wide(build, x) if x.type.dtype.is_float else as_type(build, x, FLOAT32)
    outside: Value | None = None
    for axis, old in enumerate(x.type.static_shape):
        if old == new[axis] and (_known(roi, axis), _known(roi, axis + rank)) == (0, 1):
            continue
        at = _coordinates(build, roi, axis, rank, old, new[axis])
        here = build.Or(build.Less(at, 0), build.Greater(at, old - 1))
        here = build.Reshape(here, shape=[-1 if i == axis else 1 for i in range(rank)])
        outside = here if outside is None else build.Or(outside, here)
        y = _sampled(build, op, y, at, axis, new[axis])
    if outside is not None:
        y = build.Where(outside, build.constant(op.extrapolation_value, y), y)
    return [as_type(build, y, x.type.dtype)]


def _known(value: Value, position: int) -> float | None:
    """The element of a vector at `position`, where it comes from a constant by way of gathers and joins."""
    if value.tensor is not None:
        return float(value.tensor.numpy().reshape(-1)[position])
    node = value.producer
    if node is None or any(v is None or not v.type.is_static for v in node.inputs):
        return None
    if isinstance(node.op, Gather) and node.inputs[0].type.rank == 1 and node.inputs[1].tensor is not None:  # type: ignore[union-attr]
        return _known(node.present_inputs[0], int(node.present_inputs[1].numpy().reshape(-1)[position]))
    if isinstance(node.op, Concat) and value.type.rank == 1:
        for part in node.present_inputs:
            if position < part.type.size:
                return _known(part, position)
            position -= part.type.size
    return None


def _coordinates(build: Builder, roi: Value, axis: int, rank: int, old: int, new: int) -> Value:
    """Where in the input each of the `new` samples of an axis lies, float32 [new], in the order of operations of `Resize`."""
    begin, end = (as_type(build, build.Slice(roi, starts=(i,), ends=(i + 1,), axes=(0,), steps=(1,)), FLOAT32) for i in (axis, axis + rank))
    if new == 1:
        return build.Mul(build.Mul(build.Add(begin, end), 0.5), old - 1)
    steps = build.constant(np.arange(new, dtype=np.float32))
    return build.Add(build.Mul(begin, old - 1), build.Div(build.Mul(build.Mul(steps, build.Sub(end, begin)), old - 1), new - 1))


def _sampled(build: Builder, op: Resize, y: Value, at: Value, axis: int, new: int) -> Value:
    """`y` resampled along one axis at the coordinates `at`."""
    old = int(y.type.static_shape[axis])
    if op.mode == "nearest":
        return build(Gather(axis=axis), y, _inside(build, _nearest(build, op.nearest_mode, at), old))
    offsets, shrink = op.window(axis, old, new)
    at = build.Reshape(at, shape=(new, 1))
    floor = build.Floor(at)
    places = build.Add(floor, build.constant(offsets.astype(np.float32)))
    distance = build.Mul(build.Abs(build.Sub(build.constant(offsets.astype(np.float32)), build.Sub(at, floor))), float(shrink))
    weights = build.Max(build.Sub(1.0, distance), 0.0) if op.mode == "linear" else _cubic(build, distance, op.cubic_coeff_a)
    if op.exclude_outside:
        weights = build.Where(
            build.And(build.GreaterOrEqual(places, 0), build.LessOrEqual(places, old - 1)), weights, build.constant(0.0, weights)
        )
    if op.exclude_outside or shrink < 1:
        weights = build.Div(weights, build.ReduceSum(weights, axes=(1,)))
    indices = _inside(build, places, old)
    column = [new if i == axis else 1 for i in range(y.type.rank)]
    terms = []
    for t in range(len(offsets)):
        index, weight = (build.Slice(v, starts=(t,), ends=(t + 1,), axes=(1,), steps=(1,)) for v in (indices, weights))
        sample = build(Gather(axis=axis), y, build.Reshape(index, shape=(new,)))
        terms.append(build.Mul(sample, as_type(build, build.Reshape(weight, shape=column), y.type.dtype)))
    return reduce(build.Add, terms)


def _nearest(build: Builder, mode: str, at: Value) -> Value:
    match mode:
        case "floor":
            return build.Floor(at)
        case "ceil":
            return build.Ceil(at)
        case "round_prefer_ceil":
            return build.Floor(build.Add(at, 0.5))
    return build.Ceil(build.Sub(at, 0.5))


def _cubic(build: Builder, d: Value, a: float) -> Value:
    """Keys' cubic convolution kernel at non-negative distances."""
    near = build.Add(build.Mul(build.Mul(build.Sub(build.Mul(d, a + 2), a + 3), d), d), 1.0)
    far = build.Sub(build.Mul(build.Add(build.Mul(build.Sub(build.Mul(d, a), 5 * a), d), 8 * a), d), 4 * a)
    return build.Where(build.LessOrEqual(d, 1.0), near, build.Where(build.Less(d, 2.0), far, build.constant(0.0, d)))


def _inside(build: Builder, places: Value, size: int) -> Value:
    """Whole numbers as indices of an axis, the nearest ones inside it."""
    return as_type(build, build.Clip(places, 0.0, float(max(size - 1, 0))), INT64)


_RULES: dict[tuple[type[Op], tuple[str, ...]], Callable[[Builder, Node], Sequence[Value]]] = {
    (Resize, ("roi",)): _cropped,
    (Trilu, ("k",)): _trilu,
}
