"""Matrix products, of floats and of quantized integers, and conversions between the two."""

from __future__ import annotations

from typing import Any

import numpy as np

from lepton_compiler.ir.graph import Value
from lepton_compiler.ir.types import DTYPES, DType, TensorType
from lepton_compiler.ops.builder import make_op
from lepton_compiler.testing.generate.maker import FLOAT32, Maker, step
from lepton_compiler.testing.generate.windows import reach, window

BYTES = (DTYPES["int8"], DTYPES["uint8"])
QUANTIZED = (*BYTES, *BYTES, DTYPES["int16"], DTYPES["uint16"])
EQUATIONS = ("ij,jk->ik", "bij,bjk->bik", "ij,ij->", "i,j->ij", "ijk->kji", "ii->i", "...ij,...jk->...ik", "bhid,bhjd->bhij")


@step(7)
def matmul(m: Maker) -> None:
    """A product of matrices, stacks of them, vectors."""
    x = m.value(("float", "float", "float", "int", "uint"), 1, 4)
    k = x.type.static_shape[-1]
    match m.number(0, 4):
        case 0 if x.type.rank >= 2:
            turned = m.b.Transpose(x, perm=(*range(x.type.rank - 2), x.type.rank - 1, x.type.rank - 2))
            m.b.MatMul(x, turned)
        case 1:
            m.b.MatMul(x, m.fresh(TensorType(x.type.dtype, (k,))))
        case 2 if x.type.rank >= 3:
            lead = tuple(d if m.flag() else 1 for d in x.type.static_shape[:-2])
            m.b.MatMul(x, m.fresh(TensorType(x.type.dtype, (*lead, k, m.number(1, 5)))))
        case 3:
            m.b.MatMul(m.fresh(TensorType(x.type.dtype, (m.number(1, 5), x.type.static_shape[0]))), x) if x.type.rank == 1 else m.b.MatMul(
                m.fresh(TensorType(x.type.dtype, (m.number(1, 4), x.type.static_shape[-2]))), x
            )
        case _:
            m.b.MatMul(x, m.tame(TensorType(x.type.dtype, (k, m.pick((1, 2, 3, 5, 8, 17))))))


@step(4)
def gemm(m: Maker) -> None:
    """Gemm with all attributes."""
    x = m.value(("float",), 2, 2)
    element, (rows, columns) = x.type.dtype, x.type.static_shape
    flip, other, n = m.flag(0.3), m.flag(), m.number(1, 6)
    out, inner = (columns, rows) if flip else (rows, columns)
    w = m.fresh(TensorType(element, (n, inner) if other else (inner, n)))
    c = m.fresh(TensorType(element, m.pick(((n,), (1, n), (out, 1), (out, n), ())))) if m.flag(0.7) else None
    m.add(make_op("Gemm", {"alpha": m.pick((1.0, 0.5)), "beta": m.pick((1.0, 2.0, 0.0)), "trans_a": flip, "trans_b": other}), x, w, c)


@step(2)
def einsum(m: Maker) -> None:
    """Einstein summations, and determinants."""
    if m.flag(0.15):
        n = m.number(1, 3)
        m.b.Det(m.like(TensorType(m.float_type(), (*m.shape(0, 1), n, n))))
        return
    equation, element = m.pick(EQUATIONS), m.float_type()
    lengths = {c: m.number(1, 4) for c in "bhijkd"}
    lead = m.shape(0, 1)
    operands = []
    for term in equation.partition("->")[0].split(","):
        shape = (*(lead if "..." in term else ()), *(lengths[c] for c in term.replace("...", "")))
        operands.append(m.like(TensorType(element, shape)))
    m.add(make_op("Einsum", {"equation": equation}), *operands)


def quantized(m: Maker, element: DType, shape: tuple[int, ...]) -> Value:
    """A tensor of integers of one byte, over their whole range."""
    found = m.find(lambda v: v.type == TensorType(element, shape))
    if found is not None and m.flag(0.7):
        return found
    info = np.iinfo(element.numpy)
    array = np.asarray(np.random.default_rng(m.number(0, 999)).integers(info.min, info.max + 1, shape), element.numpy)
    return m.weight(array) if m.depth or m.flag(0.3) else m.input(array)


def zero_point(m: Maker, element: DType, shape: tuple[int, ...] = ()) -> Value | None:
    """A zero point, or none."""
    draw = np.random.default_rng(m.number(0, 999))
    low = 0 if element.kind == "uint" else -7
    return m.weight(np.asarray(draw.integers(low, 9, shape), element.numpy)) if m.flag(0.75) else None


