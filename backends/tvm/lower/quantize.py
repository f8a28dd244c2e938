"""Quantize and dequantize, element by element."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import tirx

from lepton_compiler.backends.tvm.lower.context import Arg, Context, Expr, compute, lowers, unsupported


def _parameter(arg: Arg, index: Sequence[Expr], axis: int, block: int) -> Expr:
    """The scale or zero point that goes with the element at `index`."""
    if len(arg.shape) == 0 or arg.number is not None:
        return arg[[]]
    if block:
        return arg[[tirx.floordiv(k, block) if a == axis else k for a, k in enumerate(index)]]
    return arg[[tirx.const(0, "int32") if arg.shape[0] == 1 else index[axis]]]


@lowers("QuantizeLinear")
def lower_quantize(ctx: Context, op: Any, x: Arg, scale: Arg, zero: Arg | None = None) -> list[Any]:
    """`saturate(round_half_even(x / scale) + zero_point)`."""
    if not op.dtype.is_integer or op.dtype.bits < 8:
        raise unsupported(op, f"to {op.dtype}")
    axis = op.axis % max(1, len(x.shape))
    limits = np.iinfo(op.dtype.numpy)

    def body(*i: Expr) -> Expr:
        value = tirx.nearbyint(x[i].astype("float32") / _parameter(scale, i, axis, op.block_size).astype("float32"))
        low, high = tirx.const(-(2.0**24), "float32"), tirx.const(2.0**24, "float32")
        value = tirx.max(low, tirx.min(value, high)).astype("int32")
        if zero is not None:
            value = value + _parameter(zero, i, axis, op.block_size).astype("int32")
        return tirx.max(tirx.const(int(limits.min), "int32"), tirx.min(value, tirx.const(int(limits.max), "int32"))).astype(op.dtype.name)

    return [compute(x.shape, body, "quantize")]


@lowers("DequantizeLinear")
def lower_dequantize(ctx: Context, op: Any, x: Arg, scale: Arg, zero: Arg | None = None) -> list[Any]:
    """`(x - zero_point) * scale`, the difference in int32."""
    axis = op.axis % max(1, len(x.shape))

    def body(*i: Expr) -> Expr:
        value = x[i].astype("int32")
        if zero is not None:
            value = value - _parameter(zero, i, axis, op.block_size).astype("int32")
        return (value.astype("float32") * _parameter(scale, i, axis, op.block_size).astype("float32")).astype(op.dtype.name)

    return [compute(x.shape, body, "dequantize")]
