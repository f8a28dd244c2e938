"""Quantize and dequantize, element by element."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from tvm import tirx

from lepton_compiler.backends.tvm.lower.context import Arg, Expr, Read, element
from lepton_compiler.backends.tvm.lower.conversion import convert, decoded, number_as
from lepton_compiler.backends.tvm.lower.scalar import type_of
from lepton_compiler.backends.tvm.naming import named
from lepton_compiler.backends.tvm.outline import narrowed, nearest, outlined, rarely, saturated
from lepton_compiler.ir.types import FLOAT32, DType, TensorType, dtype

LEAST_DIVISOR = 2.0**-60
"""Quotients by larger numbers, and their reciprocals, are far from the ends of the range of float32."""


@element("QuantizeLinear")
def quantize(
    op: Any, kind: TensorType, index: Sequence[Expr], read: Read, x: Arg, scale: Arg, zero: Arg | None = None, multiplies: bool = True
) -> Expr:
    """`saturate(round_half_even(x / scale) + zero_point)` for integers; for small floats the sum is rounded once, when it is encoded.

    `multiplies` says that a division takes longer than a multiplication and a check whether its result can be the quotient.
    """

    def operand(value: Expr, source: DType) -> Expr:
        given = source if op.precision is None else op.precision
        return number_as(decoded(convert(value, source, given), given), real)

    real = _quotient_type(op, x, scale)
    offset = [] if zero is None else [decoded(_parameter(op, zero, x, index, read), zero.type.dtype)]
    known = zero.number if zero is not None else 0
    rounding = _rounding(op.dtype, real) if op.dtype.is_integer else None
    if op.dtype.is_integer and op.dtype.bits <= 16 and real == "float32" and known is not None:
        narrow = x.bounded and op.dtype.bits == 8
        rounding, offset = (_narrowing if narrow else _saturating)(op.dtype, int(known)), []
    if multiplies and rounding is not None and (factor := _divisor(op, x, scale)) is not None:
        whole = outlined(_dividing(factor, rounding), read(x, index), *offset)
        return convert(whole, dtype(type_of(whole)), op.dtype)
    ratio = operand(read(x, index), x.type.dtype) / operand(_parameter(op, scale, x, index, read), scale.type.dtype)
    if op.precision is not None:
        ratio = number_as(decoded(convert(ratio, dtype(real), op.precision), op.precision), real)
    if rounding is not None:
        whole = outlined(rounding, ratio, *offset)
        return convert(whole, dtype(type_of(whole)), op.dtype)
    for point in offset:
        ratio = ratio + number_as(point, real)
    return convert(ratio, dtype(real), op.dtype, saturate=op.saturate)


def _divisor(op: Any, x: Arg, scale: Arg) -> float | None:
    """The scale, if it is a number other than a power of two by whose reciprocal float32 may be multiplied to get 8-bit codes."""
    if scale.number is None or op.precision is not None or x.type.dtype != FLOAT32 or scale.type.dtype != FLOAT32:
        return None
    number = float(np.float32(scale.number))
    usual = LEAST_DIVISOR < number < 1 / LEAST_DIVISOR and np.frexp(number)[0] != 0.5
    return number if usual and op.dtype.is_integer and op.dtype.bits == 8 else None


def _dividing(divisor: float, rounding: Callable[..., Expr]) -> Callable[..., Expr]:
    """`rounding(x / divisor, ...)` without a division, as a rule.

    The product with the reciprocal is the quotient up to a relative error of 2^-23: 2^-13 for those up to 2^10, and larger ones saturate. So only
    what lies closer than 2^-12 to the middle between two integers is divided.
    """
    inverse = float(np.float32(1) / np.float32(divisor))

    def divided(x: Expr, product: Expr) -> Expr:
        return x / tirx.const(divisor, "float32")

    def kept(x: Expr, product: Expr) -> Expr:
        return product

    def body(x: Expr, *zero: Expr) -> Expr:
        product = named(x * tirx.const(inverse, "float32"), lambda p: p)
        near = tirx.abs(product - tirx.nearbyint(product)) > tirx.const(0.5 - 2.0**-12, "float32")
        return named(rarely(near, divided, kept, x, product), lambda ratio: rounding(ratio, *zero))

    return body


@element("DequantizeLinear")
def dequantize(op: Any, kind: TensorType, index: Sequence[Expr], read: Read, x: Arg, scale: Arg, zero: Arg | None = None) -> Expr:
    """`(x - zero_point) * scale`; the difference of integers is exact."""
    value, exact = decoded(read(x, index), x.type.dtype), "float32"
    if x.type.dtype.is_integer and x.type.dtype.bits <= 32 and zero is not None:
        exact = "int32" if x.type.dtype.bits <= 16 else "int64"
    moved = number_as(value, exact)
    if zero is not None:
        moved = moved - number_as(decoded(_parameter(op, zero, x, index, read), zero.type.dtype), exact)
    factor = decoded(_parameter(op, scale, x, index, read), scale.type.dtype)
    factor = factor if type_of(factor) == "float64" else number_as(factor, "float32")
    product = number_as(number_as(moved, "float32"), type_of(factor)) * factor
    return convert(product, dtype(type_of(factor)), op.dtype, saturate=False)


def _parameter(op: Any, arg: Arg, x: Arg, index: Sequence[Expr], read: Read) -> Expr:
    """The scale or zero point that goes with the element at `index`, as it is stored."""
    axis = op.axis % max(1, len(x.shape))
    if len(arg.shape) == 0 or arg.number is not None:
        return read(arg, [])
    if op.block_size:
        return read(arg, [tirx.floordiv(k, op.block_size) if a == axis else k for a, k in enumerate(index)])
    return read(arg, [index[axis]])


def _quotient_type(op: Any, x: Arg, scale: Arg) -> str:
    """The type of x / scale as numpy finds it, once narrow floats are float32."""
    given = [x.type.dtype, scale.type.dtype] if op.precision is None else [op.precision]
    return np.result_type(*(FLOAT32.numpy if t.is_float and t.bits < 32 else t.numpy for t in given)).name


def _saturating(target: DType, zero: int) -> Callable[..., Expr]:
    """As `_rounding`, for a known zero point and at most 16 bits."""
    info = ml_dtypes.iinfo(target.numpy)
    return lambda ratio: saturated(ratio, zero, int(info.min), int(info.max))


def _narrowing(target: DType, zero: int) -> Callable[..., Expr]:
    """As `_saturating`, for 8 bits and quotients that are known to be within the range of int32; the result has the type itself."""
    return lambda ratio: narrowed(ratio, zero, target.name)


def _rounding(target: DType, real: str) -> Callable[..., Expr]:
    """From the quotient and the zero point, if there is one, to the integer, as int32 or, for wide targets, int64."""
    info = ml_dtypes.iinfo(target.numpy)

    def clamped(v: Expr, low: int | float, high: int | float) -> Expr:
        least, most = tirx.const(low, type_of(v)), tirx.const(high, type_of(v))
        return named(v, lambda n: tirx.Select(n > most, most, tirx.Select(n < least, least, n)))

    def whole(ratio: Expr) -> Expr:
        return named(tirx.nearbyint(ratio), lambda n: tirx.Select(tirx.isnan(n), tirx.const(0.0, real), n))

    def narrow(ratio: Expr, *zero: Expr) -> Expr:
        value = nearest(ratio)
        for point in zero:
            value = value + point.astype("int32")
        return clamped(value, int(info.min), int(info.max))

    def broad(ratio: Expr, *zero: Expr) -> Expr:
        value = number_as(whole(ratio), "float64")
        for point in zero:
            value = value + point.astype("float64")
        return clamped(value, float(info.min), float(info.max)).astype("int64")

    return narrow if target.bits < 32 else broad
