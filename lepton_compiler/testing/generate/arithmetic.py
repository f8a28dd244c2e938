"""Element-wise operators: of one operand, of several that broadcast, comparisons, conversions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lepton_compiler import ops
from lepton_compiler.ir.graph import Value
from lepton_compiler.ir.types import DType, TensorType
from lepton_compiler.ops.builder import make_op
from lepton_compiler.testing.generate.maker import BOOL, FLOAT32, FLOATS, INTEGERS, Maker, step

NUMERIC = ("int", "uint", "float")
FUNCTIONS = tuple(n for family in ("unary", "activation") for n in ops.FAMILIES[family].split() if n not in ("Clip", "PRelu", "Not"))
PARAMETERS: dict[str, dict[str, tuple[Any, ...]]] = {
    "Celu": {"alpha": (1.0, 0.5, 2.0)},
    "Elu": {"alpha": (1.0, 0.3, 2.0)},
    "Gelu": {"approximate": ("none", "tanh")},
    "HardSigmoid": {"alpha": (0.2, 1 / 6, 1.5), "beta": (0.5, 0.0)},
    "IsInf": {"detect_negative": (True, False), "detect_positive": (True, False)},
    "LeakyRelu": {"alpha": (0.01, 0.0, 1.5, -0.5)},
    "Selu": {"alpha": (1.6732632423543772, 0.5), "gamma": (1.0507009873554805, 2.0)},
    "Shrink": {"bias": (0.0, 0.25), "lambd": (0.5, 1.0)},
    "Swish": {"alpha": (1.0, 1.702)},
    "ThresholdedRelu": {"alpha": (1.0, 0.0, -0.5)},
}


@step(10)
def function(m: Maker) -> None:
    """A function of one tensor, with its parameters."""
    name = m.pick(FUNCTIONS)
    x = m.value(ops.get(name).kinds if name != "Erf" else ("float",))  # type: ignore[attr-defined]
    m.add(make_op(name, {k: m.pick(v) for k, v in PARAMETERS.get(name, {}).items()}), x)


@step(10)
def arithmetic(m: Maker) -> None:
    """Two operands, either way round."""
    x = m.value(NUMERIC)
    pair = [x, m.broadcastable(x)]
    m.rng.shuffle(pair)
    m.add(make_op(m.pick(("Add", "Sub", "Mul", "Mul", "Max", "Min")), {}), *pair)


@step(3)
def quotient(m: Maker) -> None:
    """Division and remainder; integer divisors are neither 0 nor -1."""
    x = m.value(NUMERIC)
    y = m.broadcastable(x)
    name = m.pick(("Div", "Div", "Mod"))
    if x.type.dtype.is_float:
        m.add(make_op(name, {"fmod": m.flag()} if name == "Mod" else {}), x, y)
        return
    wanted = {"fmod": m.flag(0.3)} if name == "Mod" else {}
    m.add(make_op(name, wanted), x, divisor(m, y))


def divisor(m: Maker, y: Value) -> Value:
    """Integers that can divide: `y`, with 2 in place of 0 and -1."""
    bad = m.b.Equal(y, 0)
    if y.type.dtype.kind == "int":
        bad = m.b.Or(bad, m.b.Equal(y, -1))
    return m.b.Where(bad, m.b.constant(2, y), y)


@step(2)
def power(m: Maker) -> None:
    """Powers: of anything to whole exponents, of what is positive to any."""
    x = m.value(NUMERIC, high=4)
    if x.type.dtype.is_float:
        exponent = m.pick((1.0, 2.0, 3.0, 4.0, 0.5, -0.5, -1.0, -2.0, 0.0, 1.5))
        if m.flag(0.6):
            m.add(make_op("Pow", {}), x, m.b.constant(exponent, x))
        else:
            m.add(make_op("Pow", {}), m.b.Abs(x) if m.flag(0.7) else x, m.broadcastable(x))
        return
    exponents = m.weight(np.asarray(m.number(0, 3), m.pick(INTEGERS).numpy))
    m.add(make_op("Pow", {}), x, exponents)


@step(2)
def several(m: Maker) -> None:
    """Any number of operands."""
    name = m.pick(("Max", "Min", "Sum", "Mean"))
    x = m.value(NUMERIC if name in ("Max", "Min") else ("float",))
    operands = [x]
    for _ in range(m.number(0, 3)):
        part = tuple(1 if m.flag(0.3) else d for d in x.type.static_shape[m.number(0, x.type.rank) :])
        operands.append(m.like(TensorType(x.type.dtype, part)) if m.flag() else m.like(x.type))
    m.add(make_op(name, {}), *operands)


@step(3)
def comparison(m: Maker) -> None:
    """Two operands to truth values."""
    x = m.value(NUMERIC)
    m.add(make_op(m.pick(("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")), {}), x, m.broadcastable(x))


@step(3)
def logic(m: Maker) -> None:
    """Truth values to truth values."""
    x = m.value(("bool",))
    name = m.pick(("And", "Or", "Xor", "Not", "Equal"))
    m.add(make_op(name, {}), *([x] if name == "Not" else [x, m.broadcastable(x)]))


@step(3)
def bits(m: Maker) -> None:
    """Bits of integers; shifts go beyond the width now and then."""
    x = m.value(("int", "uint"))
    match m.number(0, 2):
        case 0:
            m.add(make_op("BitwiseNot", {}), x)
        case 1:
            m.add(make_op(m.pick(("BitwiseAnd", "BitwiseOr", "BitwiseXor")), {}), x, m.broadcastable(x))
        case _:
            width = x.type.dtype.bits
            amount = m.pick((0, 1, 3, width - 1, width, width + 3))
            by = m.weight(np.asarray(amount, x.type.dtype.numpy)) if m.flag(0.7) else m.broadcastable(x)
            m.add(make_op("BitShift", {"direction": m.pick(("LEFT", "RIGHT"))}), x, by)


@step(4)
def choice(m: Maker) -> None:
    """A condition decides between two operands."""
    x = m.value((*NUMERIC, "bool"))
    y = m.broadcastable(x)
    shape = np.broadcast_shapes(x.type.static_shape, y.type.static_shape)
    part = tuple(d if m.flag(0.8) else 1 for d in shape[m.number(0, len(shape)) if m.flag(0.3) else 0 :])
    condition = m.like(TensorType(BOOL, part))
    m.add(make_op("Where", {}), condition, *((x, y) if m.flag() else (y, x)))


@step(3)
def limits(m: Maker) -> None:
    """Clip with constant or computed bounds, in order or not."""
    x = m.value(NUMERIC)
    scalar = TensorType(x.type.dtype, ())
    low, high = ((m.like(scalar) if m.flag(0.3) else m.tame(scalar)) if m.flag(0.8) else None for _ in range(2))
    m.add(make_op("Clip", {}), x, low, high)


@step(1)
def slope(m: Maker) -> None:
    """PRelu."""
    x = m.value(NUMERIC)
    m.add(make_op("PRelu", {}), x, m.fresh(TensorType(x.type.dtype, tuple(d if m.flag() else 1 for d in x.type.static_shape))))


@step(6)
def cast(m: Maker) -> None:
    """A conversion; floats are brought into the range of integers first, where conversion is defined."""
    m.b.Cast(m.value((*NUMERIC, "bool")), to=BOOL) if m.flag(0.1) else converted(
        m, m.value((*NUMERIC, "bool")), m.pick((*FLOATS, *INTEGERS))
    )


def converted(m: Maker, x: Value, to: DType) -> Value:
    """`x` as the type `to`."""
    source = x.type.dtype
    if source.is_float and to.is_integer:
        info = np.iinfo(to.numpy)
        x = m.b.Where(m.b.IsNaN(x), m.b.constant(0.0, x), x)
        most = min(info.max, 1 << 30 if to.bits == 32 else 1 << 60, 60000 if source.bits == 16 else 1 << 60)
        x = m.b.Clip(x, float(max(info.min, -most)), float(most if to.bits < 32 else most // 2))
    return m.b.Cast(x, to=to)


@step(1)
def bit_cast(m: Maker) -> None:
    """The bits of integers and, where nothing was rounded, of floats as another type."""
    x = m.value(("int", "uint"))
    same = [t for t in (*INTEGERS, *FLOATS) if t.bits == x.type.dtype.bits and t != x.type.dtype]
    m.b.BitCast(x, to=m.pick(same))


@step(5)
def idiom(m: Maker) -> None:
    """Composite operators as exporters spell them out."""
    x, b = m.value(("float",), 1), m.b
    axis = x.type.rank - 1
    match m.number(0, 6):
        case 0:
            b.Mul(x, b.Sigmoid(x))
        case 1:
            b.Div(b.Mul(x, b.Clip(b.Add(x, 3.0), 0.0, 6.0)), 6.0)
        case 2:
            b.Mul(b.Mul(x, 0.5), b.Add(b.Erf(b.Div(x, math.sqrt(2))), 1.0))
        case 3:
            e = b.Exp(b.Sub(x, b.ReduceMax(x, axes=(axis,))))
            b.Div(e, b.ReduceSum(e, axes=(axis,)))
        case 4:
            d = b.Sub(x, b.ReduceMean(x, axes=(axis,)))
            root = b.Sqrt(b.Add(b.ReduceMean(b.Mul(d, d), axes=(axis,)), 0.01))
            row = TensorType(x.type.dtype, x.type.shape[-1:])
            b.Add(b.Mul(b.Div(d, root), m.tame(row)), m.tame(row))
        case 5:
            b.Tanh(b.Log(b.Add(b.Exp(b.Min(x, 5.0)), 1.0)))
        case _:
            b.Add(b.Mul(x, m.tame(TensorType(x.type.dtype, ()))), m.tame(TensorType(x.type.dtype, ())))


@step(2)
def mixed(m: Maker) -> None:
    """float32 from any type, so that graphs do not end in integers."""
    m.b.Cast(m.value(("int", "uint", "bool")), to=FLOAT32)
