"""How large the sums of an integer convolution can get, from its actual weights: what decides whether exact Winograd kernels can be taken."""

from __future__ import annotations

import numpy as np

from lepton_compiler.backends.tvm.winograd_packing import LARGEST_WEIGHT, sum_bits
from lepton_compiler.ir.graph import Node, Value
from lepton_compiler.ir.types import DType
from lepton_compiler.ops.conv import ConvInteger

CLASSES = (26, 30)
"""Numbers of bits that make a difference to kernels; what needs more counts as needing all of them, so that alike layers share a kernel."""
ALL_BITS = 32
BYTE = 256


def sum_bits_of(kernel: Node) -> int:
    """Bits that hold the sums of the 3 x 3 convolution in a kernel, one of `CLASSES`; `ALL_BITS` where that is not known, or of no use."""
    nodes = list(kernel.regions[0]) if kernel.op.name == "Fused" else [kernel]
    found = [n for n in nodes if isinstance(n.op, ConvInteger)]
    if len(found) != 1 or found[0].op.groups != 1 or set(found[0].op.strides) != {1}:  # type: ignore[attr-defined]
        return ALL_BITS
    x, w, x_zero, w_zero = (_outside(kernel, v) for v in (*found[0].inputs, None, None)[:4])
    if x is None or w is None or w.tensor is None or w.type.static_shape[2:] != (3, 3):
        return ALL_BITS
    weights = w.numpy().astype(np.int64) - (_number(w_zero) or 0)
    bits = sum_bits(weights, *_range(x.type.dtype, x_zero))
    largest = int(np.abs(weights).max(initial=0))
    allowed = [c for c, m in zip(CLASSES, (4, 2), strict=True) if bits <= c and largest <= LARGEST_WEIGHT[m]]
    return allowed[0] if allowed else ALL_BITS


def _outside(kernel: Node, value: Value | None) -> Value | None:
    """What feeds an operand of a kernel's operator."""
    if value is None or kernel.op.name != "Fused" or value not in kernel.regions[0].inputs:
        return value
    return kernel.inputs[kernel.regions[0].inputs.index(value)]


def _number(zero: Value | None) -> int | None:
    """A zero point, if it is known."""
    if zero is None:
        return 0
    return int(zero.numpy().reshape(-1)[0]) if zero.tensor is not None else None


def _range(kind: DType, zero: Value | None) -> tuple[int, int]:
    """The least and the largest difference of data and its zero point."""
    number, least = _number(zero), -BYTE // 2 if kind.name == "int8" else 0
    return (1 - BYTE, BYTE - 1) if number is None else (least - number, least + BYTE - 1 - number)
