"""Models of which somebody has quantized a part already: that part stays as it is."""

from __future__ import annotations

from lepton_compiler.errors import UnsupportedError
from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ir.traverse import bodies

QUANTIZED = frozenset("QuantizeLinear DequantizeLinear DynamicQuantizeLinear DynamicQuantizeLSTM MatMulInteger ConvInteger".split())
LAYERS = frozenset("Conv ConvTranspose Gemm GRU LSTM MatMul RNN".split())
MOVES = frozenset("Cast Reshape Squeeze Transpose Unsqueeze".split())
"""What stands between constant weights and the layers that read them in imported graphs."""


def quantized_nodes(graph: Graph) -> int:
    """How many nodes of an imported model compute on codes, or go to codes and back.

    Raises:
        UnsupportedError: there are some, and no layer in floating point beside them.
    """
    every = [node for part in bodies(graph) for node in part]
    found = [node for node in every if node.op.name in QUANTIZED]
    if found and not any(_is_float_layer(node) for node in every):
        raise UnsupportedError(
            f"the model is quantized already: {len(found)} of its nodes are, the first one here, and no layer is in floating point",
            where=found[0].describe(),
            hint="compile it without --quantize, or quantize the float model that it was made from",
        )
    return len(found)


def _is_float_layer(node: Node) -> bool:
    """Whether a node multiplies by weights that are constants in floating point."""
    weight = node.inputs[1] if node.op.name in LAYERS and len(node.inputs) > 1 else None
    return weight is not None and _is_float_constant(weight)


def _is_float_constant(value: Value) -> bool:
    while value.producer is not None and value.producer.op.name in MOVES:
        value = value.producer.present_inputs[0]
    return value.tensor is not None and value.type.dtype.is_float
