"""Trees as a loop over their levels: every row takes one step in every tree, by tables of thresholds and children."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lepton_compiler.errors import UnsupportedError
from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ir.types import BOOL, INT64, TensorType
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.control import Loop
from lepton_compiler.ops.decompose import as_type, decomposition, wide
from lepton_compiler.ops.ensemble import TreeEnsemble


@decomposition(TreeEnsemble)
def _(build: Builder, node: Node) -> Sequence[Value]:
    op = node.op
    assert isinstance(op, TreeEnsemble)
    x, roots, feature, high, yes, no, weights, low, missing, tree_targets = (*node.inputs, None, None, None)[:10]
    assert x is not None and roots is not None and feature is not None and weights is not None
    rows, trees, nodes, leaves = x.type.shape[0], roots.type.shape[0], feature.type.shape[0], weights.type.shape[0]
    if not (isinstance(trees, int) and isinstance(nodes, int) and isinstance(leaves, int)):
        raise UnsupportedError("the sizes of trees must be known to lower them", where=node.describe(), hint="bind the dimensions")
    at = build.Expand(build.Reshape(roots, shape=(1, trees)), shape=(rows, trees))
    if op.depth:
        captured = [v for v in (x, feature, high, yes, no, low, missing) if v is not None]
        region = _step(build, at.type, captured, low is not None, missing is not None)
        bounds = build.constant(np.array(op.depth, np.int64)), build.constant(np.array(True))
        at = build.node(Loop(carried=1, trips=op.depth), [*bounds, at, *captured], regions=[region]).outputs[0]
    said = build.Gather(wide(build, weights), build.Sub(at, nodes - leaves), axis=0)
    return [as_type(build, _together(build, op, said, tree_targets, trees), x.type.dtype)]


def _step(build: Builder, at: TensorType, captured: Sequence[Value], bounded: bool, may_miss: bool) -> Graph:
    """The body of the loop: (iteration, condition, places, captured operands) to (condition, places)."""
    region = Graph("step")
    region.add_input("level", TensorType(INT64, ()))
    goes_on = region.add_input("goes_on", TensorType(BOOL, ()))
    place = region.add_input("place", at)
    x, feature, high, yes, no, *more = [region.add_input(v.name, v.type) for v in captured]
    b = Builder(region, loc=build.loc)
    value = b.GatherElements(x, b.Gather(feature, place, axis=0), axis=1)
    taken = b.LessOrEqual(value, b.Gather(high, place, axis=0))
    if bounded:
        taken = b.And(taken, b.LessOrEqual(b.Gather(more[0], place, axis=0), value))
    if may_miss:
        taken = b.Or(taken, b.And(b.IsNaN(value), b.Gather(more[-1], place, axis=0)))
    following = b.Where(taken, b.Gather(yes, place, axis=0), b.Gather(no, place, axis=0))
    region.set_outputs([goes_on, following])
    return region


def _together(build: Builder, op: TreeEnsemble, said: Value, tree_targets: Value | None, trees: int) -> Value:
    """What the trees say [N, trees, targets], taken together."""
    element = said.type.dtype.numpy
    if op.aggregate in ("min", "max"):
        best = (build.ReduceMin if op.aggregate == "min" else build.ReduceMax)(said, axes=(1,), keepdims=False)
        return build.Where(build.IsInf(best), build.constant(np.zeros((), element)), best)
    if tree_targets is None:
        total = build.ReduceSum(said, axes=(1,), keepdims=False)
    else:
        targets = build.constant(np.arange(op.targets, dtype=np.int32))
        chosen = build.Equal(build.Unsqueeze(tree_targets, axes=(1,)), targets)
        total = build.MatMul(build.Squeeze(said, axes=(2,)), build.Cast(chosen, to=said.type.dtype))
    return build.Div(total, float(max(1, trees))) if op.aggregate == "average" else total
