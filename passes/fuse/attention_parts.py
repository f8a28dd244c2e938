"""Finding attention: two products with a softmax between them, in the ways in which models spell it out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from lepton_compiler.analysis.attention import Empty, Sizes, sizes_of
from lepton_compiler.analysis.layouts import RESHAPES, VIEWS, Layout, through
from lepton_compiler.ir.graph import Node, Value
from lepton_compiler.passes.fuse.kinds import is_arithmetic

MULTIPLIED = ("float16", "bfloat16", "float32")
"""Element types of queries, keys and values, the shortest first."""
LONGEST = 32
"""Operators on the way from one product to the other, or from an operand to what it views."""
Places = Mapping[Value, Layout]
"""Where values lie that are to become views of others."""
NOWHERE: Places = MappingProxyType({})


@dataclass(frozen=True)
class Attention:
    """The nodes of an attention.

    Attributes:
        first, second: the products: scores, and sums of values.
        path: from the first product to the softmax, each with the operand that is, or comes from, the scores.
        between: from the softmax to the second product.
        empty: what these make of a query that sees no key.
    """

    first: Node
    path: tuple[tuple[Node, int], ...]
    softmax: Node
    between: tuple[Node, ...]
    second: Node
    empty: Empty


@dataclass(frozen=True)
class Operand:
    """How an operand of a product can be read: as a view of another value, times a number; conversions from shorter floats do not matter.

    Attributes:
        base: the value in memory.
        views: from it to the operand, each with the number of its result.
        passed: all that the kernel reads through: views, conversions and multiplications.
        layout: what the views come to.
        factor: the number.
        swapped: the base is not there yet: it is the operand with its last two axes exchanged.
    """

    base: Value
    views: tuple[tuple[Node, int], ...]
    passed: tuple[Node, ...]
    layout: Layout
    factor: float = 1.0
    swapped: bool = False


def find_attention(softmax: Node) -> Attention | str | None:
    """The attention around a softmax; why what looks like one is none; or None."""
    op: Any = softmax.op
    kinds = softmax.output.type
    if not kinds.is_static or kinds.size == 0 or op.axis % kinds.rank != kinds.rank - 1:
        return None
    found, path = _weighted(softmax.output), _scored(softmax.present_inputs[0], set())
    if found is None or path is None:
        return None
    between, second, empty, bias = found
    first, steps = path[0][0], tuple(path[1:])
    if not all(_is_batched(n) for n in (first, second)) or first.output.type.shape[-1] != kinds.shape[-1]:
        return None
    if any(len(n.output.uses) != 1 or n.output.is_output for n in (first, *(n for n, _ in steps))):
        return "its scores are read elsewhere, too"
    if bias is not None and not any(n.op.name == "Add" and bias in n.inputs for n, _ in steps):
        return None
    inside = {softmax, *between}
    if any(n.output.is_output or not inside | {second} >= set(n.output.users) for n in inside):
        return "its weights are read elsewhere, too"
    return Attention(first, steps, softmax, between, second, empty)


def _is_batched(product: Node) -> bool:
    """Whether a product is one of matrices of known sizes, the right one no weights."""
    left, right = product.present_inputs
    return right.tensor is None and all(v.type.is_static and v.type.rank >= 2 and v.type.size > 0 for v in (left, right))


def _weighted(value: Value) -> tuple[tuple[Node, ...], Node, Empty, Value | None] | None:
    """From weights to the product that sums values by them: what is between, what becomes of rows without keys, and what tells these."""
    between: list[Node] = []
    empty: Empty = "nan"
    bias: Value | None = None
    for _ in range(LONGEST):
        product = next((u for u in value.users if u.op.name == "MatMul" and u.inputs[0] is value and u.inputs[1] is not value), None)
        if product is not None:
            return tuple(between), product, empty, bias
        zeros = next((rows for user in value.users if (rows := _zeros_rows(user, value)) is not None), None)
        kept = next((user for user in value.users if _keeps_weights(user, value)), None)
        if zeros is not None:
            nodes, empty, bias = zeros
            between += nodes
        elif kept is not None:
            between.append(kept)
        else:
            return None
        value = between[-1].output
    return None


def _keeps_weights(node: Node, value: Value) -> bool:
    """Whether a node only converts weights, or cuts their rows into matrices in another way."""
    if node.op.name == "Cast":
        return node.output.type.dtype.name in MULTIPLIED
    return node.op.name in RESHAPES and node.output.type.shape[-1:] == value.type.shape[-1:]


def _zeros_rows(node: Node, value: Value) -> tuple[list[Node], Empty, Value | None] | None:
    """Whether `Where(condition, 0, weights)` is about rows without keys: its nodes, the last one itself, what it does, and what mask it asks."""
    if node.op.name != "Where" or node.inputs[2] is not value or not _is_number(node.present_inputs[1], 0.0):
        return None
    test = node.present_inputs[0].producer
    if test is None or len(test.output.uses) != 1:
        return None
    if test.op.name == "IsNaN":
        asked, casts = test.present_inputs[0], list[Node]()
        while asked is not value and asked.producer is not None and asked.producer.op.name == "Cast":
            casts.append(asked.producer)
            asked = asked.producer.present_inputs[0]
        return ([*reversed(casts), test, node], "never_nan", None) if asked is value else None
    if test.op.name != "Equal" or not _is_number(test.present_inputs[1], -math.inf):
        return None
    peak = test.present_inputs[0].producer
    if peak is None or peak.op.name != "ReduceMax" or len(peak.output.uses) != 1:
        return None
    mask, op = peak.present_inputs[0], vars(peak.op)
    last = op["keepdims"] and [a % mask.type.rank for a in op["axes"] or ()] == [mask.type.rank - 1]
    return ([peak, test, node], "zeros", mask) if last else None


def _scored(value: Value, seen: set[Node]) -> list[tuple[Node, int]] | None:
    """From a product to scores: the product, then element-wise operators and views, each with the operand that the scores come by."""
    node = value.producer
    if node is None or node in seen or len(seen) > LONGEST or value.type.dtype.name not in MULTIPLIED:
        return None
    seen.add(node)
    if node.op.name == "MatMul":
        return [(node, 0)]
    if not (is_arithmetic(node) or node.op.name in RESHAPES):
        return None
    for k, operand in enumerate(node.inputs):
        if operand is not None and _carries(node, operand) and (rest := _scored(operand, seen)) is not None:
            return [*rest, (node, k)]
    return None


def _carries(node: Node, operand: Value) -> bool:
    """Whether an operand of a node has an element for each one of the result, in the same row of scores."""
    shape, result = operand.type.shape, node.output.type.shape
    return shape[-1:] == result[-1:] if node.op.name in RESHAPES else shape == result


def operands_of(found: Attention, most: Mapping[str, int], places: Places = NOWHERE) -> tuple[Operand, Operand, Operand] | str:
    """How queries, keys and values are read: from as far back as views allow; or why a kernel cannot take them.

    Args:
        found: the attention.
        most: by element type, elements of the largest keys and values that the backend takes.
        places: values to be taken for views.
    """
    scores, result = found.first.output.type.static_shape, found.second.output.type.static_shape
    q, k, v = found.first.present_inputs[0], found.first.present_inputs[1], found.second.present_inputs[1]
    options = [
        [o for o in _readings(q, places, scaled=True) if _in_vectors(o.layout, -1, None)],
        [o for o in _readings(k, places, scaled=True) if _in_vectors(o.layout, -2, -1)] or [_swapped(k)],
        [o for o in _readings(v, places, scaled=False) if _in_vectors(o.layout, -1, -2)],
    ]
    reason = f"it multiplies {q.type.dtype}"
    for name in MULTIPLIED:
        fitting = [[o for o in each if o.base.type.dtype.name == name] for each in options]
        if not all(fitting) or not most.get(name) or name not in {"float32", *_kept(found.second)}:
            continue
        largest = max(q.type.static_shape[-1], v.type.static_shape[-1])
        if largest > most[name]:
            reason = f"its heads have {largest} elements of {name}, and {most[name]} is the most"
            continue
        for chosen in ([o[-1] for o in fitting], [o[0] for o in fitting]):
            if joint(chosen, scores, result) is not None:
                return chosen[0], chosen[1], chosen[2]
        reason = "its queries, keys and values do not lie in memory with even steps between them"
    return reason


def _kept(product: Node) -> set[str]:
    """The types that a product's result is rounded to, and that weights may as well be rounded to before: its own, and those of conversions."""
    value, kinds = product.output, {product.output.type.dtype.name}
    while len(value.uses) == 1 and not value.is_output and value.users[0].op.name in (*RESHAPES, "Cast", "Transpose"):
        value = value.users[0].output
        kinds.add(value.type.dtype.name)
    return kinds


