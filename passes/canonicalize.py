"""One way to write each thing, so that later passes need not know the others."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from lepton_compiler import ops
from lepton_compiler.ir.graph import Graph, Node
from lepton_compiler.ir.traverse import bodies, refine_types
from lepton_compiler.ir.types import TensorType
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.dynamic import Dynamic
from lepton_compiler.passes.control_flow import CONTROL_FLOW
from lepton_compiler.pipeline import Pass, PassContext
from lepton_compiler.rewrite import rewrite, simplifies
from lepton_compiler.rewrite.pattern import COMMUTATIVE
from lepton_compiler.rewrite.rule import Replacement

ROUNDS = 20
"""Most alternations of rewriting and type refinement; each resolves at least one parameter."""

_AXIS_OPS = tuple(name for name in ops.registry if {"axis", "axes"} & {f.name for f in fields(ops.get(name))})


@simplifies(*_AXIS_OPS)
def axes_not_negative(b: Builder, node: Node) -> Replacement:
    """axis=-1  -->  axis=3"""
    x = node.inputs[0]
    if x is None:
        return None
    rank = x.type.rank + (len(getattr(node.op, "axes")) if node.op.name == "Unsqueeze" else node.op.name == "OneHot")  # noqa: B009
    changed: dict[str, Any] = {}
    for field in ("axis", "axes"):
        given = getattr(node.op, field, None)
        if isinstance(given, int) and given < 0:
            changed[field] = given % max(rank, 1)
        elif isinstance(given, tuple) and any(a < 0 for a in given):
            changed[field] = tuple(a % max(rank, 1) for a in given)
    return b.node(replace(node.op, **changed), node.inputs).outputs if changed else None


@simplifies("Dynamic")
def dynamic_to_static(b: Builder, node: Node) -> Replacement:
    """Dynamic(Reshape)(x, shape)  -->  Reshape(shape=...)(x), once the contents of `shape` are known"""
    assert isinstance(node.op, Dynamic)
    op = node.op.resolve(node.inputs)
    if op is None:
        return "its parameters depend on data"
    return b.node(op, node.inputs[: len(node.inputs) - len(node.op.params)]).outputs


@simplifies(
    "Cast", "Transpose", "Reshape", "Expand", "Pad", "Slice", "Squeeze", "Unsqueeze", "Tile", "Concat", "Split", "Sum", "Mean", "Max", "Min"
)
def drop_noop(b: Builder, node: Node) -> Replacement:
    """What returns its only operand unchanged  -->  the operand"""
    x = node.inputs[0] if node.inputs else None
    if x is None or len([v for v in node.inputs if v is not None]) > 1 + (node.op.name == "Pad") or len(node.outputs) != 1:
        return None
    same = _surely_equal(x.type, node.output.type)
    if node.op.name == "Transpose":
        same = same and getattr(node.op, "perm") == tuple(range(x.type.rank))  # noqa: B009
    elif node.op.name == "Pad":
        same = same and all(p == 0 for p in getattr(node.op, "pads"))  # noqa: B009
    elif node.op.name == "Slice":
        same = same and all(isinstance(s, int) and s > 0 for s in getattr(node.op, "steps"))  # noqa: B009
    return x if same else None


@simplifies("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd")
def reduce_nothing(b: Builder, node: Node) -> Replacement:
    """ReduceSum(axes=())(x)  -->  x"""
    return node.inputs[0] if not getattr(node.op, "axes") else None  # noqa: B009


@simplifies("Concat")
def concat_without_empty(b: Builder, node: Node) -> Replacement:
    """Concat(x, empty, y)  -->  Concat(x, y)"""
    axis = getattr(node.op, "axis")  # noqa: B009
    kept = [v for v in node.present_inputs if v.type.shape[axis] != 0]
    return b(node.op, *kept) if kept and len(kept) < len(node.inputs) else None


@simplifies("Sum", "Mean", "Max", "Min")
def variadic_to_binary(b: Builder, node: Node) -> Replacement:
    """Sum(x, y, z)  -->  Add(Add(x, y), z)"""
    values = node.present_inputs
    name = "Add" if node.op.name in ("Sum", "Mean") else node.op.name
    if len(values) < 2 or (len(values) == 2 and name == node.op.name) or not values[0].type.dtype.bits >= 32:
        return None
    result = values[0]
    for value in values[1:]:
        result = getattr(b, name)(result, value)
    return b.Div(result, float(len(values))) if node.op.name == "Mean" else result


@simplifies(*sorted(COMMUTATIVE))
def constant_on_the_right(b: Builder, node: Node) -> Replacement:
    """Add(c, x)  -->  Add(x, c)"""
    if len(node.inputs) != 2 or not node.present_inputs[0].is_constant or node.present_inputs[1].is_constant:
        return None
    return b(node.op, node.inputs[1], node.inputs[0])


@simplifies("Squeeze", "Unsqueeze", "Reshape")
def static_reshape(b: Builder, node: Node) -> Replacement:
    """Squeeze, Unsqueeze, Reshape(-1)  -->  Reshape(shape=all numbers), where they are numbers"""
    shape = node.output.type.shape
    if not node.output.type.is_static or getattr(node.op, "shape", None) == shape:
        return None
    return b.Reshape(node.inputs[0], shape=shape)


@simplifies("Where")
def where_known(b: Builder, node: Node) -> Replacement:
    """Where(all true, x, y)  -->  x, if it has the shape of the result"""
    condition, x, y = node.present_inputs
    if condition.tensor is None or not condition.type.size:
        return None
    array = condition.numpy()
    chosen = x if array.all() else None if array.any() else y
    return chosen if chosen is not None and _surely_equal(chosen.type, node.output.type) else None


@simplifies("Not", "Neg")
def double_negation(b: Builder, node: Node) -> Replacement:
    """Not(Not(x))  -->  x"""
    producer = node.present_inputs[0].producer
    return producer.inputs[0] if producer is not None and producer.op == node.op else None


@simplifies("Resize")
def identity_resize(b: Builder, node: Node) -> Replacement:
    """Resize to the same size by scale 1  -->  x"""
    op: Any = node.op
    x = node.present_inputs[0]
    plain = op.coordinate_transformation_mode != "tf_crop_and_resize" and not op.roi and not op.antialias
    return x if plain and all(s == 1 for s in op.scales) and _surely_equal(x.type, node.output.type) else None


def _surely_equal(a: TensorType, b: TensorType) -> bool:
    """Equal types; a dimension that only the data decides has a name of its own, so it equals none but itself."""
    return a == b


RULES = [
    axes_not_negative, dynamic_to_static, drop_noop, reduce_nothing, concat_without_empty, variadic_to_binary, constant_on_the_right,
    static_reshape, where_known, double_negation, identity_resize, *CONTROL_FLOW,
]  # fmt: skip


@dataclass(frozen=True)
class Canonicalize(Pass):
    """Non-negative axes, static parameters, no operators without effect, constants on the right, known branches inlined."""

    def run(self, graph: Graph, ctx: PassContext) -> None:  # noqa: D102
        for _ in range(ROUNDS):
            count = rewrite(graph, RULES, ctx.tracer)
            if not count or not sum(refine_types(part) for part in bodies(graph)):
                break
