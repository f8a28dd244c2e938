"""NonMaxSuppression as a loop over all images and classes at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lepton_compiler import ops
from lepton_compiler.errors import UnsupportedError
from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ir.types import BOOL, FLOAT32, INT64, TensorType
from lepton_compiler.ops.builder import Builder
from lepton_compiler.passes.bound_sizes.extents import Extents, number, positions
from lepton_compiler.passes.bound_sizes.producers import PRODUCERS, chosen

CORNERS = 5
"""Lower and upper end in both directions, and the area."""


def non_max_suppression(extents: Extents, b: Builder, node: Node) -> Sequence[Value]:
    """NonMaxSuppression  -->  sort by score; Loop { the first box alive; those that overlap it die }; gather what was chosen

    Everything is [images, classes, boxes]; each iteration chooses a box for every image and class.
    """
    boxes, scores, limit, overlap, threshold = [*node.inputs, None, None, None][:5]
    assert boxes is not None and scores is not None
    if not (boxes.type.is_static and scores.type.is_static):
        raise UnsupportedError("data decides how many boxes there are")
    images, classes, count = scores.type.static_shape
    trips = _trips(limit, count)
    if 0 in (images, classes, count, trips):
        extents.define(node.output.type.shape[0], 0, number(b, 0))
        return [b.constant(np.zeros((0, 3), np.int64))]
    ordered, order = b.node(_top_k(count), [scores]).outputs
    alive = b.constant(np.ones((images, classes, count), np.bool_))
    if threshold is not None:
        alive = b.Greater(ordered, _scalar(b, threshold))
    planes = [_in_order(b, plane, order) for plane in _planes(b, boxes, bool(getattr(node.op, "center_point_box")))]  # noqa: B009
    ratio = b.constant(np.zeros((), np.float32)) if overlap is None else _scalar(b, overlap)
    captures = [*planes, ratio] + ([_scalar(b, limit)] if limit is not None and not limit.is_constant else [])
    loop = ops.get("Loop")(carried=1, trips=trips)  # type: ignore[call-arg]
    _, best, found = b.node(loop, [number(b, trips), None, alive, *captures], regions=[_body(alive, captures)]).outputs
    total = images * classes * trips
    flat, n = chosen(b, b.Reshape(b.Transpose(found, perm=(1, 2, 0)), shape=(total,)))
    place = b.Gather(b.Reshape(b.Transpose(best, perm=(1, 2, 0)), shape=(total,)), flat, axis=0)
    row = b.Div(flat, number(b, trips))
    box = b.Gather(b.Reshape(order, shape=(images * classes * count,)), b.Add(b.Mul(row, number(b, count)), place), axis=0)
    columns = [b.Div(row, number(b, classes)), b.Mod(row, number(b, classes)), box]
    extents.define(node.output.type.shape[0], total, n)
    return [b.Concat(*(b.Unsqueeze(c, axes=(1,)) for c in columns), axis=1)]


def _trips(limit: Value | None, count: int) -> int:
    """The most boxes that one image and class can have."""
    if limit is None:
        return 0
    return max(0, min(count, int(limit.numpy().reshape(-1)[0]))) if limit.is_constant else count


def _top_k(k: int) -> Any:
    return ops.get("TopK")(k=k, axis=2, largest=True, sorted=True)  # type: ignore[call-arg]


def _scalar(b: Builder, value: Value) -> Value:
    return b.Reshape(value, shape=()) if value.type.rank else value


def _planes(b: Builder, boxes: Value, centred: bool) -> list[Value]:
    """`[N, B, 4]` as y1, x1, y2, x2 (or x, y ranges) and the area, each `[N, B]`."""
    columns = [b.Gather(boxes, b.constant(np.array(k, np.int64)), axis=2) for k in range(4)]
    (a0, a1), (b0, b1) = columns[:2], columns[2:]
    if centred:
        half = [b.Div(side, b.constant(np.array(2, np.float32))) for side in (b0, b1)]
        low, high = [b.Sub(c, h) for c, h in zip((a0, a1), half, strict=True)], [b.Add(c, h) for c, h in zip((a0, a1), half, strict=True)]
    else:
        low, high = [b.Min(a0, b0), b.Min(a1, b1)], [b.Max(a0, b0), b.Max(a1, b1)]
    area = b.Mul(b.Sub(high[0], low[0]), b.Sub(high[1], low[1]))
    return [*low, *high, area]


def _in_order(b: Builder, plane: Value, order: Value) -> Value:
    """`[N, B]` in the order of scores of each class: `[N, C, B]`."""
    return b.GatherElements(b.Expand(b.Unsqueeze(plane, axes=(1,)), shape=order.type.static_shape), order, axis=2)


def _body(alive: Value, captures: Sequence[Value]) -> Graph:
    """One iteration: (iteration, condition, alive, *planes, ratio, limit?) -> (condition, alive, chosen place, whether there was one)."""
    region = Graph("suppress")
    iteration, going = region.add_input("iteration", TensorType(INT64, ())), region.add_input("going", TensorType(BOOL, ()))
    living = region.add_input("alive", alive.type)
    *planes, ratio = [region.add_input(f"capture{k}", v.type) for k, v in enumerate(captures[: CORNERS + 1])]
    b = Builder(region)
    best = b.ArgMax(b.Cast(living, to=FLOAT32), axis=2, keepdims=True)
    found = b.GatherElements(living, best, axis=2)
    if len(captures) > CORNERS + 1:
        limit = region.add_input("limit", captures[-1].type)
        found = b.And(found, b.Less(iteration, limit))
    kept = b.And(living, b.LessOrEqual(_overlap(b, planes, [b.GatherElements(p, best, axis=2) for p in planes]), ratio))
    left = b.And(kept, b.Not(b.Equal(positions(b, alive.type.static_shape[2], 3, 2), best)))
    region.set_outputs([going, left, b.Squeeze(best, axes=(2,)), b.Squeeze(found, axes=(2,))])
    return region


def _overlap(b: Builder, planes: Sequence[Value], box: Sequence[Value]) -> Value:
    """Intersection over union of every box with the chosen one; 0 where either is empty."""
    zero, one = b.constant(np.zeros((), np.float32)), b.constant(np.ones((), np.float32))
    sides = [b.Max(b.Sub(b.Min(planes[k + 2], box[k + 2]), b.Max(planes[k], box[k])), zero) for k in (0, 1)]
    shared = b.Mul(*sides)
    union = b.Sub(b.Add(box[4], planes[4]), shared)
    proper = b.And(b.And(b.Greater(box[4], zero), b.Greater(planes[4], zero)), b.Greater(shared, zero))
    return b.Where(proper, b.Div(shared, b.Where(b.Greater(union, zero), union, one)), zero)


PRODUCERS["NonMaxSuppression"] = non_max_suppression