def joint(operands: Sequence[Operand], scores: Sequence[int], result: Sequence[int]) -> Sizes | None:
    """Sizes and strides of all three."""
    q, k, v = (o.layout for o in operands)
    return sizes_of(q, k, v, scores, result)


def _readings(value: Value, places: Places, scaled: bool) -> Iterator[Operand]:
    """The ways to read an operand, the nearest first; times a number only where that is allowed."""
    views: list[tuple[Node, int]] = []
    passed: list[Node] = []
    factor = 1.0
    for _ in range(LONGEST):
        layout = _layout(value, views[::-1], places)
        if layout is not None and (value.tensor is None or value.type.size > 1):
            yield Operand(value, tuple(views[::-1]), tuple(passed), layout, factor)
        node = value.producer
        if node is None:
            return
        passed.append(node)
        if node.op.name == "Cast" and node.present_inputs[0].type.dtype.name in MULTIPLIED:
            value = node.present_inputs[0]
        elif scaled and (scale := _scale(node)) is not None:
            value, factor = scale[0], factor * scale[1]
        elif node.op.name in VIEWS and (node.op.name != "Gather" or picked(node) is not None):
            views.append((node, node.outputs.index(value)))
            value = node.present_inputs[0]
        else:
            return


def picked(gather: Node) -> int | None:
    """The index that a `Gather` picks, if that is a known scalar."""
    index = gather.present_inputs[1]
    return int(index.numpy()) if index.tensor is not None and index.type.rank == 0 else None


