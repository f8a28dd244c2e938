"""Between element types: codes of small floats and integers to numbers and back, exactly, in integer arithmetic that vectorises.

A small float is decoded to float32, which holds all values of every such type, and encoded from float32 with one rounding, half to
even. Numbers that float32 does not hold are rounded to odd first, so that the second rounding gives what a single one would (S. Boldo,
G. Melquiond, "Emulation of a FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008).

The formats are those of ONNX's `Cast`: P. Micikevicius et al., "FP8 formats for deep learning", 2022 (e4m3fn, e5m2); B. Noune et al.,
"8-bit numerical formats for deep neural networks", 2022 (fnuz); OCP, "Microscaling formats", 2023 (e2m1fn, e8m0fnu).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tvm import tirx

from lepton_compiler.backends.tvm.carriers import CARRIERS, carrier, computed
from lepton_compiler.backends.tvm.lower.context import Expr
from lepton_compiler.backends.tvm.lower.scalar import is_float, type_of
from lepton_compiler.backends.tvm.naming import named
from lepton_compiler.backends.tvm.outline import outlined
from lepton_compiler.ir.types import DType


@dataclass(frozen=True)
class Format:
    """How a small float with a sign is written.

    Attributes:
        mantissa: bits of the fraction.
        bias: of the exponent.
        sign: the sign bit.
        largest: code of the largest finite number.
        overflow: code of what larger numbers become without saturation.
        nan: code of NaN.
        signed_zero: whether the sign bit goes with zero and NaN as well; where not, the sign bit alone is NaN.
    """

    mantissa: int
    bias: int
    sign: int
    largest: int
    overflow: int
    nan: int
    signed_zero: bool = True


FORMATS = {
    "bfloat16": Format(7, 127, 0x8000, 0x7F7F, 0x7F80, 0x7FC0),
    "float8_e4m3fn": Format(3, 7, 0x80, 0x7E, 0x7F, 0x7F),
    "float8_e4m3fnuz": Format(3, 8, 0x80, 0x7F, 0x80, 0x80, signed_zero=False),
    "float8_e5m2": Format(2, 15, 0x80, 0x7B, 0x7C, 0x7E),
    "float8_e5m2fnuz": Format(2, 16, 0x80, 0x7F, 0x80, 0x80, signed_zero=False),
    "float4_e2m1fn": Format(1, 1, 0x8, 0x7, 0x7, 0x8),
}
SATURATED = frozenset(n for n in FORMATS if n.startswith("float8"))
"""Types to which `Cast.saturate` applies."""

FLOAT32_MANTISSA, FLOAT32_BIAS, FLOAT32_SIGN, FLOAT32_INFINITY, FLOAT32_NAN = 23, 127, 31, 0x7F800000, 0x7FC00000


def convert(x: Expr, source: DType, target: DType, *, saturate: bool = True, round_mode: str = "up") -> Expr:
    """`x`, a number of type `source` or its code, as `target` or its code, as `Cast` converts it."""
    if source == target:
        return x
    if target.name in CARRIERS:
        return encoded(decoded(x, source), target, saturate=saturate, round_mode=round_mode)
    return number_as(decoded(x, source), target.name)


def number_as(x: Expr, target: str) -> Expr:
    """A number as another type of numbers; floats go to integers through signed ones that hold more, so that negative ones wrap around."""
    if type_of(x) == target:
        return x
    if target == "bool":
        return _is_not_zero(x)
    if is_float(x) and target in ("int8", "uint8", "int16", "uint16"):
        return x.astype("int32").astype(target)
    if is_float(x) and target == "uint32":
        return x.astype("int64").astype(target)
    if is_float(x) and target == "uint64":
        return outlined(_unsigned, x)
    return x.astype(target)


def _unsigned(x: Expr) -> Expr:
    """A float as uint64: what int64 does not hold is converted less 2^63, which is the bit that is put back."""
    wide = x if type_of(x) != "float16" else _name(x.astype("float32"))
    zero, limit = tirx.const(0.0, type_of(wide)), tirx.const(2.0**63, type_of(wide))
    excess = _name(tirx.Select(wide >= limit, limit, zero))
    top = tirx.Select(excess > zero, tirx.const(-(1 << 63), "int64"), tirx.const(0, "int64"))
    return tirx.bitwise_xor((wide - excess).astype("int64"), top).astype("uint64")


def _is_not_zero(x: Expr) -> Expr:
    """Truth of a number; of floats by their bits, because TVM's comparison is false for NaN."""
    if is_float(x):
        kind = f"int{type_of(x)[5:]}"
        x = tirx.shift_left(tirx.reinterpret(kind, x), tirx.const(1, kind))
    return tirx.NE(x, tirx.const(0, type_of(x)))


