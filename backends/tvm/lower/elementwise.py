"""Element-wise operators: one expression per output element, with numpy broadcasting."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx

from lepton_compiler.backends.tvm.carriers import carrier
from lepton_compiler.backends.tvm.lower import integers
from lepton_compiler.backends.tvm.lower import scalar as sc
from lepton_compiler.backends.tvm.lower.context import Arg, Expr, Read, element, wide
from lepton_compiler.backends.tvm.lower.conversion import convert, number_as
from lepton_compiler.backends.tvm.lower.scalar import clamp, const, is_float, library, maximum, minimum, type_of
from lepton_compiler.backends.tvm.naming import named
from lepton_compiler.backends.tvm.outline import outlined
from lepton_compiler.ir.op import Op
from lepton_compiler.ir.types import TensorType


def _relu(x: Expr) -> Expr:
    return named(x, lambda v: tirx.Select(v < const(0, v), const(0, v), v))


def _div(a: Expr, b: Expr) -> Expr:
    return outlined(operator.truediv, a, b) if is_float(a) else integers.divide(a, b)


def _inverse_root(x: Expr) -> Expr:
    """Inverse square root as a power: it is 0 for minus infinity, and plus infinity for minus zero."""
    return tirx.Select(
        x.equal(const(-math.inf, x)), const(0, x), const(1, x) / tirx.sqrt(tirx.Select(x.equal(const(0, x)), const(0, x), x))
    )


def _pow(a: Expr, b: Expr) -> Expr:
    if isinstance(b, tirx.FloatImm | tirx.IntImm) and is_float(a):
        match float(b.value):
            case 1.0:
                return a
            case 2.0:
                return named(a, lambda v: v * v)
            case 3.0:
                return named(a, lambda v: v * v * v)
            case 4.0:
                return named(a, lambda v: named(v * v, lambda s: s * s))
            case 0.5:
                return tirx.sqrt(a)
            case -0.5:
                return outlined(_inverse_root, a)
            case -1.0:
                return const(1, a) / a
    if not is_float(a) and not is_float(b):
        return integers.power(a, b)
    kind = "float64" if not is_float(a) or type_of(b) in ("int32", "int64", "uint32", "uint64", "float64") else type_of(a)
    return number_as(sc.power(a.astype(kind), b.astype(kind)), type_of(a))


def _mod(op: Any, a: Expr, b: Expr) -> Expr:
    """Remainder with the sign of the divisor, or of the dividend with `fmod`."""
    if not is_float(a):
        return integers.remainder(a, b, of_dividend=op.fmod)
    if op.fmod:
        return library("fmod", a, b)

    def signed(r: Expr, d: Expr) -> Expr:
        return tirx.Select(tirx.And(r != const(0, r), tirx.Not(_as_number(r < const(0, r)) == _as_number(d < const(0, d)))), r + d, r)

    return named(b, lambda d: named(library("fmod", a, d), lambda r: signed(r, d)))


def _as_number(x: Expr) -> Expr:
    """Truth values as int8: LLVM has no equality of boolean vectors in TVM's hands."""
    return x.astype("int8") if type_of(x) == "bool" else x


def _sign(x: Expr) -> Expr:
    zero, one = const(0, x), const(1, x)
    unsigned = type_of(x).startswith("uint")
    return tirx.Select(x > zero, one, zero if unsigned else tirx.Select(x < zero, const(-1, x), _zero_or_nan(x) if is_float(x) else zero))


def _zero_or_nan(x: Expr) -> Expr:
    return tirx.Select(tirx.isnan(x), x, const(0, x))


def _shrink(op: Any, x: Expr) -> Expr:
    """Integers are moved as float64 and truncated."""
    v = x if is_float(x) else number_as(x, "float64")
    inside = tirx.Select(v > const(op.lambd, v), v - const(op.bias, v), const(0, v))
    return number_as(tirx.Select(v < const(-op.lambd, v), v + const(op.bias, v), inside), type_of(x))


def _line(op: Any, x: Expr) -> Expr:
    if not math.isfinite(op.shift):
        return const(op.alpha, x) * x + const(op.beta, x)
    return (x + const(op.shift, x)) * const(op.alpha, x)


def _elu(x: Expr, alpha: float) -> Expr:
    return named(x, lambda v: tirx.Select(v > const(0, v), v, const(alpha, v) * sc.expm1(minimum(v, const(0, v)))))


def _celu(op: Any, x: Expr) -> Expr:
    """With an alpha below zero the exponent is above it, where the plain difference does not cancel."""
    zero, alpha = const(0, x), const(op.alpha, x)
    scaled = minimum(x, zero) / alpha
    return maximum(x, zero) + alpha * (sc.expm1(scaled) if op.alpha > 0 else sc.exp(scaled) - const(1, x))


