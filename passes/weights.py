"""Moving scales and shifts into the weights of convolutions and matrix products; rules of `fold-batch-norm` and `simplify-arithmetic`."""

from __future__ import annotations

from typing import Any

import numpy as np

from lepton_compiler.ir.graph import Node, Value
from lepton_compiler.ops.builder import Builder
from lepton_compiler.rewrite.rule import Replacement, simplifies


@simplifies("BatchNormalization")
def batch_norm_to_mul_add(b: Builder, node: Node) -> Replacement:
    """BatchNormalization(x, constants)  -->  Add(Mul(x, scale / sqrt(var + epsilon)), bias - mean * that)"""
    op: Any = node.op
    x, *parameters = node.present_inputs
    if not all(p.is_constant for p in parameters):
        return "its parameters are not constants"
    scale, bias, mean, var = (p.numpy().astype(np.float64) for p in parameters)
    factor = scale / np.sqrt(var + op.epsilon)
    shape = (-1, *(1,) * (x.type.rank - 1 - op.axis % x.type.rank))
    element = x.type.dtype.numpy
    scaled = b.Mul(x, b.constant(factor.reshape(shape).astype(element), name="scale"))
    return b.Add(scaled, b.constant((bias - mean * factor).reshape(shape).astype(element), name="shift"))


@simplifies("Mul")
def scale_into_weights(b: Builder, node: Node) -> Replacement:
    """Mul(Conv(x, w, bias), c)  -->  Conv(x, w * c, bias * c), with c constant per output channel"""
    found = _linear_and_channels(node)
    if isinstance(found, str):
        return found
    linear, c = found
    if _sums_whole(linear):
        return "sums of quantized numbers stay whole"
    w, bias = linear.inputs[1], linear.inputs[2] if len(linear.inputs) > 2 else None
    assert w is not None
    scaled = [linear.inputs[0], _folded(b, w, w.numpy().astype(np.float64) * _per_output(linear, c))]
    if bias is not None:
        scaled.append(_folded(b, bias, bias.numpy().astype(np.float64) * c))
    b.loc = linear.loc.merge(b.loc)
    return b(linear.op, *scaled)


@simplifies("Add")
def shift_into_bias(b: Builder, node: Node) -> Replacement:
    """Add(Conv(x, w, bias), c)  -->  Conv(x, w, bias + c), with c constant per output channel"""
    found = _linear_and_channels(node)
    if isinstance(found, str):
        return found
    linear, c = found
    if linear.op.name == "MatMul":
        return "MatMul has no bias"
    bias = linear.inputs[2] if len(linear.inputs) > 2 else None
    total = c if bias is None else bias.numpy().astype(np.float64) + c
    w = linear.inputs[1]
    assert w is not None
    value = b.constant(np.broadcast_to(total, (_channels(linear),)).astype(w.type.dtype.numpy), name="bias")
    b.loc = linear.loc.merge(b.loc)
    return b(linear.op, linear.inputs[0], w, value)


@simplifies("Conv")
def scale_before_conv(b: Builder, node: Node) -> Replacement:
    """Conv(Mul(x, c), w)  -->  Conv(x, w * c), with c constant per input channel"""
    op: Any = node.op
    x, w = node.present_inputs[:2]
    producer = x.producer
    if producer is None or producer.op.name != "Mul" or len(x.uses) != 1 or x.is_output or not w.is_constant or op.layout != "NCHW":
        return None
    source, factor = producer.present_inputs
    c = _channel_constant(factor, x, 1) if source.type == x.type else None
    if c is None:
        return "the factor is not one constant per input channel"
    array = w.numpy().astype(np.float64)
    per_input = np.broadcast_to(c, (op.groups * array.shape[1],)).reshape(op.groups, 1, -1, *(1,) * (array.ndim - 2))
    scaled = array.reshape(op.groups, -1, *array.shape[1:]) * per_input
    b.loc = producer.loc.merge(b.loc)
    return b(op, source, _folded(b, w, scaled.reshape(array.shape)), *node.inputs[2:])


