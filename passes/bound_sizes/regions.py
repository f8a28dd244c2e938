"""Branches of different shapes, and loops that end when data says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lepton_compiler.analysis.trip_count import known_number
from lepton_compiler.errors import UnsupportedError
from lepton_compiler.ir.dim import Dim
from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ir.types import INT64, TensorType
from lepton_compiler.ops.builder import Builder
from lepton_compiler.passes.bound_sizes.extents import Extents, number

Inside = Callable[[Graph], Extents]
"""Bounds the sizes inside a nested graph."""


def bound_if(extents: Extents, inside: Inside, b: Builder, node: Node) -> Sequence[Value]:
    """If { x: [3] } { y: [5] }  -->  If { Pad(x, 5), 3 } { y, 5 }"""
    regions = [region.copy() for region in node.regions]
    known = [inside(region) for region in regions]
    sizes: list[tuple[int, int]] = [
        (i, axis) for i, out in enumerate(node.outputs) for axis, dim in enumerate(out.type.shape) if not isinstance(dim, int)
    ]
    bounds = {(i, axis): max(e.upper(_dim(region, i, axis, e)) for region, e in zip(regions, known, strict=True)) for i, axis in sizes}
    for region, inner in zip(regions, known, strict=True):
        build = Builder(region)
        outputs = [_padded(build, inner, value, i, bounds) for i, value in enumerate(region.outputs)]
        counts = [inner.count(build, _dim(region, i, axis, inner)) for i, axis in sizes]
        region.set_outputs([*outputs, *counts])
    new = b.node(node.op, node.inputs, regions=regions)
    for (i, axis), count in zip(sizes, new.outputs[len(node.outputs) :], strict=True):
        extents.define(node.outputs[i].type.shape[axis], bounds[i, axis], count)
    return new.outputs[: len(node.outputs)]


def _dim(region: Graph, output: int, axis: int, extents: Extents) -> Dim:
    dim = region.outputs[output].type.shape[axis]
    if not extents.known(dim):
        raise UnsupportedError(f"nothing says how large {dim!r} can get in '{region.name}'")
    return dim


def _padded(b: Builder, extents: Extents, value: Value, index: int, bounds: dict[tuple[int, int], int]) -> Value:
    """An output of a branch, with zeros up to the bound that both branches share."""
    source = extents.value(value)
    after = [bounds.get((index, axis), size) - size for axis, size in enumerate(source.type.static_shape)]
    return b.Pad(source, pads=(*([0] * len(after)), *after)) if any(after) else source


def bound_loop(extents: Extents, inside: Inside, b: Builder, node: Node) -> Sequence[Value]:
    """Loop whose scanned results have as many rows as it ran  -->  the same with room for all rows, and a count of them"""
    op: Any = node.op
    limit = node.inputs[0]
    rows = None if limit is None else _largest(extents, limit)
    if rows is None:
        raise UnsupportedError("nothing bounds how often it runs: its scanned results could be of any size")
    region = node.regions[0].copy()
    if any(not out.type.is_static for out in region.outputs):
        raise UnsupportedError("an iteration gives values whose size data decides")
    inside(region)
    ran = region.add_input("ran", TensorType(INT64, ()))
    region.inputs.insert(2 + op.carried, region.inputs.pop())
    build = Builder(region)
    condition, *others = region.outputs
    others.insert(op.carried, build.Add(ran, number(build, 1)))
    region.set_outputs([condition, *others])
    operands = list(node.inputs)
    operands.insert(2 + op.carried, b.constant(np.zeros((), np.int64)))
    new = b.node(replace(op, carried=op.carried + 1, rows=rows), operands, regions=[region])
    results = [*new.outputs[: op.carried], *new.outputs[op.carried + 1 :]]
    for out in node.outputs[op.carried :]:
        extents.define(out.type.shape[0], rows, new.outputs[op.carried])
    return results


def _largest(extents: Extents, limit: Value) -> int | None:
    """The largest trip count."""
    known = known_number(limit)
    if known is not None:
        return max(0, int(known))
    content = limit.content
    if content is None or content.size != 1 or not extents.known(content.flat[0]):
        return None
    return max(0, extents.upper(content.flat[0]))