def _gelu(op: Any, x: Expr) -> Expr:
    """The tanh form as `x sigmoid(2 u)`, which is `x (1 + tanh u) / 2` without its cancellation far below zero."""
    half, one = const(0.5, x), const(1, x)
    if op.approximate == "tanh":
        return x * sc.sigmoid(const(2 * math.sqrt(2 / math.pi), x) * (x + const(0.044715, x) * x * x * x))
    return half * x * (one + sc.erf(x * const(math.sqrt(0.5), x)))


UNARY: dict[str, Callable[[Any, Expr], Expr]] = {
    "Abs": lambda op, x: tirx.abs(x) if is_float(x) else outlined(integers.absolute, x) if integers.is_signed(x) else x,
    "Acos": lambda op, x: sc.acos(x),
    "Acosh": lambda op, x: sc.acosh(x),
    "Asin": lambda op, x: sc.asin(x),
    "Asinh": lambda op, x: sc.asinh(x),
    "Atan": lambda op, x: sc.atan(x),
    "Atanh": lambda op, x: sc.atanh(x),
    "BitwiseNot": lambda op, x: tirx.bitwise_not(x),
    "Ceil": lambda op, x: tirx.ceil(x),
    "Cos": lambda op, x: sc.cos(x),
    "Cosh": lambda op, x: sc.cosh(x),
    "Erf": lambda op, x: sc.erf(x),
    "Exp": lambda op, x: sc.exp(x),
    "Floor": lambda op, x: tirx.floor(x),
    "Log": lambda op, x: sc.log(x),
    "Neg": lambda op, x: -x if is_float(x) else outlined(integers.negative, x),
    "Not": lambda op, x: tirx.Not(x),
    "Reciprocal": lambda op, x: const(1, x) / x,
    "Round": lambda op, x: tirx.nearbyint(x),
    "Sigmoid": lambda op, x: sc.sigmoid(x),
    "Sign": lambda op, x: _sign(x),
    "Sin": lambda op, x: sc.sin(x),
    "Sinh": lambda op, x: sc.sinh(x),
    "Sqrt": lambda op, x: tirx.sqrt(x),
    "Tan": lambda op, x: sc.tan(x),
    "Tanh": lambda op, x: sc.tanh(x),
    "IsNaN": lambda op, x: tirx.isnan(x),
    "IsInf": lambda op, x: tirx.Or(
        tirx.And(tirx.const(op.detect_positive, "bool"), x == const(math.inf, x)),
        tirx.And(tirx.const(op.detect_negative, "bool"), x == const(-math.inf, x)),
    ),
    "Relu": lambda op, x: _relu(x),
    "Celu": lambda op, x: _celu(op, x),
    "Elu": lambda op, x: _elu(x, op.alpha),
    "Gelu": _gelu,
    "HardSigmoid": lambda op, x: clamp(_line(op, x), const(0, x), const(1, x)),
    "HardSwish": lambda op, x: x * (sc.rounded(clamp(x + const(3, x), const(0, x), const(6, x))) * const(1 / 6, x)),
    "LeakyRelu": lambda op, x: tirx.Select(x < const(0, x), x * const(op.alpha, x), x),
    "Mish": lambda op, x: sc.mish(x),
    "Selu": lambda op, x: _elu(x, op.alpha) * const(op.gamma, x),
    "Shrink": lambda op, x: _shrink(op, x),
    "Softplus": lambda op, x: sc.softplus(x),
    "Softsign": lambda op, x: x / (const(1, x) + tirx.abs(x)),
    "Swish": lambda op, x: x * sc.sigmoid(x if op.alpha == 1.0 else const(op.alpha, x) * x),
    "ThresholdedRelu": lambda op, x: tirx.Select(x > const(op.alpha, x), x, const(0, x)),
}

# Arithmetic and comparisons are outlined: TVM, which thinks of indices, would take `x - x` for 0, `x == x` for true,
# `(x * 4) % 3` for `x % 3`, and `not a > b` for `a <= b`; with NaN, infinities, and numbers that wrap around, none of it holds.
BINARY: dict[str, Callable[[Any, Expr, Expr], Expr]] = {
    "Add": lambda op, a, b: outlined(operator.add, a, b),
    "Sub": lambda op, a, b: outlined(operator.sub, a, b),
    "Mul": lambda op, a, b: outlined(operator.mul, a, b),
    "Div": lambda op, a, b: _div(a, b),
    "Pow": lambda op, a, b: _pow(a, b),
    "Mod": lambda op, a, b: _mod(op, a, b),
    "And": lambda op, a, b: tirx.And(a, b),
    "Or": lambda op, a, b: tirx.Or(a, b),
    "Xor": lambda op, a, b: tirx.NE(_as_number(a), _as_number(b)),
    "Equal": lambda op, a, b: outlined(tirx.EQ, _as_number(a), _as_number(b)),
    "Greater": lambda op, a, b: outlined(operator.gt, a, b),
    "GreaterOrEqual": lambda op, a, b: outlined(operator.ge, a, b),
    "Less": lambda op, a, b: outlined(operator.lt, a, b),
    "LessOrEqual": lambda op, a, b: outlined(operator.le, a, b),
    "BitwiseAnd": lambda op, a, b: tirx.bitwise_and(a, b),
    "BitwiseOr": lambda op, a, b: tirx.bitwise_or(a, b),
    "BitwiseXor": lambda op, a, b: tirx.bitwise_xor(a, b),
    "BitShift": integers.shift,
    "Max": lambda op, a, b: once(maximum, a, b),
    "Min": lambda op, a, b: once(minimum, a, b),
    "Sum": lambda op, a, b: outlined(operator.add, a, b),
    "PRelu": lambda op, a, b: (
        a if type_of(a).startswith("uint") else once(lambda v, slope: tirx.Select(v < const(0, v), v * slope, v), a, b)
    ),
}