def _linear_and_channels(node: Node) -> tuple[Node, np.ndarray] | str:
    """The convolution or product that a Mul or Add follows, and its constant per output channel; or why there is none."""
    y, factor = node.present_inputs
    linear = y.producer
    if linear is None or linear.op.name not in CHANNEL_AXIS or factor.tensor is None:
        return "no convolution or product by constants before it"
    if len(y.uses) != 1 or y.is_output:
        return f"'{y.name}' is used elsewhere"
    op: Any = linear.op
    if op.name == "Gemm" and (op.alpha != 1 or op.beta != 1 or op.trans_a):
        return "Gemm with scaling"
    if not all(v is not None and v.is_constant for v in linear.inputs[1:] if v is not None) or not y.type.dtype.is_float:
        return "its weights are not float constants"
    w = linear.inputs[1]
    if w is None or w.type.rank < 2 or y.type.dtype.bits < 32 or (op.name == "Gemm" and len(linear.inputs) > 2 and not _is_vector(linear)):
        return "its weights have another form"
    axis = y.type.rank - 1 if CHANNEL_AXIS[op.name] == -1 or getattr(op, "layout", "NCHW") == "NHWC" else 1
    if op.name == "MatMul" and w.type.rank != 2:
        return "MatMul by a stack of matrices"
    c = _channel_constant(factor, y, axis)
    return (linear, c) if c is not None else "the constant differs along other axes than the channels"


def _sums_whole(linear: Node) -> bool:
    """Whether a convolution or product adds up whole numbers: the data is quantized with a scale of one, and the weights are whole."""
    x, w = linear.present_inputs[:2]
    while x.producer is not None and x.producer.op.name in ("Reshape", "Squeeze", "Transpose", "Unsqueeze"):
        x = x.producer.present_inputs[0]
    source = x.producer
    if source is None or source.op.name != "DequantizeLinear" or not source.present_inputs[1].is_constant:
        return False
    weights = w.numpy()
    return bool(np.all(source.present_inputs[1].numpy() == 1) and np.all(weights == np.rint(weights)))


CHANNEL_AXIS = {"Conv": 1, "ConvTranspose": 1, "MatMul": -1, "Gemm": -1}


def _is_vector(linear: Node) -> bool:
    bias = linear.inputs[2]
    return bias is None or bias.type.shape == (_channels(linear),)


def _channel_constant(factor: Value, data: Value, axis: int) -> np.ndarray | None:
    """A constant operand as a float64 vector along `axis` of `data`, or a scalar; None if it is something else or makes the result larger."""
    if factor.tensor is None or factor.type.rank > data.type.rank or not factor.type.dtype.is_float:
        return None
    array = factor.numpy().astype(np.float64)
    if array.size == 1:
        return array.reshape(())
    shape = (1,) * (data.type.rank - array.ndim) + array.shape
    alone = all(d == 1 for i, d in enumerate(shape) if i != axis)
    return array.reshape(-1) if alone and shape[axis] == data.type.shape[axis] else None


def _channels(linear: Node) -> int:
    y = linear.output.type.shape
    axis = -1 if CHANNEL_AXIS[linear.op.name] == -1 or getattr(linear.op, "layout", "NCHW") == "NHWC" else 1
    size = y[axis]
    assert isinstance(size, int)  # the weights are constants
    return size


def _per_output(linear: Node, c: np.ndarray) -> np.ndarray:
    """`c` in a shape that multiplies the weights' output channels."""
    op: Any = linear.op
    w = linear.inputs[1]
    assert w is not None
    if c.ndim == 0:
        return c
    if op.name == "MatMul" or (op.name == "Gemm" and not op.trans_b):
        return c
    if op.name == "ConvTranspose":
        groups, shape = op.groups, w.type.static_shape
        spread = np.repeat(c.reshape(groups, 1, shape[1]), shape[0] // groups, axis=1)
        return spread.reshape(shape[0], shape[1], *(1,) * (len(shape) - 2))
    return c.reshape(-1, *(1,) * (w.type.rank - 1))


def _folded(b: Builder, like: Value, array: np.ndarray) -> Value:
    return b.constant(np.ascontiguousarray(array.astype(like.type.dtype.numpy)), name=like.name)


INTO_WEIGHTS = [scale_into_weights, shift_into_bias, scale_before_conv]
