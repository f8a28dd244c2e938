"""Interval analysis: between which numbers the elements of a value lie, whatever the inputs are.

Source: interval abstract interpretation (Cousot and Cousot, 1977), over whole tensors: one interval for all elements of a value.
A float's interval speaks of its numbers; an element may also be NaN, which no interval holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from lepton_compiler.ir.graph import Node, Value

Interval = tuple[float, float]
Rule = Callable[[Any, list[Interval], Node], Interval]

EVERYTHING: Interval = (-math.inf, math.inf)
SMALL_TYPES = ("bool", "int8", "uint8", "int16", "uint16")
"""Element types whose own range is a bound worth having."""
LARGEST_CONSTANT = 1 << 20
"""Elements of a constant that are looked at."""


class Ranges:
    """The intervals of the values of a graph, each computed once; linear in the nodes that are asked about.

    Args:
        inputs: what is known of some values beyond what the graph says.
    """

    def __init__(self, inputs: Mapping[Value, Interval] | None = None) -> None:
        self._known: dict[Value, Interval] = dict(inputs or {})

    def of(self, value: Value) -> Interval:
        """The interval of all elements of a value; infinite where nothing is known."""
        pending = [value]
        while pending:
            current = pending[-1]
            if current in self._known:
                pending.pop()
                continue
            missing = [v for v in self._operands(current) if v not in self._known]
            if missing:
                pending += missing
                continue
            pending.pop()
            self._known[current] = self._derive(current)
        return self._known[value]

    def _operands(self, value: Value) -> Iterator[Value]:
        node = value.producer
        if node is not None and value.tensor is None and node.op.name in RULES:
            yield from (v for v in node.inputs if v is not None)

    def _derive(self, value: Value) -> Interval:
        own = _of_type(value)
        if value.tensor is not None:
            return _of_array(value.numpy()) if 0 < value.type.size <= LARGEST_CONSTANT and value.type.dtype.kind != "complex" else own
        if value.content is not None and all(isinstance(d, (int, np.integer)) for d in value.content.flat) and value.content.size:
            return _of_array(np.asarray(value.content.tolist()))
        node = value.producer
        if node is None or node.op.name not in RULES:
            return own
        found = RULES[node.op.name](node.op, [self._known[v] if v is not None else EVERYTHING for v in node.inputs], node)
        if math.isnan(found[0]) or math.isnan(found[1]):
            return own
        if value.type.dtype.is_integer and not (own[0] <= found[0] and found[1] <= own[1]):
            return own  # the sum or product may have wrapped around
        return max(own[0], found[0]), min(own[1], found[1])


def _of_type(value: Value) -> Interval:
    element = value.type.dtype
    if element.name == "bool":
        return 0, 1
    if element.is_integer:
        limits = np.iinfo(element.numpy) if element.bits >= 8 else None
        if limits is not None:
            return int(limits.min), int(limits.max)
    return EVERYTHING


def _of_array(array: np.ndarray) -> Interval:
    wide = array.astype(np.float64) if array.dtype.kind not in "iub" else array
    if wide.dtype.kind == "f" and not np.isfinite(wide).all():
        return EVERYTHING
    return wide.min().item() * 1, wide.max().item() * 1


def _hull(*intervals: Interval) -> Interval:
    return min(i[0] for i in intervals), max(i[1] for i in intervals)


def _product(x: float, y: float) -> float:
    return 0.0 if x == 0 or y == 0 else x * y


def _times(x: Interval, y: Interval) -> Interval:
    ends = [_product(a, b) for a in x for b in y]
    return min(ends), max(ends)


def _over(x: Interval, y: Interval) -> Interval:
    if y[0] <= 0 <= y[1]:
        return EVERYTHING
    ends = [a / b if math.isfinite(b) else 0.0 for a in x for b in y]
    return min(ends), max(ends)


def _clip(op: Any, x: list[Interval], node: Node) -> Interval:
    low = x[1] if len(x) > 1 and node.inputs[1] is not None else (-math.inf, -math.inf)
    high = x[2] if len(x) > 2 and node.inputs[2] is not None else (math.inf, math.inf)
    return min(max(x[0][0], low[0]), high[0]), min(max(x[0][1], low[1]), high[1])


def _summed(op: Any, x: list[Interval], node: Node) -> Interval:
    """So many elements go into each sum; 0 of them give 0."""
    operand, out = node.inputs[0], node.outputs[0]
    assert operand is not None
    if not (operand.type.is_static and out.type.is_static):
        return (0 if x[0][0] >= 0 else -math.inf), (0 if x[0][1] <= 0 else math.inf)
    count = operand.type.static_shape[op.axis] if node.op.name == "CumSum" else operand.type.size // max(1, out.type.size)
    return min(_product(x[0][0], count), 0), max(_product(x[0][1], count), 0)


def _cast(op: Any, x: list[Interval], node: Node) -> Interval:
    if not node.outputs[0].type.dtype.is_integer:
        return x[0]
    low, high = (math.trunc(v) if math.isfinite(v) else v for v in x[0])
    return low, high


def _monotonic(function: Callable[[float], float]) -> Rule:
    def rule(op: Any, x: list[Interval], node: Node) -> Interval:
        return function(x[0][0]), function(x[0][1])

    return rule


def _whole(function: Callable[[float], int]) -> Callable[[float], float]:
    return lambda v: float(function(v)) if math.isfinite(v) else v


def _places(op: Any, x: list[Interval], node: Node) -> Interval:
    operand = node.inputs[0]
    size = operand.type.shape[op.axis] if operand is not None else None
    return 0, (size - 1 if isinstance(size, int) and size else math.inf)


def _abs(op: Any, x: list[Interval], node: Node) -> Interval:
    low, high = x[0]
    return (0.0 if low <= 0 <= high else min(abs(low), abs(high))), max(abs(low), abs(high))


def _moved(op: Any, x: list[Interval], node: Node) -> Interval:
    return x[0]


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Expand", "Tile", "Slice", "Gather", "GatherElements", "GatherND", "Split", "Compress",
         "ReduceMax", "ReduceMin", "ReduceMean", "MaxPool", "Dynamic"),
        _moved,
    ),
    **dict.fromkeys(("Concat", "Max", "Min"), lambda op, x, node: _hull(*x)),
    "Max": lambda op, x, node: (max(i[0] for i in x), max(i[1] for i in x)),
    "Min": lambda op, x, node: (min(i[0] for i in x), min(i[1] for i in x)),
    "Where": lambda op, x, node: _hull(x[1], x[2]),
    "Add": lambda op, x, node: (x[0][0] + x[1][0], x[0][1] + x[1][1]),
    "Sub": lambda op, x, node: (x[0][0] - x[1][1], x[0][1] - x[1][0]),
    "Mul": lambda op, x, node: _times(x[0], x[1]),
    "Div": lambda op, x, node: _over(x[0], x[1]),
    "Neg": lambda op, x, node: (-x[0][1], -x[0][0]),
    "Abs": _abs,
    "Relu": _monotonic(lambda v: max(v, 0.0)),
    "Round": _monotonic(_whole(round)),
    "Floor": _monotonic(_whole(math.floor)),
    "Ceil": _monotonic(_whole(math.ceil)),
    "Clip": _clip,
    "Cast": _cast,
    **dict.fromkeys(("Sigmoid", "HardSigmoid", "Softmax", "Hardmax"), lambda op, x, node: (0, 1)),
    "Tanh": lambda op, x, node: (-1, 1),
    **dict.fromkeys(("ReduceSum", "CumSum"), _summed),
    **dict.fromkeys(("ArgMax", "ArgMin"), _places),
}  # fmt: skip
"""By operator, the interval of a result from those of the operands."""
