"""What quantization needs to know of each operator."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from lepton_compiler.ir.graph import Node, Value
from lepton_compiler.ir.types import FLOAT32

Role = Literal["layer", "keeping", "joining", "concat", "average", "activation", "affine", "other"]

KEEPING = frozenset(
    "Reshape Squeeze Unsqueeze Transpose Slice Split MaxPool Expand Tile DepthToSpace SpaceToDepth ReduceMax ReduceMin".split()
)
"""Operators whose results are elements of their first operand: codes stay as they are."""
AVERAGES = frozenset({"AveragePool", "ReduceMean"})
ACTIVATIONS = frozenset(
    "Relu Clip LeakyRelu Sigmoid Tanh HardSigmoid HardSwish Swish Gelu Mish Elu Selu Celu Softplus Softsign Erf Exp Abs Neg Sqrt".split()
)
"""Functions of one element; bounds of `Clip` are constants."""
JOINING = frozenset({"Add", "Sub", "Mul"})
RECURRENT = frozenset({"GRU", "LSTM", "RNN"})


def role(node: Node) -> Role:
    """How a node takes part in a quantized model; what is not float32 takes no part."""
    name = node.op.name
    data = data_operands(node)
    if not data or any(v.type.dtype != FLOAT32 for v in (*data, *node.outputs[:1])) or node.regions:
        return "other"
    if weight_of(node) is not None:
        return "layer"
    if name in KEEPING:
        return "keeping" if not getattr(node.op, "indices", False) else "other"
    if name == "Gather":
        return "keeping" if node.inputs[0] is not None and not node.inputs[0].is_constant else "other"
    if name == "Pad":
        return "keeping" if _pads_zeros(node) else "other"
    if name == "Resize":
        return "keeping" if getattr(node.op, "mode", "") == "nearest" else "average"
    if name == "Concat":
        return "concat"
    if name in AVERAGES:
        return "average"
    if name in ACTIVATIONS:
        return "activation" if all(v is None or v.is_constant for v in node.inputs[1:]) else "other"
    if name in (*JOINING, "Div") and constant_operand(node) is not None:
        return "affine"
    return "joining" if name in JOINING else "other"


def is_moved_input(value: Value) -> bool:
    """Whether a value is an input of the model, whose elements have been moved at most."""
    while not value.is_input:
        maker = value.producer
        if maker is None or role(maker) != "keeping":
            return False
        value = maker.present_inputs[0]
    return True


def data_operands(node: Node) -> list[Value]:
    """The operands that carry data through a node: for most operators the first, for sums and joins all that are no constants."""
    if node.op.name in (*JOINING, "Div", "Concat"):
        return [v for v in node.present_inputs if not v.is_constant]
    first = node.inputs[0] if node.inputs else None
    return [] if first is None or first.is_constant else [first]


def weight_of(node: Node) -> Value | None:
    """The constant weights of a convolution or product, of rank 2 or more and known values; None for other nodes.

    A layer that is on codes already, as `simplify-quantization` writes it, is none: its data is codes less a zero point, its weights are whole.
    """
    if node.op.name not in ("Conv", "ConvTranspose", "MatMul", "Gemm") or len(node.inputs) < 2:
        return None
    weight, op = node.inputs[1], node.op
    if weight is None or weight.tensor is None or weight.type.rank < 2 or not weight.type.size:
        return None
    if node.op.name == "Gemm" and (op.alpha != 1 or op.beta != 1 or op.trans_a):  # type: ignore[attr-defined]
        return None
    return weight if (node.op.name != "MatMul" or weight.type.rank == 2) and not _is_on_codes(node, weight) else None


def _is_on_codes(node: Node, weight: Value) -> bool:
    data = node.inputs[0]
    while data is not None and data.producer is not None and data.producer.op.name in KEEPING:
        data = data.producer.inputs[0]
    source = None if data is None else data.producer
    if source is None or source.op.name != "DequantizeLinear" or source.present_inputs[1].tensor is None:
        return False
    array = weight.numpy()
    return bool(np.all(source.present_inputs[1].numpy() == 1) and np.all(array == np.rint(array)))


def layer_name(node: Node) -> str:
    """How a layer is named: by its result, in a nested graph after the first result of the node that this belongs to."""
    owner = node.graph.owner
    return node.output.name if owner is None else f"{owner.outputs[0].name}/{node.output.name}"


def output_channels(node: Node) -> int:
    """The axis of a layer's weights along which its output channels lie."""
    op: Any = node.op
    match op.name:
        case "Conv":
            return 0
        case "ConvTranspose":
            return 1
        case "Gemm":
            return 0 if op.trans_b else 1
    return 1


def channel_axis(node: Node) -> int:
    """The axis of a layer's result along which its channels lie."""
    return 1 if node.op.name in ("Conv", "ConvTranspose") and getattr(node.op, "layout", "NCHW") == "NCHW" else -1


def constant_operand(node: Node) -> Value | None:
    """The constant of an element-wise operator of two operands that does not make the other one larger."""
    if len(node.inputs) != 2:
        return None
    a, b = node.inputs
    if a is None or b is None or a.is_constant == b.is_constant:
        return None
    constant, data = (a, b) if a.is_constant else (b, a)
    if node.op.name == "Div" and a.is_constant:
        return None
    return constant if node.output.type.shape == data.type.shape and constant.type.dtype == FLOAT32 else None


def bias_after(node: Node) -> Node | None:
    """`Add` of a constant vector over the last axis, right after a `MatMul`."""
    if node.op.name != "MatMul" or len(node.output.uses) != 1 or node.output.is_output:
        return None
    (add,) = node.output.users
    constant = constant_operand(add) if add.op.name == "Add" else None
    if constant is None or constant.type.size != node.output.type.shape[-1] or constant.type.shape[-1:] != node.output.type.shape[-1:]:
        return None
    return add


def _pads_zeros(node: Node) -> bool:
    op: Any = node.op
    value = node.inputs[1] if len(node.inputs) > 1 else None
    plain = getattr(op, "mode", "constant") != "constant" or value is None
    return plain or (value is not None and value.tensor is not None and not np.any(value.numpy()))