def once(build: Callable[..., Expr], *arguments: Expr) -> Expr:
    """`build(*arguments)` as a function of its own for float32; other types get names for their arguments."""
    if all(type_of(a) == "float32" for a in arguments):
        return outlined(build, *arguments)
    if not arguments:
        return build()
    first, *rest = arguments
    return named(first, lambda v: once(lambda *others: build(v, *others), *rest) if rest else build(v))


@element(*UNARY)
def unary(op: Op, kind: TensorType, index: Sequence[Expr], read: Read, x: Arg) -> Expr:
    """Functions of one element; float16 is computed in float32."""
    value = read(x, index)
    value = value if x.dtype == wide(x.dtype) else value.astype(wide(x.dtype))
    result = once(lambda v: UNARY[op.name](op, v), value)
    return result if type_of(result) == kind.dtype.name else result.astype(kind.dtype.name)


@element(*BINARY)
def binary(op: Op, kind: TensorType, index: Sequence[Expr], read: Read, *args: Arg) -> Expr:
    """Functions of two elements, folded over the operands of variadic operators."""
    operands = [read(a, index) if a.dtype == wide(a.dtype) else read(a, index).astype(wide(a.dtype)) for a in args]
    result = operands[0]
    for operand in operands[1:]:
        result = BINARY[op.name](op, result, operand)
    return result if type_of(result) == kind.dtype.name else result.astype(kind.dtype.name)


@element("Clip")
def clip(op: Op, kind: TensorType, index: Sequence[Expr], read: Read, x: Arg, low: Arg | None = None, high: Arg | None = None) -> Expr:
    """Limits are scalars; NaN stays NaN, and so does a computed limit. Float16 is compared in float32."""
    given = [(limit, least) for limit, least in ((low, True), (high, False)) if limit is not None]

    def limited(v: Expr, *limits: Expr) -> Expr:
        for bound, (limit, least) in zip(limits, given, strict=True):
            known = limit.number is not None and not math.isnan(limit.number)
            v = named(_limited(v, bound, least, known), lambda x: x)
        return v

    if not given:
        return read(x, index)
    operands = [read(x, index), *(read(limit, index) for limit, _ in given)]
    if x.dtype == wide(x.dtype):
        return outlined(limited, *operands)
    return outlined(limited, *(operand.astype(wide(x.dtype)) for operand in operands)).astype(kind.dtype.name)


def _limited(x: Expr, limit: Expr, least: bool, known: bool) -> Expr:
    """The larger or the smaller of `x` and a limit; one that is known is not NaN."""
    if known or not is_float(x):
        return tirx.Select(x < limit if least else x > limit, limit, x)
    return (maximum if least else minimum)(x, limit)


@element("Where")
def where(op: Op, kind: TensorType, index: Sequence[Expr], read: Read, condition: Arg, x: Arg, y: Arg) -> Expr:
    """Both sides are read; the choice is a vector select."""
    return tirx.Select(read(condition, index), read(x, index), read(y, index))


@element("Mean")
def mean(op: Op, kind: TensorType, index: Sequence[Expr], read: Read, *args: Arg) -> Expr:
    """Sum divided by the number of operands."""
    operands = [read(a, index).astype(wide(a.dtype)) for a in args]
    total = operands[0]
    for operand in operands[1:]:
        total = total + operand
    return (total / const(len(args), total)).astype(kind.dtype.name)


@element("Cast")
def cast(op: Any, kind: TensorType, index: Sequence[Expr], read: Read, x: Arg) -> Expr:
    """Conversion of numbers; to bool is a test for non-zero."""
    return convert(read(x, index), x.type.dtype, op.to, saturate=op.saturate, round_mode=op.round_mode)


@element("BitCast")
def bit_cast(op: Any, kind: TensorType, index: Sequence[Expr], read: Read, x: Arg) -> Expr:
    """The same bits as another type of the same width."""
    value, target = read(x, index), carrier(op.to).name
    return value if x.dtype == target else tirx.reinterpret(target, value)