def decoded(x: Expr, element: DType) -> Expr:
    """The number that `x` is the code of: float32, int8 or uint8; of other types `x` itself."""
    if element.name not in CARRIERS:
        return x
    if not element.is_float:
        return outlined(lambda v: _integer(v, element), x)
    return outlined(_power if element.name == "float8_e8m0fnu" else lambda v: _real(v, FORMATS[element.name]), x)


def encoded(x: Expr, element: DType, *, saturate: bool = True, round_mode: str = "up") -> Expr:
    """The code of a number in a type that has a carrier."""
    if not element.is_float:
        return tirx.bitwise_and(number_as(x, "uint8"), tirx.const((1 << element.bits) - 1, "uint8"))
    build = _exponent_code(saturate, round_mode) if element.name == "float8_e8m0fnu" else _code(element, saturate)
    return outlined(lambda v: build(_rounded_once(v)).astype(carrier(element).name), x)


def _i32(value: int) -> Expr:
    return tirx.const(value, "int32")


def _bits(x: Expr) -> Expr:
    return tirx.reinterpret("int32", x)


def _name(x: Expr) -> Expr:
    """A name for `x` inside the function that is being outlined."""
    return named(x, lambda v: v)


def _float_bits(value: float) -> int:
    return int(np.float32(value).view(np.int32))


def _integer(code: Expr, element: DType) -> Expr:
    """The low bits as a number: what stands in the sign bit counts negative."""
    low = tirx.bitwise_and(code, tirx.const((1 << element.bits) - 1, "uint8")).astype(computed(element).name)
    if element.kind == "uint":
        return low
    sign = tirx.const(1 << (element.bits - 1), "int8")
    return tirx.bitwise_xor(low, sign) - sign


def _real(code: Expr, form: Format) -> Expr:
    """A float of the same bits with a longer exponent; numbers below the smallest normal one are whole multiples of the smallest one."""
    if form.bias == FLOAT32_BIAS:
        return tirx.reinterpret("float32", tirx.shift_left(code.astype("int32"), _i32(16)))
    wide = _name(code.astype("int32"))
    magnitude = _name(tirx.bitwise_and(wide, _i32(form.sign - 1)))
    gap = FLOAT32_MANTISSA - form.mantissa
    normal = tirx.shift_left(magnitude, _i32(gap)) + _i32((FLOAT32_BIAS - form.bias) << FLOAT32_MANTISSA)
    tiny = _bits(magnitude.astype("float32") * tirx.const(2.0 ** (1 - form.bias - form.mantissa), "float32"))
    bits = tirx.Select(magnitude < _i32(1 << form.mantissa), tiny, normal)
    if form.signed_zero and form.overflow > form.largest:
        infinity = FLOAT32_NAN if form.overflow == form.nan else FLOAT32_INFINITY
        special = tirx.Select(tirx.EQ(magnitude, _i32(form.overflow)), _i32(infinity), _i32(FLOAT32_NAN))
        bits = tirx.Select(magnitude > _i32(form.largest), special, bits)
    gap = FLOAT32_SIGN - form.sign.bit_length() + 1
    sign = tirx.bitwise_and(tirx.shift_left(wide, _i32(gap)), _i32(-(1 << FLOAT32_SIGN)))
    signed = tirx.bitwise_or(bits, sign)
    if not form.signed_zero:
        signed = tirx.Select(tirx.EQ(wide, _i32(form.sign)), _i32(FLOAT32_NAN - (1 << FLOAT32_SIGN)), signed)
    return tirx.reinterpret("float32", signed)


def _power(code: Expr) -> Expr:
    """A power of two: code 0 is 2^-127, below float32's normal numbers, and 255 is NaN."""
    wide = _name(code.astype("int32"))
    bits = tirx.Select(tirx.EQ(wide, _i32(0)), _i32(1 << (FLOAT32_MANTISSA - 1)), tirx.shift_left(wide, _i32(FLOAT32_MANTISSA)))
    return tirx.reinterpret("float32", tirx.Select(tirx.EQ(wide, _i32(255)), _i32(FLOAT32_NAN), bits))


