"""Element-wise operators: one expression per output element, with numpy broadcasting."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tvm import tirx

from lepton_compiler.backends.tvm import vecmath as vm
from lepton_compiler.backends.tvm.lower.context import Arg, Context, Expr, compute, lowers, wide
from lepton_compiler.ir.op import Op


def _const(value: float, like: Expr) -> Expr:
    return tirx.const(value, like.dtype)


def _is_float(x: Expr) -> bool:
    return str(x.dtype).startswith(("float", "bfloat"))


def _maximum(a: Expr, b: Expr) -> Expr:
    """NaN wins, as in numpy."""
    return tirx.Select(tirx.Or(a > b, a != a), a, b) if _is_float(a) else tirx.max(a, b)


def _minimum(a: Expr, b: Expr) -> Expr:
    return tirx.Select(tirx.Or(a < b, a != a), a, b) if _is_float(a) else tirx.min(a, b)


def _relu(x: Expr) -> Expr:
    return tirx.Select(x < _const(0, x), _const(0, x), x)


def _clamp(x: Expr, low: Expr, high: Expr) -> Expr:
    return tirx.Select(x < low, low, tirx.Select(x > high, high, x))


def _div(a: Expr, b: Expr) -> Expr:
    return a / b if _is_float(a) else tirx.truncdiv(a, b)


def _pow(a: Expr, b: Expr) -> Expr:
    if isinstance(b, tirx.FloatImm | tirx.IntImm) and _is_float(a):
        match float(b.value):
            case 1.0:
                return a
            case 2.0:
                return a * a
            case 3.0:
                return a * a * a
            case 4.0:
                return (a * a) * (a * a)
            case 0.5:
                return tirx.sqrt(a)
            case -0.5:
                return _const(1, a) / tirx.sqrt(a)
            case -1.0:
                return _const(1, a) / a
    if not _is_float(a):
        return tirx.pow(a.astype("float64"), b.astype("float64")).astype(a.dtype)
    return tirx.pow(a, b.astype(a.dtype))


def _sign(x: Expr) -> Expr:
    zero, one = _const(0, x), _const(1, x)
    unsigned = str(x.dtype).startswith("uint")
    return tirx.Select(x > zero, one, zero if unsigned else tirx.Select(x < zero, _const(-1, x), x if _is_float(x) else zero))


def _softplus(x: Expr) -> Expr:
    return _maximum(x, _const(0, x)) + vm.log(_const(1, x) + vm.exp(-tirx.abs(x)))


def _gelu(op: Any, x: Expr) -> Expr:
    half, one = _const(0.5, x), _const(1, x)
    if op.approximate == "tanh":
        inner = _const(math.sqrt(2 / math.pi), x) * (x + _const(0.044715, x) * x * x * x)
        return half * x * (one + vm.tanh(inner))
    return half * x * (one + vm.erf(x * _const(math.sqrt(0.5), x)))


UNARY: dict[str, Callable[[Any, Expr], Expr]] = {
    "Abs": lambda op, x: x if str(x.dtype).startswith("uint") else tirx.abs(x),
    "Acos": lambda op, x: tirx.acos(x),
    "Acosh": lambda op, x: tirx.acosh(x),
    "Asin": lambda op, x: tirx.asin(x),
    "Asinh": lambda op, x: tirx.asinh(x),
    "Atan": lambda op, x: tirx.atan(x),
    "Atanh": lambda op, x: tirx.atanh(x),
    "BitwiseNot": lambda op, x: tirx.bitwise_not(x),
    "Ceil": lambda op, x: tirx.ceil(x),
    "Cos": lambda op, x: vm.cos(x),
    "Cosh": lambda op, x: tirx.cosh(x),
    "Erf": lambda op, x: vm.erf(x),
    "Exp": lambda op, x: vm.exp(x),
    "Floor": lambda op, x: tirx.floor(x),
    "Log": lambda op, x: vm.log(x),
    "Neg": lambda op, x: -x,
    "Not": lambda op, x: tirx.Not(x),
    "Reciprocal": lambda op, x: _const(1, x) / x,
    "Round": lambda op, x: tirx.nearbyint(x),
    "Sigmoid": lambda op, x: vm.sigmoid(x),
    "Sign": lambda op, x: _sign(x),
    "Sin": lambda op, x: vm.sin(x),
    "Sinh": lambda op, x: tirx.sinh(x),
    "Sqrt": lambda op, x: tirx.sqrt(x),
    "Tan": lambda op, x: tirx.tan(x),
    "Tanh": lambda op, x: vm.tanh(x),
    "IsNaN": lambda op, x: x != x,
    "IsInf": lambda op, x: tirx.Or(
        tirx.And(tirx.const(op.detect_positive, "bool"), x == _const(math.inf, x)),
        tirx.And(tirx.const(op.detect_negative, "bool"), x == _const(-math.inf, x)),
    ),
    "Relu": lambda op, x: _relu(x),
    "Celu": lambda op, x: _maximum(x, _const(0, x)) + _minimum(_const(0, x), _const(op.alpha, x) * (vm.exp(x / _const(op.alpha, x)) - _const(1, x))),
    "Elu": lambda op, x: tirx.Select(x < _const(0, x), _const(op.alpha, x) * (vm.exp(x) - _const(1, x)), x),
    "Gelu": _gelu,
    "HardSigmoid": lambda op, x: _clamp(_const(op.alpha, x) * x + _const(op.beta, x), _const(0, x), _const(1, x)),
    "HardSwish": lambda op, x: x * _clamp(x * _const(1 / 6, x) + _const(0.5, x), _const(0, x), _const(1, x)),
    "LeakyRelu": lambda op, x: tirx.Select(x < _const(0, x), x * _const(op.alpha, x), x),
    "Mish": lambda op, x: x * vm.tanh(_softplus(x)),
    "Selu": lambda op, x: _const(op.gamma, x) * tirx.Select(x <= _const(0, x), _const(op.alpha, x) * (vm.exp(x) - _const(1, x)), x),
    "Shrink": lambda op, x: tirx.Select(
        x < _const(-op.lambd, x), x + _const(op.bias, x), tirx.Select(x > _const(op.lambd, x), x - _const(op.bias, x), _const(0, x))
    ),
    "Softplus": lambda op, x: _softplus(x),
    "Softsign": lambda op, x: x / (_const(1, x) + tirx.abs(x)),
    "Swish": lambda op, x: x * vm.sigmoid(x if op.alpha == 1.0 else _const(op.alpha, x) * x),
    "ThresholdedRelu": lambda op, x: tirx.Select(x > _const(op.alpha, x), x, _const(0, x)),
}

BINARY: dict[str, Callable[[Any, Expr, Expr], Expr]] = {
    "Add": lambda op, a, b: a + b,
    "Sub": lambda op, a, b: a - b,
    "Mul": lambda op, a, b: a * b,
    "Div": lambda op, a, b: _div(a, b),
    "Pow": lambda op, a, b: _pow(a, b),
    "Mod": lambda op, a, b: (tirx.fmod(a, b) if _is_float(a) else tirx.truncmod(a, b)) if op.fmod else tirx.floormod(a, b),
    "And": lambda op, a, b: tirx.And(a, b),
    "Or": lambda op, a, b: tirx.Or(a, b),
    "Xor": lambda op, a, b: a != b,
    "Equal": lambda op, a, b: a == b,
    "Greater": lambda op, a, b: a > b,
    "GreaterOrEqual": lambda op, a, b: a >= b,
    "Less": lambda op, a, b: a < b,
    "LessOrEqual": lambda op, a, b: a <= b,
    "BitwiseAnd": lambda op, a, b: tirx.bitwise_and(a, b),
    "BitwiseOr": lambda op, a, b: tirx.bitwise_or(a, b),
    "BitwiseXor": lambda op, a, b: tirx.bitwise_xor(a, b),
    "BitShift": lambda op, a, b: tirx.shift_left(a, b) if op.direction == "LEFT" else tirx.shift_right(a, b),
    "Max": lambda op, a, b: _maximum(a, b),
    "Min": lambda op, a, b: _minimum(a, b),
    "Sum": lambda op, a, b: a + b,
    "PRelu": lambda op, a, b: tirx.Select(a < _const(0, a), a * b, a),
}

TRUTH = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Xor", "Not", "IsNaN", "IsInf"})


@lowers(*UNARY)
def lower_unary(ctx: Context, op: Op, x: Arg) -> list[Any]:
    """Functions of one element; float16 is computed in float32."""
    function = UNARY[op.name]
    narrow = x.dtype != wide(x.dtype)

    def body(*i: Expr) -> Expr:
        result = function(op, x[i].astype(wide(x.dtype)) if narrow else x[i])
        return result.astype(x.dtype) if narrow and op.name not in TRUTH else result

    return [compute(x.shape, body, op.name.lower())]


@lowers(*BINARY)
def lower_binary(ctx: Context, op: Op, *args: Arg) -> list[Any]:
    """Functions of two elements, folded over the operands of variadic operators."""
    function, dtype = BINARY[op.name], args[0].dtype
    narrow = dtype != wide(dtype)

    def body(*i: Expr) -> Expr:
        operands = [a.at(i).astype(wide(a.dtype)) if narrow else a.at(i) for a in args]
        result = operands[0]
        for operand in operands[1:]:
            result = function(op, result, operand)
        return result.astype(dtype) if narrow and op.name not in TRUTH else result

    return [compute(ctx.outputs[0].static_shape, body, op.name.lower())]


@lowers("Clip")
def lower_clip(ctx: Context, op: Op, x: Arg, low: Arg | None = None, high: Arg | None = None) -> list[Any]:
    """Limits are scalars; NaN stays NaN."""

    def body(*i: Expr) -> Expr:
        value = x[i]
        if low is not None:
            value = tirx.Select(value < low.at(i), low.at(i), value)
        return value if high is None else tirx.Select(value > high.at(i), high.at(i), value)

    return [compute(x.shape, body, "clip")]


@lowers("Where")
def lower_where(ctx: Context, op: Op, condition: Arg, x: Arg, y: Arg) -> list[Any]:
    """Both sides are read; the choice is a vector select."""
    return [compute(ctx.outputs[0].static_shape, lambda *i: tirx.Select(condition.at(i), x.at(i), y.at(i)), "where")]


@lowers("Mean")
def lower_mean(ctx: Context, op: Op, *args: Arg) -> list[Any]:
    """Sum divided by the number of operands."""
    total = Arg(ctx.outputs[0], lower_binary(ctx, _SUM, *args)[0])
    return [compute(total.shape, lambda *i: total[i] / tirx.const(len(args), total.dtype), "mean")]


class _Sum:
    name = "Sum"


_SUM: Any = _Sum()


@lowers("Cast")
def lower_cast(ctx: Context, op: Any, x: Arg) -> list[Any]:
    """Numeric conversion; to bool is a test for non-zero."""
    return [compute(x.shape, lambda *i: convert(x[i], op.to.name), "cast")]


@lowers("BitCast")
def lower_bitcast(ctx: Context, op: Any, x: Arg) -> list[Any]:
    """The same bits as another type of the same width."""
    return [compute(x.shape, lambda *i: tirx.reinterpret(op.to.name, x[i]), "bitcast")]


def convert(x: Expr, to: str) -> Expr:
    """`x` as type `to`; floats go to narrow integers through int32, as numpy and ONNX Runtime do on x86."""
    if str(x.dtype) == to:
        return x
    if to == "bool":
        return x != tirx.const(0, x.dtype)
    if _is_float(x) and to in ("int8", "uint8", "int16", "uint16"):
        return x.astype("int32").astype(to)
    return x.astype(to)


