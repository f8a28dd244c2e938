"""Quantization on cores without vectors: with a floating-point unit for single numbers, and without any.

A core without such a unit computes floats by functions of dozens of instructions. Where codes of 8 bits result, the number that is rounded is
worked out as a fraction in fixed point instead, in a few instructions. It differs from what float32 arithmetic gives by less than
`WINDOW / 2**32`, so both round to the same integer, unless the fraction is closer than that to the middle between two; then, once in
thousands of times, the floats are computed after all. Beyond `LARGEST` either way codes are saturated, however the number is rounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from tvm import tirx
from tvm.ir import Call

from lepton_compiler.backends.tvm.lower.context import Arg, Expr, Read, element_for
from lepton_compiler.backends.tvm.lower.conversion import convert
from lepton_compiler.backends.tvm.lower.quantize import LEAST_DIVISOR, quantize
from lepton_compiler.backends.tvm.lower.scalar import clamp, type_of
from lepton_compiler.backends.tvm.naming import named
from lepton_compiler.backends.tvm.outline import PREFIX, body_of, is_outlined, outlined, rarely, saturated
from lepton_compiler.ir.types import FLOAT32, TensorType, dtype

WINDOW = 1 << 21
"""How close to a half, in units of 2^-32, a fraction may come: 2^-11."""
LARGEST = 1 << 10
"""Numbers up to this size have float32 neighbours closer than 2^-13, so that four roundings stay within the window."""
LEAST_FACTOR = 2.0**-20
"""Of small integers, whose products have a common point."""
FRACTION, EXPONENT, BIAS = 23, 0xFF, 127
"""Float32."""
HALF = 1 << 31
MANTISSA = 30
"""The place of the leading bit of a mantissa as an integer."""

Terms = list[tuple[Expr, Expr]]


@element_for("single", "QuantizeLinear")
def quantize_by_division(op: Any, kind: TensorType, index: Sequence[Expr], read: Read, x: Arg, scale: Arg, zero: Arg | None = None) -> Expr:
    """A division is one instruction, shorter than finding out that a multiplication does. Codes with a factor of one stay integers."""
    terms = products(read(x, index)) if _to_codes(op, x, scale, zero) and scale.number == 1 else None
    if terms is not None and len(terms) == 1 and _is_small(*terms[0]) and float(terms[0][1].value) == 1:
        return _converted(outlined(_clamped(op, zero), terms[0][0]), op)
    return quantize(op, kind, index, read, x, scale, zero, multiplies=False)


@element_for("none", "QuantizeLinear")
def quantize_in_integers(op: Any, kind: TensorType, index: Sequence[Expr], read: Read, x: Arg, scale: Arg, zero: Arg | None = None) -> Expr:
    """As `quantize`; numbers that are sums of scaled integers, and given ones by a known scale, in integers."""
    if not _to_codes(op, x, scale, zero):
        return quantize(op, kind, index, read, x, scale, zero)
    info, point, clamped = ml_dtypes.iinfo(op.dtype.numpy), _point(zero), _clamped(op, zero)

    def codes(ratio: Expr) -> Expr:
        return saturated(ratio, point, int(info.min), int(info.max))

    value, divisor = read(x, index), float(np.float32(scale.number))
    terms = products(value) if divisor == 1 else None
    if terms is not None and all(_is_small(number, factor) for number, factor in terms):
        factors = [float(factor.value) for _, factor in terms]
        code = outlined(clamped if factors == [1] else _summed(factors, codes, clamped), *(number for number, _ in terms))
    elif terms is not None and len(terms) == 1:
        code = outlined(_scaled(codes, clamped), *terms[0])
    elif LEAST_DIVISOR < divisor < 1 / LEAST_DIVISOR:
        code = outlined(_divided(divisor, codes, clamped), value)
    else:
        return quantize(op, kind, index, read, x, scale, zero)
    return _converted(code, op)


def _to_codes(op: Any, x: Arg, scale: Arg, zero: Arg | None) -> bool:
    """Whether numbers of float32 become 8-bit codes by a known scale and zero point."""
    codes = op.dtype.is_integer and op.dtype.bits == 8 and op.precision is None and x.type.dtype == FLOAT32
    return codes and scale.number is not None and scale.type.dtype == FLOAT32 and (zero is None or zero.number is not None)


def _point(zero: Arg | None) -> int:
    return int(zero.number or 0) if zero is not None else 0


def _clamped(op: Any, zero: Arg | None) -> Callable[[Expr], Expr]:
    """From a whole number to its code, as int32."""
    info, point = ml_dtypes.iinfo(op.dtype.numpy), _point(zero)
    low, high = tirx.const(int(info.min), "int32"), tirx.const(int(info.max), "int32")
    return lambda whole: clamp(whole + point if point else whole, low, high)


def _converted(code: Expr, op: Any) -> Expr:
    return convert(code, dtype(type_of(code)), op.dtype)


def products(value: Expr) -> Terms | None:
    """The int32 numbers and their float32 factors of whose products an expression is the sum; None if it is no such sum."""
    value = _opened(value)
    if isinstance(value, tirx.Add):
        left, right = products(value.a), products(value.b)
        return [*left, *right] if left and right and len(left) == len(right) == 1 else None
    if isinstance(value, tirx.Mul):
        for number, factor in ((value.a, value.b), (value.b, value.a)):
            if (whole := _whole(number)) is not None:
                return [(whole, factor)]
    whole = _whole(value)
    return None if whole is None else [(whole, tirx.const(1.0, "float32"))]


def _whole(number: Expr) -> Expr | None:
    """The int32 that a float32 is the conversion of."""
    if isinstance(number, tirx.Cast) and type_of(number) == "float32" and type_of(number.value) in ("int8", "uint8", "int16", "int32"):
        return number.value.astype("int32")
    return None


def _opened(value: Expr) -> Expr:
    """The sum or product that a call of an outlined function stands for; any other expression as it is."""
    if not isinstance(value, Call) or not is_outlined(value):
        return value
    parameters, body = body_of(str(value.op.name)[len(PREFIX) :])
    plain = (
        isinstance(body, tirx.Add | tirx.Mul) and len(parameters) == 2 and body.a.same_as(parameters[0]) and body.b.same_as(parameters[1])
    )
    return type(body)(*value.args) if plain else value


def _is_small(number: Expr, factor: Expr) -> bool:
    """Whether a number is a code, perhaps less another one, and the factor a constant, so that the product is not larger than `LARGEST`."""
    if not isinstance(factor, tirx.FloatImm) or not LEAST_FACTOR <= float(factor.value) <= LARGEST / 512:
        return False
    if isinstance(number, tirx.Sub) and isinstance(number.b, tirx.IntImm) and abs(int(number.b.value)) <= EXPONENT:
        number = number.a
    return isinstance(number, tirx.Cast) and type_of(number.value) in ("int8", "uint8")


def _scaled(codes: Callable[[Expr], Expr], clamped: Callable[[Expr], Expr]) -> Callable[..., Expr]:
    """The codes of an integer times a factor, whose exponent says where the point of their product is."""

    def exact(number: Expr, factor: Expr, quick: Expr) -> Expr:
        return codes(number.astype("float32") * factor)

    def body(number: Expr, factor: Expr) -> Expr:
        bits = _bits(factor)
        places = named(tirx.const(BIAS - 2, "int32") - tirx.shift_right(bits, tirx.const(FRACTION, "int32")), lambda v: v)
        product = named(number.astype("int64") * _mantissa(bits).astype("int64"), lambda v: v)
        whole, near = _rounded(product, places)
        unusual = tirx.Or(near, _outside(places))
        return rarely(unusual, exact, lambda n, f, quick: clamped(quick), number, factor, whole)

    return body


def _divided(divisor: float, codes: Callable[[Expr], Expr], clamped: Callable[[Expr], Expr]) -> Callable[[Expr], Expr]:
    """The codes of a number divided by a known one: its mantissa times that of the reciprocal."""
    inverse, power = math.frexp(1 / divisor)
    factor = min(round(inverse * HALF), HALF - 1)

    def exact(x: Expr, quick: Expr) -> Expr:
        return codes(x / tirx.const(divisor, "float32"))

    def body(x: Expr) -> Expr:
        bits = _bits(x)
        exponent = tirx.bitwise_and(tirx.shift_right(bits, tirx.const(FRACTION, "int32")), tirx.const(EXPONENT, "int32"))
        # below a quarter it does not matter how much
        places = named(_most(tirx.const(MANTISSA - 1 + BIAS - power, "int32") - exponent, 31), lambda v: v)
        sign = named(tirx.shift_right(bits, tirx.const(31, "int32")), lambda v: v)
        signed = tirx.bitwise_xor(_mantissa(bits), sign) - sign
        product = named(signed.astype("int64") * tirx.const(factor, "int64"), lambda v: v)
        whole, near = _rounded(product, places)
        return rarely(tirx.Or(near, _outside(places)), exact, lambda x, quick: clamped(quick), x, whole)

    return body


def _summed(factors: Sequence[float], codes: Callable[[Expr], Expr], clamped: Callable[[Expr], Expr]) -> Callable[..., Expr]:
    """The codes of a sum of small integers times known factors: one point for all products."""
    places = MANTISSA - math.frexp(max(factors))[1]
    whole_factors = [round(factor * 2.0**places) for factor in factors]

    def total(terms: Sequence[Expr]) -> Expr:
        return terms[0] if len(terms) == 1 else terms[0] + terms[1]

    def exact(*numbers: Expr) -> Expr:
        return codes(total([n.astype("float32") * tirx.const(f, "float32") for n, f in zip(numbers, factors, strict=False)]))

    def body(*numbers: Expr) -> Expr:
        product = total([n.astype("int64") * tirx.const(f, "int64") for n, f in zip(numbers, whole_factors, strict=True)])
        shifted = product * tirx.const(1 << (33 - places), "int64") if places < 33 else product
        whole, near = _rounded(named(shifted, lambda v: v), tirx.const(max(places, 33) - 32, "int32"))
        return rarely(near, exact, lambda *rest: clamped(rest[-1]), *numbers, whole)

    return body


def _bits(x: Expr) -> Expr:
    return named(tirx.reinterpret("int32", x), lambda v: v)


def _mantissa(bits: Expr) -> Expr:
    """The mantissa of a normal float as an integer of 31 bits."""
    moved = tirx.shift_left(bits, tirx.const(MANTISSA - FRACTION, "int32"))
    leading = tirx.const(1 << MANTISSA, "int32")
    return tirx.bitwise_or(tirx.bitwise_and(moved, tirx.const((1 << MANTISSA) - 1, "int32")), leading)


def _most(x: Expr, most: int) -> Expr:
    return named(x, lambda v: tirx.Select(v > most, tirx.const(most, "int32"), v))


def _outside(places: Expr) -> Expr:
    """Whether a number of places is none of 1 to 31."""
    return (places - 1).astype("uint32") >= tirx.const(31, "uint32")


def _rounded(product: Expr, places: Expr) -> tuple[Expr, Expr]:
    """`product / 2**(32 + places)` rounded, and whether its fraction is near a half.

    `product` is at most 2^62 either way, `places` one of 1 to 31.
    """
    one = tirx.const(1, "int32")
    half = tirx.shift_left(one, places - 1)
    high = named(tirx.shift_right(product, tirx.const(32, "int64")).astype("int32") + half, lambda v: v)
    low = tirx.shift_right(product.astype("uint32"), places.astype("uint32"))
    fraction = tirx.bitwise_or(tirx.shift_left(high, tirx.const(32, "int32") - places).astype("uint32"), low)
    near = fraction + tirx.const(WINDOW, "uint32") < tirx.const(2 * WINDOW, "uint32")
    return named(tirx.shift_right(high, places), lambda v: v), near