def _layout(base: Value, views: Sequence[tuple[Node, int]], places: Places) -> Layout | None:
    if not base.type.is_static:
        return None
    layout: Layout | None = places.get(base) or Layout.dense(base.type.static_shape)
    for node, output in views:
        kinds = node.outputs[output].type
        if layout is None or not kinds.is_static:
            return None
        layout = through(node.op, layout, kinds.static_shape, output, picked(node) if node.op.name == "Gather" else None)
    return layout


def _scale(node: Node) -> tuple[Value, float] | None:
    """The value that a node multiplies by a number, or divides by it."""
    if node.op.name not in ("Mul", "Div"):
        return None
    x, c = node.present_inputs
    if node.op.name == "Mul" and x.tensor is not None:
        x, c = c, x
    if c.tensor is None or c.type.size != 1 or x.type != node.output.type:
        return None
    number = float(c.numpy().reshape(-1)[0])
    if not math.isfinite(number) or number == 0:
        return None
    return x, number if node.op.name == "Mul" else 1 / number


def _in_vectors(layout: Layout, along: int, across: int | None) -> bool:
    """Whether elements are neighbours along one axis, and evenly spaced along the other."""
    return layout.axes[along] in ((), ((layout.shape[along], 1),)) and (across is None or len(layout.axes[across]) <= 1)


def _swapped(k: Value) -> Operand:
    shape = k.type.static_shape
    rank = len(shape)
    perm = (*range(rank - 2), rank - 1, rank - 2)
    return Operand(k, (), (), Layout.dense([shape[p] for p in perm]).transposed(perm), swapped=True)


def _is_number(value: Value, number: float) -> bool:
    return value.tensor is not None and value.type.size == 1 and bool(np.all(value.numpy() == number))
