"""Quantized layers in integers: codes go in, codes come out, and nothing else is stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_compiler.analysis.weights import known_numbers
from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ir.types import FLOAT32, INT8, INT32, UINT8
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.conv import ConvInteger
from lepton_compiler.ops.matmul import MatMulInteger
from lepton_compiler.pipeline import Pass, PassContext
from lepton_compiler.rewrite import rewrite, simplifies
from lepton_compiler.rewrite.rule import Replacement

BYTES = (INT8, UINT8)
MOVES = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze"})
"""Operators that may as well move codes."""


@dataclass(frozen=True)
class IntegerLayers(Pass):
    """Conv(DequantizeLinear(x, 1, zero), whole numbers)  -->  Cast(ConvInteger(x, weights, zero) + bias)

    For cores without vectors, and GPUs. Sums of products of 8-bit numbers are then exact integers. `simplify-quantization` has taken the scales out
    of them before.
    """

    def run(self, graph: Graph, ctx: PassContext) -> None:  # noqa: D102
        if not ctx.target.keeps_codes:
            return
        conv = grouped_integer_conv if ctx.target.gpus else integer_conv
        rewrite(graph, [conv, integer_matmul, integer_average, relu_of_codes], ctx.tracer)
        for part in list(graph.graphs()):
            _one_user_each(part)


@simplifies("Conv")
def integer_conv(b: Builder, node: Node) -> Replacement:
    """Conv(DQ(x, 1, zero), w, bias)  -->  Cast(Add(ConvInteger(x, w, zero), bias)), in one group or one for each channel"""
    op: Any = node.op
    if op.groups > 1 and not (op.groups == node.present_inputs[0].type.shape[1] == node.present_inputs[1].type.shape[0]):
        return "it has groups of several channels"
    return _integer_conv(b, node)


@simplifies("Conv")
def grouped_integer_conv(b: Builder, node: Node) -> Replacement:
    """Conv(DQ(x, 1, zero), w, bias)  -->  Cast(Add(ConvInteger(x, w, zero), bias)), in any groups"""
    return _integer_conv(b, node)


def _integer_conv(b: Builder, node: Node) -> Replacement:
    op: Any = node.op
    x, w, *bias = node.present_inputs
    weights, shift = _bytes(w), _whole(bias[0]) if bias else None
    if op.layout != "NCHW" or x.type.rank not in (3, 4) or weights is None or (bias and not bias[0].is_constant):
        return "the weights are no whole numbers, the bias is no constant, or the data is no image"
    if (found := _codes(b, x)) is None:
        return "its data is not quantized with a scale of one"
    (codes, zero), point = found, b.constant(weights.zero, name="zero")
    product = b(
        ConvInteger(strides=op.strides, pads=op.pads, dilations=op.dilations, groups=op.groups),
        codes,
        b.constant(weights.codes, name="weights"),
        zero,
        point,
    )
    return _with_bias(b, product, shift, bias, (-1, *(1,) * (x.type.rank - 2)))


@simplifies("MatMul", "Gemm")
def integer_matmul(b: Builder, node: Node) -> Replacement:
    """MatMul(DQ(x, 1, zero), w)  -->  Cast(MatMulInteger(x, w, zero)); Gemm likewise"""
    op: Any = node.op
    x, w, *bias = node.present_inputs
    if op.name == "Gemm" and (op.alpha != 1 or op.beta != 1 or op.trans_a):
        return "Gemm with scaling"
    weights, shift = _bytes(w), _whole(bias[0]) if bias else None
    if weights is None or weights.codes.ndim != 2 or x.type.rank < 2 or (bias and (not bias[0].is_constant or bias[0].type.rank > 1)):
        return "the weights are no whole numbers, or the bias is no constant vector"
    if (found := _codes(b, x)) is None:
        return "its data is not quantized with a scale of one"
    codes, zero = found
    matrix = np.ascontiguousarray(weights.codes.T) if getattr(op, "trans_b", False) else weights.codes
    product = b(MatMulInteger(), codes, b.constant(matrix, name="weights"), zero, b.constant(weights.zero, name="zero"))
    return _with_bias(b, product, shift, bias, (-1,))


def _with_bias(b: Builder, product: Value, whole: np.ndarray | None, bias: list[Value], shape: tuple[int, ...]) -> Value:
    """The sums as float32, with the bias added to the integers where it is one of not too many bits."""
    if whole is not None:
        product = b.Add(product, b.constant(whole.astype(np.int32).reshape(shape), name="bias"))
    number = b.Cast(product, to=FLOAT32)
    return b.Add(number, b.constant(bias[0].numpy().reshape(shape), name="bias")) if bias and whole is None else number


@simplifies("AveragePool")
def integer_average(b: Builder, node: Node) -> Replacement:
    """AveragePool(DQ(x, 1, zero)), of all pixels  -->  Cast(ReduceSum(x - zero)) / count"""
    op: Any = node.op
    (x,) = node.present_inputs
    spatial = x.type.shape[2:]
    if not x.type.is_static:
        return "its size is open"
    if tuple(op.kernel_shape) != spatial or any(op.pads) or op.layout != "NCHW":
        return "it does not average all pixels"
    if (found := _codes(b, x)) is None:
        return "its data is not quantized with a scale of one"
    codes, zero = found
    number = b.Cast(codes, to=INT32)
    if int(zero.numpy().reshape(-1)[0]):
        number = b.Sub(number, b.constant(zero.numpy().astype(np.int32).reshape(()), name="zero"))
    total = b.ReduceSum(number, axes=tuple(range(2, x.type.rank)), keepdims=True)
    return b.Div(b.Cast(total, to=FLOAT32), b.constant(np.float32(np.prod(x.type.static_shape[2:])), name="count"))


@simplifies("QuantizeLinear")
def relu_of_codes(b: Builder, node: Node) -> Replacement:
    """Q(Relu(x), 1, zero)  -->  Max(Q(x, 1, zero), zero), and without Max where zero is the least code; likewise Q(Mul(Relu(x), factor), ...)"""
    number, scale, *zero = node.present_inputs
    known = zero and all(v.is_constant for v in (scale, *zero)) and zero[0].type.size == 1 and node.output.type.dtype in BYTES
    if not known or not _is_positive(scale):
        return "its scale or zero point is not known, or there are several zero points"
    outer, factor = number.producer, None
    if outer is not None and outer.op.name == "Mul" and len(number.uses) == 1 and outer.present_inputs[1].is_constant:
        number, factor = outer.present_inputs
    relu = number.producer
    if relu is None or relu.op.name != "Relu" or len(number.uses) != 1 or (factor is not None and not np.all(factor.numpy() >= 0)):
        return "no Relu before it"
    (source,) = relu.present_inputs
    if not _is_sum(source):
        return "its data may be NaN"
    code = b(node.op, source if factor is None else b.Mul(source, factor), *node.inputs[1:])
    point = zero[0].numpy().reshape(())
    return code if point == np.iinfo(point.dtype).min else b.Max(code, b.constant(point, name="zero"))


def _is_positive(scale: Value) -> bool:
    return bool(np.all((scale.numpy() > 0) & np.isfinite(scale.numpy())))


def _is_sum(value: Value) -> bool:
    """Whether a value is an integer, perhaps with something added, or codes: no NaN."""
    node = value.producer
    if node is not None and node.op.name == "DequantizeLinear":
        return node.present_inputs[1].is_constant and _is_positive(node.present_inputs[1])
    if node is not None and node.op.name == "Add" and node.present_inputs[1].is_constant:
        return bool(np.isfinite(node.present_inputs[1].numpy()).all()) and _is_sum(node.present_inputs[0])
    return node is not None and node.op.name == "Cast" and node.present_inputs[0].type.dtype.is_integer


def _codes(b: Builder, value: Value) -> tuple[Value, Value] | None:
    """The 8-bit codes and the zero point of which a value is the difference, moved as the value is."""
    node = value.producer
    if node is None:
        return None
    if node.op.name in MOVES:
        found = _codes(b, node.present_inputs[0])
        return None if found is None else (b(node.op, found[0], *node.inputs[1:]), found[1])
    if node.op.name == "Cast" and node.present_inputs[0].type.dtype in BYTES and value.type.dtype == FLOAT32:
        return node.present_inputs[0], b.constant(np.zeros((), node.present_inputs[0].type.dtype.numpy), name="zero")
    if node.op.name != "DequantizeLinear" or value.type.dtype != FLOAT32 or node.present_inputs[0].type.dtype not in BYTES:
        return None
    codes, scale, *zero = node.present_inputs
    if not scale.is_constant or not np.all(scale.numpy() == 1) or (zero and not (zero[0].is_constant and zero[0].type.size == 1)):
        return None
    return codes, b.constant(zero[0].numpy().reshape(()) if zero else np.zeros((), codes.type.dtype.numpy), name="zero")


@dataclass(frozen=True)
class Weights:
    """Whole numbers as 8-bit codes less a zero point."""

    codes: np.ndarray
    zero: np.ndarray


def _bytes(value: Value) -> Weights | None:
    """A constant of whole numbers that 8 bits can tell apart."""
    array = _whole(value)
    if array is None or array.size == 0 or array.min() < -255 or array.max() > 255 or array.max() - array.min() > 255:
        return None
    if array.min() >= -128 and array.max() < 128:
        return Weights(array.astype(np.int8), np.zeros((), np.int8))
    zero = max(0, -int(array.min()))
    return Weights((array + zero).astype(np.uint8), np.array(zero, np.uint8))


def _whole(value: Value) -> np.ndarray | None:
    """A constant of whole numbers of at most 31 bits, as int64."""
    numbers = known_numbers(value)
    if numbers is None:
        return None
    array = numbers.astype(np.float64)
    limit = 2.0**30
    if not np.all(array == np.rint(array)) or not np.all(np.abs(array) < limit):
        return None
    return array.astype(np.int64)


def _one_user_each(graph: Graph) -> None:
    """Give each user of a dequantized value one of its own, so that each kernel reads codes."""
    for node in list(graph.nodes):
        if node.op.name != "DequantizeLinear" or len(node.output.uses) < 2:
            continue
        for user, index in list(node.output.uses)[1:]:
            copy = Builder(graph, user, node.loc)(node.op, *node.inputs)
            graph.set_inputs(user, [copy if k == index else v for k, v in enumerate(user.inputs)])
