"""Quantization: explicit quantize and dequantize stay; integer composites become dequantize, operate, quantize."""

from __future__ import annotations

from lepton_compiler.errors import ModelError
from lepton_compiler.frontends.onnx.call import Call, Result
from lepton_compiler.frontends.onnx.rules.convolution import conv_op
from lepton_compiler.ir.graph import Value
from lepton_compiler.ir.types import FLOAT32, UINT8, DType
from lepton_compiler.ops.binary import Mul
from lepton_compiler.ops.matmul import MatMul
from lepton_compiler.ops.quantize import DequantizeLinear, QuantizeLinear


def quantize_linear(call: Call) -> Result:
    """QuantizeLinear; the result's type is that of the zero point, or an attribute."""
    x, scale = call.value(0), call.value(1)
    zero = call.optional(2)
    kind = zero.type.dtype if zero is not None else call.dtype_attr("output_dtype") or UINT8
    axis, saturate = int(call.attr("axis", 1)), bool(call.attr("saturate", 1))
    block, precision = int(call.attr("block_size", 0)), call.dtype_attr("precision")
    return call.add(QuantizeLinear(dtype=kind, axis=axis, block_size=block, saturate=saturate, precision=precision), x, scale, zero)


def dequantize_linear(call: Call) -> Result:
    """DequantizeLinear; the result's type is that of the scale, or an attribute."""
    x, scale = call.value(0), call.value(1)
    kind = call.dtype_attr("output_dtype") or scale.type.dtype
    op = DequantizeLinear(dtype=kind, axis=int(call.attr("axis", 1)), block_size=int(call.attr("block_size", 0)))
    return call.add(op, x, scale, call.optional(2))


def dequantized(call: Call, x: Value, scale: Value, zero: Value | None, axis: int = 0, kind: DType = FLOAT32) -> Value:
    """`(x - zero) * scale` along `axis` if the scale is a vector."""
    return call.add(DequantizeLinear(dtype=kind, axis=axis), x, scale, zero)


def quantized(call: Call, x: Value, scale: Value, zero: Value | None, kind: DType | None = None, axis: int = 0) -> Value:
    """`round(x / scale) + zero`, saturated to the type of the zero point."""
    element = zero.type.dtype if zero is not None else kind or UINT8
    return call.add(QuantizeLinear(dtype=element, axis=axis), x, scale, zero)


def qlinear_conv(call: Call) -> Result:
    """QLinearConv: (x, scale, zero, w, scale, zero, y scale, y zero, bias of int32 at the product of the scales)."""
    x = dequantized(call, call.value(0), call.value(1), call.optional(2))
    w = dequantized(call, call.value(3), call.value(4), call.optional(5))
    bias = call.optional(8)
    if bias is not None:
        bias = dequantized(call, bias, call.add(Mul(), call.value(1), call.value(4)), None)
    y = call.add(conv_op(call, x, w), x, w, bias)
    return quantized(call, y, call.value(6), call.optional(7))


def qlinear_matmul(call: Call) -> Result:
    """QLinearMatMul: (a, scale, zero, b, scale, zero, y scale, y zero); vectors of scales are per row of a, per column of b."""
    a, b = call.value(0), call.value(3)
    if min(a.type.rank, b.type.rank) < 1:
        raise ModelError("QLinearMatMul needs matrices")
    kind = call.value(1).type.dtype
    left = dequantized(call, a, call.value(1), call.optional(2), max(0, a.type.rank - 2), kind)
    right = dequantized(call, b, call.value(4), call.optional(5), b.type.rank - 1, kind)
    y = call.add(MatMul(), left, right)
    return quantized(call, y, call.value(6), call.optional(7), axis=max(0, y.type.rank - 2))


RULES = {
    "QuantizeLinear": quantize_linear,
    "DequantizeLinear": dequantize_linear,
    "QLinearConv": qlinear_conv,
    "QLinearMatMul": qlinear_matmul,
}
