"""Bias correction: what quantization adds to the mean of a channel is taken off its bias.

M. Nagel et al., "Data-free quantization through weight equalization and bias correction", ICCV 2019, section 4.2, with the mean measured.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lepton_compiler.ir.graph import Node, Value
from lepton_compiler.ops.quantize import DequantizeLinear
from lepton_compiler.passes.quantize.roles import bias_after, constant_operand


def channel_means(arrays: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """The mean over all elements of all arrays per index of `axis`, in float64."""
    total, count = np.zeros(arrays[0].shape[axis]), 0
    for array in arrays:
        others = tuple(a for a in range(array.ndim) if a != axis % array.ndim)
        total += array.sum(others, dtype=np.float64)
        count += array.size // array.shape[axis]
    return total / max(1, count)


def take_off(node: Node, bias: Node | None, error: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Change the bias of a layer so that its results lose `error` per channel.

    Args:
        node: the convolution or product.
        bias: the `DequantizeLinear` of its bias, if that is on codes.
        error: the mean error per channel.
        unit: scale of data times scales of weights: the step of a bias on codes.

    Returns:
        What the layer's own results have really lost per channel: zeros where the bias is added by a later node, or cannot be changed.
    """
    if bias is not None:
        codes, scale = bias.present_inputs[:2]
        step = scale.numpy().astype(np.float64)
        change = np.rint(error / step)
        moved = codes.numpy().astype(np.float64) - change.reshape(codes.type.static_shape)
        _exchange(bias, 0, np.clip(moved, -(2.0**31), 2.0**31 - 1).astype(np.int32))
        own = any(user is node for user in bias.output.users)
        return change * step if own else np.zeros(len(error))
    if node.op.name == "MatMul":
        add = bias_after(node)
        constant = None if add is None else constant_operand(add)
        if add is not None and constant is not None:
            index = next(i for i, v in enumerate(add.inputs) if v is constant)
            _exchange(add, index, constant.numpy() - error.astype(np.float32).reshape(constant.type.static_shape))
        return np.zeros(len(error))
    return _own_bias(node, error, unit)


def _own_bias(node: Node, error: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """The same for a float bias of the node itself, or for one that it gets now."""
    present = node.inputs[2] if len(node.inputs) > 2 else None
    if present is not None:
        if present.tensor is None or present.type.size != len(error):
            return np.zeros(len(error))
        _exchange(node, 2, (present.numpy() - error.reshape(present.type.static_shape)).astype(np.float32))
        return error
    graph, loc = node.graph, node.loc
    step = np.asarray(unit, np.float32)
    codes = np.clip(np.rint(-error / step), -(2.0**31), 2.0**31 - 1).astype(np.int32)
    operands = [graph.constant(codes, f"{node.output.name}_bias_codes"), graph.constant(step, f"{node.output.name}_bias_scale")]
    back = graph.add(DequantizeLinear(axis=0), operands, names=[f"{node.output.name}_bias"], before=node, loc=loc)
    graph.set_inputs(node, [*node.inputs[:2], back.output])
    return -codes * step.astype(np.float64)


def _exchange(node: Node, index: int, array: np.ndarray) -> Value:
    """Another constant as an operand."""
    graph, old = node.graph, node.inputs[index]
    new = graph.constant(array, "constant" if old is None else old.name)
    graph.set_inputs(node, [new if i == index else v for i, v in enumerate(node.inputs)])
    return new