@step(3)
def integer_matmul(m: Maker) -> None:
    """Products of bytes with zero points, one or one per row and column."""
    a, b = m.pick(BYTES), m.pick(BYTES)
    rows, inner, columns = m.number(1, 4), m.pick((1, 3, 4, 8, 19)), m.pick((1, 3, 8, 17))
    x = quantized(m, a, (*m.shape(0, 1), rows, inner))
    left = zero_point(m, a, (rows,) if m.flag(0.2) else ())
    m.add(make_op("MatMulInteger", {}), x, quantized(m, b, (inner, columns)), left, zero_point(m, b, (columns,) if m.flag(0.3) else ()))


@step(2)
def integer_conv(m: Maker) -> None:
    """Convolution of bytes."""
    spatial, a, b = m.pick((1, 2, 2)), m.pick(BYTES), m.pick(BYTES)
    attributes = window(m, spatial)
    groups, per_group, filters = m.pick((1, 1, 2)), m.pick((1, 2, 3)), m.pick((1, 2, 4))
    least = reach(attributes)
    kernel = attributes.pop("kernel_shape")
    x = quantized(m, a, (m.number(1, 2), groups * per_group, *(m.number(least, least + 4) for _ in range(spatial))))
    w = quantized(m, b, (filters * groups, per_group, *kernel))
    zeros = zero_point(m, a), zero_point(m, b, (filters * groups,) if m.flag(0.3) else ())
    m.add(make_op("ConvInteger", {**attributes, "groups": groups}), x, w, *zeros)


def parameters(m: Maker, x: Value, element: DType, scale_type: DType) -> tuple[dict[str, Any], Value, Value | None]:
    """Axis, scale and zero point of a quantization: one value, one per index of an axis, one per block."""
    shape, axis, attributes = x.type.static_shape, m.axis(max(1, x.type.rank)), dict[str, Any]()
    kind = m.number(0, 3) if x.type.rank and 0 not in shape else 0
    size: tuple[int, ...] = ()
    if kind == 1:
        attributes, size = {"axis": axis}, (shape[axis],)
    elif kind == 2:
        block = m.number(1, shape[axis])
        attributes = {"axis": axis % x.type.rank, "block_size": block}
        size = tuple(-(-d // block) if i == axis % x.type.rank else d for i, d in enumerate(shape))
    draw = np.random.default_rng(m.number(0, 999))
    scale = m.weight(np.asarray(draw.choice([0.02, 0.05, 0.125, 0.5, 1.0], size), scale_type.numpy))
    return attributes, scale, zero_point(m, element, size)


@step(4)
def quantize(m: Maker) -> None:
    """Floats to integers, perhaps back at once."""
    x, element = m.value(("float",), 0, 4), m.pick(QUANTIZED)
    if m.flag(0.1) and x.type.dtype == FLOAT32:
        m.b.node(make_op("DynamicQuantizeLinear", {}), [x])
        return
    attributes, scale, zero = parameters(m, x, element, x.type.dtype)
    q = m.add(make_op("QuantizeLinear", {"dtype": element, **attributes}), x, scale, zero)
    if m.flag():
        m.add(make_op("DequantizeLinear", {"dtype": x.type.dtype, **attributes}), q, scale, zero)


@step(2)
def dequantize(m: Maker) -> None:
    """Integers to floats."""
    element = m.pick((*QUANTIZED, DTYPES["int32"]))
    x = m.find(lambda v: v.type.dtype == element and v.type.rank <= 4) or m.fresh(TensorType(element, m.shape(0, 4)))
    attributes, scale, zero = parameters(m, x, element, m.float_type())
    m.add(make_op("DequantizeLinear", {"dtype": scale.type.dtype, **attributes}), x, scale, zero if element.bits < 32 else None)


@step(2)
def quantized_layer(m: Maker) -> None:
    """A layer between quantizations, as quantizers write it."""
    x = m.value(("float",), 2, 2)
    if x.type.dtype != FLOAT32:
        return
    element, inner, n = m.pick(BYTES), x.type.static_shape[-1], m.number(1, 6)
    scale, out = np.float32(m.pick((0.05, 0.125))), np.float32(m.pick((0.1, 0.5)))
    zero = np.asarray(3, element.numpy)
    q = m.b.DequantizeLinear(m.b.QuantizeLinear(x, scale, zero, dtype=element), scale, zero)
    w = m.b.DequantizeLinear(quantized(m, BYTES[0], (inner, n)), np.float32(0.02), np.asarray(0, np.int8))
    y = m.b.MatMul(q, w)
    if m.flag():
        y = m.b.Add(y, m.tame(TensorType(FLOAT32, (n,))))
    if m.flag():
        y = m.b.Relu(y)
    m.b.DequantizeLinear(m.b.QuantizeLinear(y, out, zero, dtype=element), out, zero)
