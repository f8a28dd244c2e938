"""Values that are computed in the same way from the same data, with constants of their own, and one value that has the columns of all of them.

A column is an index of the axis of a product's result that its weights, and not its data, have. Axes are counted from the last one, -1, so that
operands that broadcast have the same number for it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from lepton_compiler.ir.graph import Node, Value
from lepton_compiler.ops.builder import Builder
from lepton_compiler.passes.fuse.kinds import is_arithmetic

PRODUCTS = frozenset({"Conv", "Gemm", "MatMul", "MatMulInteger"})
BROADCASTING = frozenset({"Add", "Div", "Mul", "Sub"})
"""Element-wise operators each of whose operands may have one element for all columns, or one for each."""
SMALL = 4096
"""Elements of constants that may be stored twice."""


def chain(value: Value) -> list[Node]:
    """From a product whose columns are the last axis to a value that is computed from its result, column by column; empty where there is none."""
    nodes: list[Node] = []
    node = value.producer
    while node is not None and _is_followed(node, -1):
        nodes.append(node)
        if node.op.name in PRODUCTS:
            return nodes[::-1]
        node = node.present_inputs[0].producer
    return []


def form(value: Value) -> Hashable | None:
    """What values have in common that `join` takes: all but constants and the number of columns, the last axis; None where it takes none such.

    A constant that is added last may be missing.
    """
    inner = without_bias(value)[0]
    return _form_of_node(inner.producer, -1) if inner.producer is not None and _is_followed(inner.producer, -1) else None


def join(b: Builder, values: Sequence[Value]) -> Value:
    """One value with the columns of values of the same `form`, in order."""
    pairs = [without_bias(v) for v in values]
    sizes = [v.type.static_shape[-1] for v in values]
    result = _join_nodes(b, [v for v, _ in pairs], -1)
    biases = [c for _, c in pairs]
    return result if biases == [None] * len(biases) else b.Add(result, _biases(b, biases, sizes, result))


def without_bias(value: Value) -> tuple[Value, Value | None]:
    """A value before constants are added to its columns, and the constants; nobody else reads it then."""
    node = value.producer
    if node is None or node.op.name != "Add":
        return value, None
    x, c = node.present_inputs
    plain = c.tensor is not None and not _others(c, -1) and x.tensor is None and x.type == value.type
    return (x, c) if plain and len(x.uses) == 1 and not x.is_output else (value, None)


def _form(value: Value, axis: int) -> Hashable | None:
    """The same for an operand, whose columns are some axis; others must not read it."""
    alone, node = len(value.uses) == 1 and not value.is_output, value.producer
    if value.tensor is not None:
        return ("constant", value.type.dtype.name, _others(value, axis)) if alone or value.type.size <= SMALL else None
    if not _has_columns(value, axis):
        return _same(value)
    return _form_of_node(node, axis) if node is not None and alone and _is_followed(node, axis) else None


def _form_of_node(node: Node, axis: int) -> Hashable | None:
    found: list[Hashable] = [repr(node.op)]
    for k, operand in enumerate(_operands(node)):
        inner = _axis_of_operand(node, k, axis)
        what = _same(operand) if operand is None or inner is None else _form(operand, inner)
        if what is None:
            return None
        found.append(what)
    return tuple(found)


def _join_nodes(b: Builder, values: Sequence[Value], axis: int) -> Value:
    nodes, sizes = [v.producer for v in values if v.producer is not None], [v.type.static_shape[axis] for v in values]
    first, operands = nodes[0], list[Value | None]()
    for k, operand in enumerate(_operands(first)):
        inner, several = _axis_of_operand(first, k, axis), [v for n in nodes if (v := n.inputs[k]) is not None]
        if operand is None or inner is None or (operand.tensor is None and not _has_columns(operand, inner)):
            operands.append(operand)
        elif operand.tensor is not None:
            operands.append(_join_constants(b, several, inner, sizes))
        else:
            operands.append(_join_nodes(b, several, inner))
    if _takes_bias(first):
        biases = [n.inputs[2] if len(n.inputs) > 2 else None for n in nodes]
        operands.append(_biases(b, biases, sizes, first.output) if biases != [None] * len(biases) else None)
    return b(first.op, *operands)


def _join_constants(b: Builder, values: Sequence[Value], axis: int, sizes: Sequence[int]) -> Value:
    """Constants side by side; what is the same for all columns of all is left as it is."""
    arrays, rank = [v.numpy() for v in values], max(-axis, *(v.type.rank for v in values))
    if not any(_has_columns(v, axis) for v in values) and all(_same(v) == _same(values[0]) for v in values):
        return values[0]
    arrays = [a.reshape((1,) * (rank - a.ndim) + a.shape) for a in arrays]
    spread = [np.repeat(a, n, axis) if a.shape[axis] == 1 else a for a, n in zip(arrays, sizes, strict=True)]
    return b.constant(np.ascontiguousarray(np.concatenate(spread, axis)), name=values[0].name)


def _biases(b: Builder, values: Sequence[Value | None], sizes: Sequence[int], like: Value) -> Value:
    """The constants that are added to columns; where there are none, zeros."""
    given = [b.constant(np.zeros((1,), like.type.dtype.numpy)) if v is None else v for v in values]
    return _join_constants(b, given, -1, sizes)


def _operands(node: Node) -> tuple[Value | None, ...]:
    """The operands that every sibling has."""
    return node.inputs[:2] if _takes_bias(node) else node.inputs


def _takes_bias(product: Node) -> bool:
    """Whether a product adds constants to its columns, or could."""
    if product.op.name not in ("Conv", "Gemm"):
        return False
    return len(product.inputs) < 3 or (c := product.inputs[2]) is None or (c.tensor is not None and not _others(c, -1))


def _is_followed(node: Node, axis: int) -> bool:
    """Whether an operator computes each column by itself, from operands that can be joined one by one."""
    if node.op.name in PRODUCTS:
        return axis == -1 and len(node.inputs) > 1 and _axis_of_weights(node) is not None
    if node.op.name == "DequantizeLinear":
        return not (vars(node.op)["block_size"] and _is_along(node, axis))
    return is_arithmetic(node) and (len(node.inputs) == 1 or node.op.name in BROADCASTING)


def _axis_of_operand(node: Node, k: int, axis: int) -> int | None:
    """The axis of the columns in an operand; None where it is the same for all columns."""
    if node.op.name in PRODUCTS:
        if k == 0 or (k == 2 and node.op.name == "MatMulInteger"):
            return None  # the data, and its zero point
        return _axis_of_weights(node) if k == 1 else -1
    if node.op.name == "DequantizeLinear" and k > 0:
        scale = node.inputs[k]
        if scale is None or scale.type.size == 1:
            return None
        if vars(node.op)["block_size"]:
            return axis
        return -1 if _is_along(node, axis) else None
    return axis


def _axis_of_weights(product: Node) -> int | None:
    """The axis of the columns in a product's right operand; None where the columns of the result are not its last axis."""
    w, op = product.inputs[1], vars(product.op)
    if w is None:
        return None
    if product.op.name == "Conv":
        return -w.type.rank if op["layout"] == "NHWC" and op["groups"] == 1 else None
    if product.op.name == "Gemm":
        return -2 if op["trans_b"] else -1
    return -1 if w.type.rank == 2 else None


def _is_along(node: Node, axis: int) -> bool:
    """Whether `DequantizeLinear` has scales along an axis."""
    rank = node.output.type.rank
    return bool(vars(node.op)["axis"] % rank - rank == axis)


def _has_columns(value: Value, axis: int) -> bool:
    return value.type.rank >= -axis and value.type.shape[axis] != 1


def _others(value: Value, axis: int) -> tuple[object, ...]:
    """The shape of a constant along the other axes, from the first one that has several elements."""
    shape = list(value.type.shape)
    if len(shape) >= -axis:
        del shape[axis]
    while shape and shape[0] == 1:
        del shape[0]
    return tuple(shape)


def _same(value: Value | None) -> Hashable:
    """What tells an operand that is the same for all columns: constants by what they hold."""
    if value is None or value.tensor is None:
        return id(value)
    return value.type.dtype.name, value.type.shape, value.tensor.digest
