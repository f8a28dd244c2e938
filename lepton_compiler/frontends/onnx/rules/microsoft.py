"""Operators of the domain com.microsoft that exporters and quantizers leave in models, spelled out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lepton_compiler import ops
from lepton_compiler.errors import UnsupportedError
from lepton_compiler.frontends.onnx.call import Call, Result
from lepton_compiler.frontends.onnx.rules.convolution import conv_op
from lepton_compiler.frontends.onnx.rules.elementwise import from_attributes
from lepton_compiler.frontends.onnx.rules.quantization import dequantize_linear, dequantized, quantize_linear, quantized
from lepton_compiler.frontends.onnx.rules.recurrence import recurrent_op
from lepton_compiler.ir.graph import Value
from lepton_compiler.ir.types import FLOAT32
from lepton_compiler.ops.activation import Gelu, LeakyRelu, Swish
from lepton_compiler.ops.binary import Add, Mul
from lepton_compiler.ops.cast import Cast
from lepton_compiler.ops.matmul import Gemm, MatMul, MatMulInteger
from lepton_compiler.ops.normalize import LayerNormalization, RMSNormalization, Softmax
from lepton_compiler.ops.pool import AveragePool
from lepton_compiler.ops.quantize import DynamicQuantizeLinear
from lepton_compiler.ops.rearrange import Concat
from lepton_compiler.ops.shape import Transpose
from lepton_compiler.ops.unary import Sigmoid


def fused_matmul(call: Call) -> Result:
    """FusedMatMul: alpha * op(a) @ op(b)."""
    a, b = call.value(0), call.value(1)
    if call.attr("transBatchA", 0) or call.attr("transBatchB", 0):
        raise UnsupportedError("FusedMatMul with transBatchA or transBatchB is not supported")
    y = call.add(MatMul(), _swapped(call, a, call.attr("transA", 0)), _swapped(call, b, call.attr("transB", 0)))
    alpha = call.attr("alpha", 1.0)
    return y if alpha == 1.0 else call.add(Mul(), y, call.like(y, alpha))


def _swapped(call: Call, x: Value, swap: int) -> Value:
    rank = x.type.rank
    return call.add(Transpose(perm=(*range(rank - 2), rank - 1, rank - 2)), x) if swap and rank > 1 else x


def gelu(call: Call) -> Result:
    """Gelu, BiasGelu and FastGelu."""
    x, bias = call.value(0), call.optional(1)
    x = call.add(Add(), x, bias) if bias is not None else x
    return call.add(Gelu(approximate="tanh" if call.op_type == "FastGelu" else "none"), x)


def quick_gelu(call: Call) -> Result:
    """QuickGelu: x * sigmoid(alpha * x)."""
    return call.add(Swish(alpha=call.attr("alpha", 1.702)), call.value(0))


def skip_layer_normalization(call: Call) -> Result:
    """(input, skip, gamma[, beta], bias): normalise the sum; the sum itself is output 3."""
    simplified = call.op_type == "SkipSimplifiedLayerNormalization"
    bias = call.optional(3 if simplified else 4)
    total = call.add(Add(), call.value(0), call.value(1))
    total = call.add(Add(), total, bias) if bias is not None else total
    epsilon = call.attr("epsilon", 1e-12)
    if simplified:
        y = call.add(RMSNormalization(axis=-1, epsilon=epsilon), total, call.value(2))
    else:
        y = call.add(LayerNormalization(axis=-1, epsilon=epsilon), total, call.value(2), call.optional(3))
    if call.wants(1) or call.wants(2):
        raise UnsupportedError("statistics of SkipLayerNormalization are not supported")
    return [y, y, y, total]


def fused_conv(call: Call) -> Result:
    """Conv with an activation, and possibly a sum before it."""
    y = call.add(conv_op(call, call.value(0), call.value(1)), *call.inputs[:3])
    added = call.optional(3)
    y = call.add(Add(), y, added) if added is not None else y
    return _activated(call, y, call.attr("activation", ""))


def fused_gemm(call: Call) -> Result:
    """Gemm with an activation."""
    op = Gemm(float(call.attr("alpha", 1.0)), float(call.attr("beta", 1.0)), bool(call.attr("transA", 0)), bool(call.attr("transB", 0)))
    return _activated(call, call.add(op, *call.inputs), call.attr("activation", ""))


def _activated(call: Call, y: Value, name: str) -> Value:
    params = call.attr("activation_params", ())
    match name:
        case "":
            return y
        case "Relu" | "Tanh" | "Sigmoid" | "Softplus":
            return call.add(ops.get(name)(), y)
        case "LeakyRelu":
            return call.add(LeakyRelu(alpha=params[0] if params else 0.01), y)
        case "Clip" if len(params) == 2:
            return call.add(ops.get("Clip")(), y, call.like(y, params[0]), call.like(y, params[1]))
    raise UnsupportedError(f"the fused activation '{name}' is not supported")


def matmul_integer_to_float(call: Call) -> Result:
    """(a, b, a scale, b scale, a zero, b zero, bias)."""
    product = call.add(MatMulInteger(), call.value(0), call.value(1), call.optional(4), call.optional(5))
    scale = call.add(Mul(), call.value(2), call.value(3))
    return _scaled(call, product, scale, call.optional(6))


def dynamic_quantize_matmul(call: Call) -> Result:
    """(a, b, b scale, b zero, bias): a is quantized on the fly."""
    a, scale, zero = call.add_all(DynamicQuantizeLinear(), call.value(0))
    product = call.add(MatMulInteger(), a, call.value(1), zero, call.optional(3))
    return _scaled(call, product, call.add(Mul(), scale, call.value(2)), call.optional(4))


def _scaled(call: Call, product: Value, scale: Value, bias: Value | None) -> Value:
    y = call.add(Mul(), call.add(Cast(to=FLOAT32), product), scale)
    return call.add(Add(), y, bias) if bias is not None else y


def dynamic_quantize_lstm(call: Call) -> Result:
    """LSTM with 8-bit weights [directions, input, 4 * hidden]; sequence and state are rounded to 8 bits by their own range as well."""
    w, r = (call.add(Transpose(perm=(0, 2, 1)), call.value(i)) for i in (1, 2))
    optional = [call.optional(i) for i in range(3, 8)]
    return call.add_all(recurrent_op(call, "DynamicQuantizeLSTM", r), call.value(0), w, r, *optional, *map(call.optional, range(8, 12)))


def qlinear_binary(call: Call) -> Result:
    """QLinearAdd and QLinearMul: (a, scale, zero, b, scale, zero, y scale, y zero)."""
    a = dequantized(call, call.value(0), call.value(1), call.optional(2))
    b = dequantized(call, call.value(3), call.value(4), call.optional(5))
    y = call.add(Add() if call.op_type == "QLinearAdd" else Mul(), a, b)
    return quantized(call, y, call.value(6), call.optional(7), call.value(0).type.dtype)


def _qlinear_unary(function: Callable[[Call, Value], Value]) -> Callable[[Call], Result]:
    """A rule for (x, scale, zero, y scale, y zero)."""

    def rule(call: Call) -> Result:
        y = function(call, dequantized(call, call.value(0), call.value(1), call.optional(2)))
        return quantized(call, y, call.value(3), call.optional(4), call.value(0).type.dtype)

    return rule


def _leaky_relu(call: Call, x: Value) -> Value:
    return call.add(LeakyRelu(alpha=call.attr("alpha", 0.01)), x)


def _sigmoid(call: Call, x: Value) -> Value:
    return call.add(Sigmoid(), x)


def _softmax(call: Call, x: Value) -> Value:
    axis = int(call.attr("axis", -1))
    if call.attr("opset", 13) < 13 and axis % x.type.rank != x.type.rank - 1:
        raise UnsupportedError("QLinearSoftmax over several axes is not supported")
    return call.add(Softmax(axis=axis), x)


def _average(call: Call, x: Value) -> Value:
    if call.attr("channels_last", 0):
        raise UnsupportedError("channels_last pooling is not supported")
    if call.op_type == "QLinearGlobalAveragePool":
        return call.add(ops.get("ReduceMean")(axes=tuple(range(2, x.type.rank))), x)  # type: ignore[call-arg]
    rank = x.type.rank - 2
    kernel, strides = tuple(call.attr("kernel_shape", ())), tuple(call.attr("strides", (1,) * rank))
    pads, padded = tuple(call.attr("pads", (0,) * (2 * rank))), bool(call.attr("count_include_pad", 0))
    if call.attr("auto_pad", "NOTSET") != "NOTSET":
        raise UnsupportedError("QLinearAveragePool with auto_pad is not supported")
    return call.add(AveragePool(kernel, strides, pads, (1,) * rank, bool(call.attr("ceil_mode", 0)), padded), x)


def qlinear_concat(call: Call) -> Result:
    """(y scale, y zero, then x, scale, zero for each operand)."""
    parts = [dequantized(call, call.value(i), call.value(i + 1), call.optional(i + 2)) for i in range(2, len(call.inputs), 3)]
    y = call.add(Concat(axis=int(call.attr("axis", 0))), *parts)
    return quantized(call, y, call.value(0), call.optional(1))


def qgemm(call: Call) -> Result:
    """(a, scale, zero, b, scale, zero, bias of int32, y scale, y zero); without y scale the result is float."""
    a = dequantized(call, call.value(0), call.value(1), call.optional(2))
    trans_b = bool(call.attr("transB", 0))
    b = dequantized(call, call.value(3), call.value(4), call.optional(5), 0 if trans_b else 1)
    bias, alpha = call.optional(6), float(call.attr("alpha", 1.0))
    if bias is not None:
        scale = call.add(Mul(), call.add(Mul(), call.value(1), call.value(4)), call.constant(np.array(alpha, np.float32)))
        bias = dequantized(call, bias, scale, None, 0)
    y = call.add(Gemm(alpha, 1.0, bool(call.attr("transA", 0)), trans_b), a, b, bias)
    return y if call.optional(7) is None else quantized(call, y, call.value(7), call.optional(8))


def rms_normalization(call: Call) -> Result:
    """SimplifiedLayerNormalization."""
    return call.add(from_attributes(call, ops.get("RMSNormalization")), call.value(0), call.value(1))


RULES = {
    "FusedMatMul": fused_matmul,
    "Gelu": gelu,
    "BiasGelu": gelu,
    "FastGelu": gelu,
    "QuickGelu": quick_gelu,
    "SkipLayerNormalization": skip_layer_normalization,
    "SkipSimplifiedLayerNormalization": skip_layer_normalization,
    "SimplifiedLayerNormalization": rms_normalization,
    "FusedConv": fused_conv,
    "FusedGemm": fused_gemm,
    "MatMulIntegerToFloat": matmul_integer_to_float,
    "DynamicQuantizeMatMul": dynamic_quantize_matmul,
    "DynamicQuantizeLSTM": dynamic_quantize_lstm,
    "QuantizeLinear": quantize_linear,
    "DequantizeLinear": dequantize_linear,
    "QLinearAdd": qlinear_binary,
    "QLinearMul": qlinear_binary,
    "QLinearSigmoid": _qlinear_unary(_sigmoid),
    "QLinearLeakyRelu": _qlinear_unary(_leaky_relu),
    "QLinearSoftmax": _qlinear_unary(_softmax),
    "QLinearAveragePool": _qlinear_unary(_average),
    "QLinearGlobalAveragePool": _qlinear_unary(_average),
    "QLinearConcat": qlinear_concat,
    "QGemm": qgemm,
}
