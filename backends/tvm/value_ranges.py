"""How large the numbers inside a kernel can get, as far as its operators and constants tell: what decides whether rounding has to bound them first."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import ml_dtypes
import numpy as np

from lepton_compiler.ir.graph import Node, Value
from lepton_compiler.ir.types import FLOAT32

Range = tuple[float, float]
"""The least and the largest number: both finite, and no number is NaN."""

ROUNDS = 2.0**30
"""Quotients up to this one, half of what int32 holds, are rounded by an instruction that knows no larger ones: each operator may round upwards."""
FINITE = 2.0**100
"""Far from the largest number of float32."""
CODE_BITS = 8
"""Integers up to which their type says enough: no producer is looked at."""
PRODUCT = 255**2
"""The largest product of two 8-bit numbers less their zero points."""


def bounded_operands(nodes: Sequence[Node], outside: Mapping[Value, Value | None]) -> list[Value]:
    """The values that are quantized to 8 bits, and whose quotients by the scale are at most `ROUNDS` either way.

    Args:
        nodes: the operators of a kernel.
        outside: what feeds its inputs.
    """
    found: dict[Value, bool] = {}
    ranges = _Ranges(outside)
    for node in nodes:
        if node.op.name == "QuantizeLinear":
            value = node.present_inputs[0]
            found[value] = found.get(value, True) and _is_bounded(node, ranges)
    return [value for value, bounded in found.items() if bounded]


def _is_bounded(node: Node, ranges: _Ranges) -> bool:
    x, scale = node.present_inputs[:2]
    divisor, numbers = ranges.of(scale), ranges.of(x)
    if x.type.dtype != FLOAT32 or divisor is None or numbers is None or not divisor[0] > 0:
        return False
    return max(-numbers[0], numbers[1]) / divisor[0] <= ROUNDS


class _Ranges:
    """Ranges of the values of a kernel, worked out when they are asked for."""

    def __init__(self, outside: Mapping[Value, Value | None]) -> None:
        self.outside = outside
        self.known: dict[Value, Range | None] = {}

    def of(self, value: Value | None) -> Range | None:
        """The range of a value; None where it is not known."""
        value = self.outside.get(value) or value if value is not None else None
        if value is None:
            return None
        if value not in self.known and value.type.dtype.is_integer and value.type.dtype.bits <= CODE_BITS:
            self.known[value] = _of_type(value, _of_constant(value) if value.is_constant else None)
        if value not in self.known:
            self.known[value] = _of_type(value, _of_constant(value) if value.is_constant else self._computed(value))
        return self.known[value]

    def _computed(self, value: Value) -> Range | None:
        node = value.producer
        if node is not None and node.op.name == "Fused":
            return self._dequantized_there(node, value)
        if node is None or node.op.name not in RULES:
            return None
        operands = [None if v is None else self.of(v) for v in node.inputs]
        if any(found is None and v is not None for found, v in zip(operands, node.inputs, strict=True)):
            return None
        return RULES[node.op.name](node, *operands)

    def _dequantized_there(self, kernel: Node, value: Value) -> Range | None:
        """The range of what another kernel gives, where that is codes times a scale."""
        region = kernel.regions[0]
        inner = region.outputs[kernel.outputs.index(value)]
        if inner.producer is None or inner.producer.op.name != "DequantizeLinear":
            return None
        self.outside = {**self.outside, **dict(zip(region.inputs, kernel.inputs, strict=True))}
        return self.of(inner)


def is_bounded(value: Value) -> bool:
    """Whether the numbers of a value inside of a kernel are known to be at most `ROUNDS` either way, and no NaN."""
    kernel = value.producer.graph.owner if value.producer is not None else None
    outside = dict(zip(kernel.regions[0].inputs, kernel.inputs, strict=True)) if kernel is not None and kernel.op.name == "Fused" else {}
    found = _Ranges(outside).of(value)
    return found is not None and max(-found[0], found[1]) <= ROUNDS


def _of_type(value: Value, found: Range | None) -> Range | None:
    """What is left of a range where integers wrap around, and of that of floats, if it is far from their largest number."""
    kind = value.type.dtype
    if kind.is_integer and kind.bits >= 8:
        info = ml_dtypes.iinfo(kind.numpy)
        whole = float(info.min), float(info.max)
        return found if found is not None and whole[0] <= found[0] and found[1] <= whole[1] else whole
    if found is None or kind.name not in ("float32", "float64"):
        return None
    return found if max(-found[0], found[1]) <= FINITE else None


def _of_constant(value: Value) -> Range | None:
    if value.tensor is None or value.type.dtype.kind not in ("float", "int", "uint") or not value.type.size:
        return None
    array = value.numpy()
    low, high = float(array.min()), float(array.max())
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None


def _sums(node: Node, x: Range, w: Range, *zeros: Range | None) -> Range:
    shape = node.present_inputs[1].type.static_shape
    terms = int(np.prod(shape[1:] if node.op.name == "ConvInteger" else shape[-2:-1], dtype=np.int64))
    return -float(terms * PRODUCT), float(terms * PRODUCT)


def _product(node: Node, a: Range, b: Range) -> Range:
    corners = [x * y for x in a for y in b]
    return min(corners), max(corners)


def _dequantized(node: Node, x: Range, scale: Range, zero: Range = (0.0, 0.0)) -> Range:
    return _product(node, (x[0] - zero[1], x[1] - zero[0]), scale)


def _clipped(node: Node, x: Range, low: Range | None = None, high: Range | None = None) -> Range:
    floor, ceiling = low or (-math.inf,) * 2, high or (math.inf,) * 2
    return min(max(x[0], floor[0]), ceiling[0]), min(max(x[1], floor[1]), ceiling[1])


def _unit(node: Node, x: Range) -> Range:
    return -1.0, 1.0


RULES: dict[str, Callable[..., Range]] = {
    "Abs": lambda node, x: (0.0, max(-x[0], x[1])),
    "Add": lambda node, a, b: (a[0] + b[0], a[1] + b[1]),
    "Cast": lambda node, x: x,
    "Clip": _clipped,
    "ConvInteger": _sums,
    "DequantizeLinear": _dequantized,
    "HardSigmoid": _unit,
    "HardSwish": lambda node, x: (-1.0, max(x[1], 0.0)),
    "MatMulInteger": _sums,
    "Mul": _product,
    "Neg": lambda node, x: (-x[1], -x[0]),
    "Relu": lambda node, x: (max(x[0], 0.0), max(x[1], 0.0)),
    "Round": lambda node, x: (math.floor(x[0]), math.ceil(x[1])),
    "Sigmoid": _unit,
    "Sub": lambda node, a, b: (a[0] - b[1], a[1] - b[0]),
    "Tanh": _unit,
}
"""From the ranges of the operands to that of the result, before it is rounded."""
