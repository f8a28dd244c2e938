"""Normalizations, softmax and attention."""

from __future__ import annotations

from typing import Any

from lepton_compiler import ops
from lepton_compiler.errors import ModelError, UnsupportedError
from lepton_compiler.frontends.onnx.call import Call, Result
from lepton_compiler.frontends.onnx.rules.elementwise import from_attributes, product, reshape_to
from lepton_compiler.ir.graph import Value
from lepton_compiler.ops.binary import Add, Div, Mul, Sub
from lepton_compiler.ops.normalize import BatchNormalization, GroupNormalization, LayerNormalization
from lepton_compiler.ops.reduce import ReduceMean
from lepton_compiler.ops.shape import Expand
from lepton_compiler.ops.unary import Sqrt


def softmax(call: Call) -> Result:
    """Softmax, LogSoftmax and Hardmax; before opset 13 the operand was flattened to two dimensions at the axis."""
    x, cls = call.value(0), ops.get(call.op_type)
    rank = x.type.rank
    axis = int(call.attr("axis", -1 if call.version >= 13 else 1))
    if not -rank <= axis < max(rank, 1):
        raise ModelError(f"axis {axis} is out of range for {x.type}")
    axis += rank if axis < 0 else 0
    if call.version >= 13 or all(d == 1 for d in x.type.shape[axis + 1 :]):
        return call.add(cls(axis=axis), x)  # type: ignore[call-arg]
    flat = reshape_to(call, x, (product(x.type.shape[:axis]), product(x.type.shape[axis:])))
    return reshape_to(call, call.add(cls(axis=-1), flat), x.type.shape)  # type: ignore[call-arg]


def batch_normalization(call: Call) -> Result:
    """Inference; training mode is spelled out with batch statistics and running averages."""
    x, scale, bias, mean, var = (call.value(i) for i in range(5))
    if call.version < 14 and any(call.wants(i) for i in range(1, 5)):
        hint = "export the model for inference, with one output"
        raise UnsupportedError("BatchNormalization with the outputs of training is not supported before opset 14", hint=hint)
    if call.version < 9 and call.attr("spatial", 1) == 0:
        return _by_feature(call, x, scale, bias, mean, var)
    op = BatchNormalization(epsilon=call.attr("epsilon", 1e-5))
    if not (call.version >= 14 and call.attr("training_mode", 0)):
        return call.add(op, x, scale, bias, mean, var)
    axes = tuple(i for i in range(x.type.rank) if i != 1)
    batch_mean = call.add(ReduceMean(axes=axes, keepdims=True), x)
    centred = call.add(Sub(), x, batch_mean)
    batch_var = call.add(ReduceMean(axes=axes, keepdims=False), call.add(Mul(), centred, centred))
    flat_mean = call.add(ReduceMean(axes=axes, keepdims=False), x)
    momentum = call.attr("momentum", 0.9)

    def running(old: Value, new: Value) -> Value:
        return call.add(Add(), call.add(Mul(), old, call.like(old, momentum)), call.add(Mul(), new, call.like(new, 1 - momentum)))

    y = call.add(op, x, scale, bias, flat_mean, batch_var)
    return [y, running(mean, flat_mean), running(var, batch_var)]


def _by_feature(call: Call, x: Value, scale: Value, bias: Value, mean: Value, var: Value) -> Value:
    """`spatial=0`: parameters of the shape of one element of the batch."""
    deviation = call.add(Sqrt(), call.add(Add(), var, call.like(var, call.attr("epsilon", 1e-5))))
    factor = call.add(Div(), scale, deviation)
    return call.add(Add(), call.add(Mul(), call.add(Sub(), x, mean), factor), bias)


def layer_normalization(call: Call) -> Result:
    """LayerNormalization, with its statistics if the model uses them."""
    statistics = call.wants(1) or call.wants(2)
    op = LayerNormalization(axis=int(call.attr("axis", -1)), epsilon=call.attr("epsilon", 1e-5), statistics=statistics)
    return call.add_all(op, *call.inputs)


def group_normalization(call: Call) -> Result:
    """GroupNormalization; before opset 21 scale and bias were per group."""
    x, groups = call.value(0), int(call.attr("num_groups", 0))
    channels = x.type.shape[1] if x.type.rank > 1 else 0
    if groups <= 0:
        raise ModelError("attribute 'num_groups' is missing")
    factors = [call.value(1), call.value(2)]
    if call.version < 21:
        each = channels // groups
        factors = [reshape_to(call, call.add(Expand(shape=(groups, each)), reshape_to(call, f, (groups, 1))), (channels,)) for f in factors]
    return call.add(GroupNormalization(num_groups=groups, epsilon=call.attr("epsilon", 1e-5)), x, *factors)


def attention(call: Call) -> Result:
    """Attention; types narrower than float32 are named by `softmax_precision`."""
    given: dict[str, Any] = {"softmax_precision": call.dtype_attr("softmax_precision"), "outputs": max(1, call.output_count)}
    return call.add_all(from_attributes(call, ops.get("Attention"), **given), *call.inputs)


RULES = {
    "Softmax": softmax,
    "LogSoftmax": softmax,
    "Hardmax": softmax,
    "BatchNormalization": batch_normalization,
    "LayerNormalization": layer_normalization,
    "GroupNormalization": group_normalization,
    "Attention": attention,
}
