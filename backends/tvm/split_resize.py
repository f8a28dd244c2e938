"""Interpolation along several axes as one kernel per axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ir.traverse import bodies
from lepton_compiler.ir.types import FLOAT32
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.decompose import as_type, expand, wide
from lepton_compiler.ops.resize import Resize
from lepton_compiler.pipeline import Pass, PassContext

FEW = 4
"""Samples per element that are summed at once, where neighbours lie side by side."""


@dataclass(frozen=True)
class SplitResize(Pass):
    """Resize(x: 5x6 -> 10x12)  -->  Resize(Resize(x: 5x6 -> 5x12): 5x12 -> 10x12)

    n + m samples per element instead of n * m. A kernel takes several axes at once where that is few samples and the last axis stays.
    """

    def run(self, graph: Graph, ctx: PassContext) -> None:  # noqa: D102
        for part in list(bodies(graph)):
            for node in part.nodes:
                if isinstance(node.op, Resize) and node.inputs[0] is not None and not takes_at_once(node.op, node.inputs[0], node.output):
                    expand(node, axis_by_axis)


def takes_at_once(op: Resize, x: Value, y: Value) -> bool:
    """Whether one kernel resamples all axes."""
    if not x.type.is_static or (op.mode == "nearest" and op.coordinate_transformation_mode != "tf_crop_and_resize"):
        return True
    old, new = x.type.static_shape, y.type.static_shape
    moved = op.moved_axes(old, new)
    samples = math.prod(op.taps(axis, old[axis], new[axis], len(old)).indices.shape[1] for axis in moved)
    return len(moved) <= 1 or (samples <= FEW and moved[-1] != len(old) - 1)


def axis_by_axis(build: Builder, node: Node) -> Sequence[Value]:
    """A `Resize` per axis. Floats grow last where they grow most; integers go in order, to be rounded as the evaluator rounds."""
    op, x = node.op, node.inputs[0]
    assert isinstance(op, Resize) and x is not None
    old, new = x.type.static_shape, node.output.type.static_shape
    moved = op.moved_axes(old, new)
    if x.type.dtype.is_float:
        moved.sort(key=lambda i: (new[i] / old[i], -i))
    y = wide(build, x) if x.type.dtype.is_float else as_type(build, x, FLOAT32)
    for axis in moved:
        y = build(op.along(axis, y.type.shape, new[axis]), y)
    for axis in moved[:-1]:  # the value outside was mixed with itself since
        outside = op.taps(axis, old[axis], new[axis], len(old)).outside
        if outside.any():
            mask = build.constant(outside.reshape([-1 if i == axis else 1 for i in range(len(old))]))
            y = build.Where(mask, build.constant(op.extrapolation_value, y), y)
    return [as_type(build, y, x.type.dtype)]
