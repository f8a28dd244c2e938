"""Quantized layers on whole numbers: scales leave the sums, so that these are exact and do not depend on the order of summation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ir.types import FLOAT32
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.evaluator import evaluate_node
from lepton_compiler.pipeline import Pass, PassContext
from lepton_compiler.rewrite import rewrite, simplifies
from lepton_compiler.rewrite.rule import Replacement

LINEAR = {"Conv": 1, "ConvTranspose": 1, "MatMul": -1, "Gemm": -1}
"""Operators that multiply by weights, and the axis of their output channels."""
AVERAGES = frozenset({"AveragePool", "ReduceMean", "ReduceSum", "Resize"})
"""Operators that add up elements and pass a common factor on to their results."""
SHAPED = frozenset({"Relu", "MaxPool", "ReduceMax", "ReduceMin", "Reshape", "Squeeze", "Unsqueeze", "Transpose"})
"""Operators that pass a common positive factor on and compute nothing."""


@simplifies("DequantizeLinear")
def known_scale(b: Builder, node: Node) -> Replacement:
    """DQ(bias, Mul(s, t))  -->  DQ(bias, s t), for constants s and t: files may say the scale of a bias by those of data and weights"""
    data, scale, *zero = node.inputs
    product = None if scale is None else scale.producer
    if product is None or product.op.name != "Mul" or not all(v.is_constant for v in product.present_inputs):
        return "its scale is no product of constants"
    (array,) = evaluate_node(product, [v.numpy() for v in product.present_inputs])
    return b(node.op, data, b.constant(array, name=product.output.name), *zero)


@simplifies("QuantizeLinear")
def integer_accumulation(b: Builder, node: Node) -> Replacement:
    """Q(Conv(DQ(x, s), DQ(w, t), bias), u)  -->  Q(Mul(Conv(x - zero, w - zero, bias / (s t)), s t / u), 1)"""
    y, scale = node.present_inputs[:2]
    relu = _producer(y, "Relu")
    shift = _producer(relu.present_inputs[0] if relu is not None else y, "Add")
    layer = (shift or relu or node).present_inputs[0].producer
    if layer is None or layer.op.name not in LINEAR:
        return "no convolution or product before it"
    if any(len(n.output.uses) != 1 or n.output.is_output for n in (layer, shift, relu) if n is not None):
        return "the result is also used as a real number"
    op: Any = layer.op
    if op.name == "Gemm" and (op.alpha != 1 or op.beta != 1 or op.trans_a):
        return "Gemm with scaling"
    x, w = (_dequantized(v) for v in layer.present_inputs[:2])
    channels = _output_scale(layer)
    if x is None or w is None or channels is None or _scalar(x.present_inputs[1]) is None or _scalar(scale) is None:
        return "its operands are not quantized by constants, the data as a whole and the weights per output channel"
    factor = _scalar(x.present_inputs[1]) * channels
    if np.all(factor == 1):
        return None
    biases = [*layer.inputs[2:], *([shift.present_inputs[1]] if shift is not None else [])]
    whole = [v and _whole_bias(v, factor) for v in biases]
    if any(v is not None and array is None for v, array in zip(biases, whole, strict=True)) or (shift and op.name == "Conv"):
        return "what is added is not a constant per output channel"
    b.loc = b.loc.merge(layer.loc)
    arrays = [None if array is None else b.constant(array, name="bias") for array in whole]
    result = b(op, _whole(b, x), _whole(b, w), *arrays[: len(layer.inputs) - 2])
    if shift is not None:
        result = b.Add(result, arrays[-1])
    if relu is not None:
        result = b.Relu(result)
    multiplier = b.constant(_multiplier(x, layer, node, y.type.rank), name="multiplier")
    return b(node.op, b.Mul(result, multiplier), b.constant(np.ones(scale.type.static_shape, np.float32), name="one"), *node.inputs[2:])


@simplifies(*LINEAR)
def real_result(b: Builder, node: Node) -> Replacement:
    """Conv(DQ(x, s), DQ(w, t), bias)  -->  Mul(Conv(x - zero, w - zero, bias / (s t)), s t), for constant weights"""
    op: Any = node.op
    if op.name == "Gemm" and (op.alpha != 1 or op.beta != 1 or op.trans_a):
        return "Gemm with scaling"
    x, w = (_dequantized(v) for v in node.present_inputs[:2])
    channels = _output_scale(node)
    if x is None or w is None or channels is None or _scalar(x.present_inputs[1]) is None or not w.present_inputs[0].is_constant:
        return "its operands are not quantized by constants, the data as a whole and the weights per output channel"
    factor = _scalar(x.present_inputs[1]) * channels
    if np.all(factor == 1):
        return None
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    whole = None if bias is None else _whole_bias(bias, factor)
    if bias is not None and whole is None:
        return "its bias is not a constant per output channel"
    arrays = [] if whole is None else [b.constant(whole, name="bias")]
    sums = b(op, _whole(b, x), _whole(b, w), *arrays)
    return b.Mul(sums, b.constant(_multiplier(x, node, None, sums.type.rank), name="multiplier"))


@simplifies("QuantizeLinear")
def scale_into_operands(b: Builder, node: Node) -> Replacement:
    """Q(Add(Mul(x, a), DQ(y, s)), u)  -->  Q(Add(Mul(x, a / u), DQ(y, s / u)), 1)"""
    y, scale, *zero = node.present_inputs
    u = _scalar(scale)
    if u is None or u == 1 or not u > 0 or y.type.dtype != FLOAT32 or not node.op.dtype.is_integer:  # type: ignore[attr-defined]
        return None if u == 1 else "it has no single scale"
    divided = _divided(b, y, float(u))
    if divided is None or divided.is_constant:
        return "what is computed before has no constants that take the scale"
    return b(node.op, divided, b.constant(np.ones(scale.type.static_shape, np.float32), name="one"), *zero)


def _divided(b: Builder, value: Value, u: float) -> Value | None:
    """`value / u` with changed constants, without any operation more; None where that cannot be."""
    if value.tensor is not None:
        with np.errstate(over="ignore"):
            quotient = (value.numpy().astype(np.float64) / u).astype(np.float32)
        return b.constant(quotient, name=value.name) if value.type.dtype == FLOAT32 and np.isfinite(quotient).all() else None
    node = value.producer
    if node is None or value.type.dtype != FLOAT32:
        return None
    if node.op.name == "DequantizeLinear":
        data, scale, *zero = node.present_inputs
        factor = _divided(b, scale, u) if scale.tensor is not None and _dequantized(value) is not None else None
        return None if factor is None or not np.all(factor.numpy() > 0) else b(node.op, data, factor, *zero)
    if node.op.name not in ("Add", "Mul", "Relu", "Sub") or len(value.uses) != 1 or value.is_output:
        return None
    operands: list[Value | None] = list(node.inputs)
    order = sorted(range(len(operands)), key=lambda k: _elements(node.present_inputs[k])) if node.op.name == "Mul" else range(len(operands))
    for k in order:
        part = _divided(b, node.present_inputs[k], u)
        if part is None and node.op.name != "Mul":
            return None
        if part is not None:
            operands[k] = part
            if node.op.name == "Mul":
                break
    if all(new is old for new, old in zip(operands, node.inputs, strict=True)):
        return None
    b.loc = b.loc.merge(node.loc)
    return b(node.op, *operands)


def _elements(value: Value) -> int:
    """How many there are, as far as is known: constants first."""
    return 0 if value.is_constant else value.type.size if value.type.is_static else 1 << 62


@simplifies("QuantizeLinear")
def average_of_integers(b: Builder, node: Node) -> Replacement:
    """Q(AveragePool(DQ(x, s)), u)  -->  Q(AveragePool(x - zero), u / s)"""
    chain: list[Node] = []
    value = node.present_inputs[0]
    while value.producer is not None and value.producer.op.name in AVERAGES | SHAPED:
        if len(value.uses) != 1 or value.is_output:
            return f"'{value.name}' is also used as a real number"
        chain.append(value.producer)
        value = value.producer.present_inputs[0]
    source = _dequantized(value)
    if not any(n.op.name in AVERAGES for n in chain) or source is None:
        return "no average of quantized numbers before it"
    factor = _scalar(source.present_inputs[1])
    if factor is None or factor == 1 or _scalar(node.present_inputs[1]) is None or any(len(n.outputs) > 1 for n in chain):
        return None if factor == 1 else "the numbers are not quantized as a whole by constants"
    result = _whole(b, source)
    for n in reversed(chain):
        b.loc = b.loc.merge(n.loc)
        result = b(n.op, result, *n.inputs[1:])
    scale = node.present_inputs[1]
    new = (scale.numpy().astype(np.float64) / factor).astype(scale.type.dtype.numpy)
    return b(node.op, result, b.constant(new, name="scale"), *node.inputs[2:])


def _producer(value: Value, name: str) -> Node | None:
    return value.producer if value.producer is not None and value.producer.op.name == name else None


def _dequantized(value: Value) -> Node | None:
    """The `DequantizeLinear` to float32 that gives a value, with constant parameters."""
    node = value.producer
    if node is None or node.op.name != "DequantizeLinear" or value.type.dtype != FLOAT32 or getattr(node.op, "block_size"):  # noqa: B009
        return None
    return node if all(v.is_constant for v in node.present_inputs[1:]) and node.present_inputs[0].type.dtype.bits <= 16 else None


def _multiplier(x: Node, layer: Node, node: Node | None, rank: int) -> np.ndarray:
    """Scales s t, or s t / u, in single precision, as runtimes compute it, in a shape that multiplies the result of `layer`."""
    weights = layer.present_inputs[1].producer
    assert weights is not None
    s, t = (n.present_inputs[1].numpy().astype(np.float32) for n in (x, weights))
    product = np.asarray(s.reshape(()) * t, np.float32)
    if node is not None:
        product = np.asarray(product / node.present_inputs[1].numpy().astype(np.float32).reshape(()), np.float32)
    axis = LINEAR[layer.op.name] % rank
    return product.reshape(()) if product.size == 1 else product.reshape(-1, *(1,) * (rank - 1 - axis))


def _scalar(value: Value) -> Any:
    """A constant of one element in double precision, or None."""
    return value.numpy().astype(np.float64).reshape(()) if value.tensor is not None and value.type.size == 1 else None


def _output_scale(layer: Node) -> np.ndarray | None:
    """The scale of the weights: a scalar, or a vector over the output channels of a convolution or product; None if it is something else."""
    weights = _dequantized(layer.present_inputs[1])
    if weights is None:
        return None
    scale = weights.present_inputs[1].numpy().astype(np.float64)
    if scale.size == 1:
        return np.asarray(scale.reshape(()))
    rank = weights.output.type.rank
    if layer.op.name == "ConvTranspose":
        return scale if getattr(weights.op, "axis") % rank == 1 and getattr(layer.op, "groups") == 1 else None  # noqa: B009
    last = layer.op.name == "MatMul" or not getattr(layer.op, "trans_b", True)
    axis = getattr(weights.op, "axis") % rank  # noqa: B009
    return scale if axis == (rank - 1 if last else 0) and (layer.op.name != "MatMul" or rank == 2) else None


def _whole(b: Builder, quantized: Node) -> Value:
    """The same numbers without their scale."""
    data, scale, *zero = quantized.inputs
    assert scale is not None
    return b(quantized.op, data, b.constant(np.ones(scale.type.static_shape, scale.type.dtype.numpy), name="one"), *zero)


def _whole_bias(bias: Value, factor: np.ndarray) -> np.ndarray | None:
    """A bias divided by `factor`: the integers that it was quantized to, where it was by this very scale."""
    node = bias.producer
    if bias.type.rank != 1 or (bias.tensor is None and (node is None or node.op.name != "DequantizeLinear")):
        return None
    if bias.tensor is not None:
        return np.asarray(bias.numpy().astype(np.float64) / factor).astype(np.float32)
    assert node is not None
    if not all(v.is_constant for v in node.present_inputs):
        return None
    data, scale, *zero = (v.numpy().astype(np.float64) for v in node.present_inputs)
    numbers = data - (zero[0] if zero else 0)
    ratio = scale / factor
    return np.asarray(numbers if np.allclose(ratio, 1, rtol=1e-5) else numbers * ratio).astype(np.float32)


@dataclass(frozen=True)
class SimplifyQuantization(Pass):
    """Q(Conv(DQ(x), DQ(w)))  -->  Q(Mul(Conv(x - zero, w - zero), scale)): sums of whole numbers, one scale at the end

    Results that stay real numbers, or that something else than Relu is done with first, are multiplied by their scale right away.
    Where sums and products with constants or dequantized numbers are quantized, the scale goes into these.
    Sums of products of 8-bit numbers are exact in float32 up to 2^24, so every order of summation gives the same result, and ties are
    rounded as integer hardware and LiteRT round them.
    """

    def run(self, graph: Graph, ctx: PassContext) -> None:  # noqa: D102
        rewrite(graph, [known_scale], ctx.tracer)
        rewrite(graph, [integer_accumulation, average_of_integers], ctx.tracer)
        rewrite(graph, [real_result], ctx.tracer)
        rewrite(graph, [scale_into_operands], ctx.tracer)
