"""Quantize and dequantize, element by element."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import tirx

from lepton_compiler.backends.tvm.lower.context import Arg, Expr, Read, element
from lepton_compiler.ir.types import TensorType


def _parameter(arg: Arg, index: Sequence[Expr], axis: int, block: int, read: Read) -> Expr:
    """The scale or zero point that goes with the element at `index`."""
    if len(arg.shape) == 0 or arg.number is not None:
        return read(arg, [])
    if block:
        return read(arg, [tirx.floordiv(k, block) if a == axis else k for a, k in enumerate(index)])
    return read(arg, [index[axis]])


@element("QuantizeLinear")
def quantize(op: Any, kind: TensorType, index: Sequence[Expr], read: Read, x: Arg, scale: Arg, zero: Arg | None = None) -> Expr:
    """`saturate(round_half_even(x / scale) + zero_point)`."""
    axis = op.axis % max(1, len(x.shape))
    limits = np.iinfo(op.dtype.numpy)
    value = tirx.nearbyint(read(x, index).astype("float32") / _parameter(scale, index, axis, op.block_size, read).astype("float32"))
    low, high = tirx.const(-(2.0**24), "float32"), tirx.const(2.0**24, "float32")
    value = tirx.max(low, tirx.min(value, high)).astype("int32")
    if zero is not None:
        value = value + _parameter(zero, index, axis, op.block_size, read).astype("int32")
    return tirx.max(tirx.const(int(limits.min), "int32"), tirx.min(value, tirx.const(int(limits.max), "int32"))).astype(op.dtype.name)


@element("DequantizeLinear")
def dequantize(op: Any, kind: TensorType, index: Sequence[Expr], read: Read, x: Arg, scale: Arg, zero: Arg | None = None) -> Expr:
    """`(x - zero_point) * scale`, the difference in int32."""
    axis = op.axis % max(1, len(x.shape))
    value = read(x, index).astype("int32")
    if zero is not None:
        value = value - _parameter(zero, index, axis, op.block_size, read).astype("int32")
    return (value.astype("float32") * _parameter(scale, index, axis, op.block_size, read).astype("float32")).astype(op.dtype.name)