def _code(element: DType, saturate: bool) -> Callable[[Expr], Expr]:
    """Rounding to a small float: the exponent moved and the fraction cut in one addition, which carries into the exponent."""
    form = FORMATS[element.name]
    gap = FLOAT32_MANTISSA - form.mantissa
    smallest = 2.0 ** (1 - form.bias - form.mantissa)

    def magnitude_code(magnitude: Expr) -> Expr:
        moved = magnitude - _i32((FLOAT32_BIAS - form.bias) << FLOAT32_MANTISSA)
        odd = tirx.bitwise_and(tirx.shift_right(magnitude, _i32(gap)), _i32(1))
        normal = tirx.shift_right(moved + odd + _i32((1 << (gap - 1)) - 1), _i32(gap))
        if form.bias == FLOAT32_BIAS:
            return normal
        shift = smallest * 2.0**FLOAT32_MANTISSA
        tiny = _bits(tirx.reinterpret("float32", magnitude) + tirx.const(shift, "float32")) - _i32(_float_bits(shift))
        return tirx.Select(magnitude < _i32(_float_bits(2.0 ** (1 - form.bias))), tiny, normal)

    def build(x: Expr) -> Expr:
        bits = _name(_bits(x))
        magnitude = _name(tirx.bitwise_and(bits, _i32(0x7FFFFFFF)))
        sign = tirx.bitwise_and(tirx.shift_right(bits, _i32(31)), _i32(form.sign))
        rounded = _name(magnitude_code(magnitude))
        limit = form.largest if saturate and element.name in SATURATED else form.overflow
        code = tirx.Select(rounded > _i32(form.largest), _i32(limit), rounded)
        code = _name(tirx.Select(magnitude > _i32(FLOAT32_INFINITY), _i32(form.nan), code))
        if form.signed_zero:
            return tirx.bitwise_xor(code, sign)
        return tirx.Select(tirx.EQ(code, _i32(0)), _i32(0), tirx.bitwise_or(code, sign))

    return build


def _exponent_code(saturate: bool, round_mode: str) -> Callable[[Expr], Expr]:
    """The exponent of the magnitude rounded to a power of two; the largest one is 254, and 255 is NaN."""

    def build(x: Expr) -> Expr:
        bits = _name(_bits(x))
        exponent = _name(tirx.bitwise_and(tirx.shift_right(bits, _i32(FLOAT32_MANTISSA)), _i32(255)))
        mantissa = _name(tirx.bitwise_and(bits, _i32((1 << FLOAT32_MANTISSA) - 1)))
        half = _i32(1 << (FLOAT32_MANTISSA - 1))
        match round_mode:
            case "up":
                rounded = exponent + tirx.Select(mantissa > _i32(0), _i32(1), _i32(0))
            case "down":
                rounded = exponent
            case _:
                upwards = tirx.Or(mantissa > half, tirx.And(tirx.EQ(mantissa, half), exponent > _i32(0)))
                rounded = exponent + tirx.Select(upwards, _i32(1), _i32(0))
        limit = _i32(254 if saturate else 255)
        return tirx.Select(tirx.EQ(exponent, _i32(255)), exponent, tirx.Select(rounded > limit, limit, rounded))

    return build


def _rounded_once(x: Expr) -> Expr:
    """float32 that rounds to a small float as `x` does."""
    kind = type_of(x)
    if kind in ("float32", "float16", "bool", "int8", "uint8", "int16", "uint16"):
        return x if kind == "float32" else _name(x.astype("float32"))
    exact = x if kind == "float64" else _name((_sticky(x) if kind in ("int64", "uint64") else x).astype("float64"))
    single = _name(exact.astype("float32"))
    back, bits = _name(single.astype("float64")), _name(_bits(single))
    inexact = tirx.Or(back < exact, back > exact)
    larger = tirx.abs(back) > tirx.abs(exact)
    toward = bits + tirx.Select(larger, _i32(-1), _i32(1))
    uneven = tirx.And(inexact, tirx.EQ(tirx.bitwise_and(bits, _i32(1)), _i32(0)))
    return _name(tirx.reinterpret("float32", tirx.Select(uneven, toward, bits)))


def _sticky(x: Expr) -> Expr:
    """A 64-bit integer that float64 holds, on the same side of every multiple of 4096 as `x`; `x` itself below 2^53."""
    kind = type_of(x)

    def const(value: int) -> Expr:
        return tirx.const(value, kind)

    rest = _name(tirx.bitwise_and(x, const(0xFFF)))
    cut = x - rest + tirx.Select(tirx.NE(rest, const(0)), const(0x800), const(0))
    small = x < const(1 << 53)
    return tirx.Select(small if kind == "uint64" else tirx.And(small, x > const(-(1 << 53))), x, cut)
