"""Products of whole numbers that were quantized to 8 bits, as products of the integers themselves."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lepton_compiler.analysis.weights import known_numbers
from lepton_compiler.backends.tvm.capabilities import MOST_TAPS
from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ir.traverse import bodies
from lepton_compiler.ir.types import FLOAT32, INT8, UINT8, TensorType
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.cast import Cast
from lepton_compiler.ops.conv import Conv, ConvInteger
from lepton_compiler.ops.matmul import Gemm, MatMul, MatMulInteger
from lepton_compiler.pipeline import Pass, PassContext

LARGEST_DATA = 255
"""Largest magnitude of 8-bit data less its zero point."""
LARGEST_SUM = 1 << 31
"""Sums of smaller magnitude do not wrap around."""
OFFSET = 128
"""From signed to unsigned 8-bit numbers."""
MOVING = frozenset({"Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators that move elements, of whatever type."""
KEEPING = frozenset({"MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators that choose or move elements, whatever is added to all of them."""
READING = frozenset({"ConvInteger", "DequantizeLinear", "MatMulInteger"})
"""Operators that subtract a zero point from the data."""


@dataclass(frozen=True)
class IntegerProducts(Pass):
    """Conv(DequantizeLinear(x, 1, zero), w) of whole numbers w  -->  Cast(ConvInteger(x, w, zero))

    Likewise Gemm and MatMul. Biases of whole numbers are added to the integers. Results are the same wherever float32 holds the sums.
    Data that a product reads is then made unsigned, which the dot products of most processors want: QuantizeLinear(x, s, zero) to int8
    -->  QuantizeLinear(x, s, zero + 128) to uint8, if all its readers subtract a zero point.
    """

    def run(self, graph: Graph, ctx: PassContext) -> None:  # noqa: D102
        unsigned = not ctx.target.keeps_codes and "dotprod" not in ctx.target.extensions
        for part in list(bodies(graph)):
            for node in part.nodes:
                found = _found(node)
                if found is not None:
                    _rewrite(node, found)
            for node in part.nodes:
                if unsigned and node.op.name == "QuantizeLinear" and node.output.type.dtype == INT8:
                    _make_unsigned(node)


@dataclass(frozen=True)
class Product:
    """What a product of whole numbers consists of: the data's integers, how they are moved, their zero point, the weights, the bias."""

    data: Value
    moves: list[Node]
    zero: Value | None
    weights: np.ndarray
    bias: np.ndarray | None


def _found(node: Node) -> Product | None:
    """The product of 8-bit integers that a node computes in float32, if it is one."""
    op = node.op
    if isinstance(op, Gemm):
        fits = op.alpha == 1 and op.beta == 1 and not op.trans_a
    else:
        fits = isinstance(op, MatMul) or (isinstance(op, Conv) and op.layout == "NCHW" and len(op.strides) <= 2)
    if not fits or node.output.type.dtype != FLOAT32:
        return None
    x, w, bias = (*node.inputs, None)[:3]
    assert x is not None and w is not None
    moves: list[Node] = []
    while x.producer is not None and x.producer.op.name in MOVING:
        moves.insert(0, x.producer)
        x = x.producer.present_inputs[0]
    source = x.producer
    if (
        source is None
        or source.op.name != "DequantizeLinear"
        or (weights := known_numbers(w)) is None
        or (bias is not None and bias.tensor is None)
    ):
        return None
    data, scale, zero = (*source.inputs, None)[:3]
    assert data is not None and scale is not None
    plain = data.type.dtype in (INT8, UINT8) and scale.tensor is not None and scale.type.size == 1 and float(scale.numpy().reshape(())) == 1
    if not plain or (zero is not None and (zero.tensor is None or zero.type.size != 1)):
        return None
    if isinstance(op, Conv) and op.groups > 1 and not _is_depthwise(op, weights):
        return None
    if isinstance(op, MatMul | Gemm) and (weights.ndim != 2 or node.present_inputs[0].type.rank < 2):
        return None
    weights = weights.T if isinstance(op, Gemm) and op.trans_b else weights
    if (
        weights.size == 0
        or not _are_whole(weights)
        or int(weights.max()) - int(weights.min()) > LARGEST_DATA
        or np.abs(weights).max() > 255
    ):
        return None
    added = None if bias is None else bias.numpy()
    if added is not None and added.size not in (1, node.output.type.shape[-1] if not isinstance(op, Conv) else weights.shape[0]):
        return None
    return Product(data, moves, zero, weights.astype(np.int64), added) if _holds(weights, isinstance(op, Conv), added) else None


def _is_depthwise(op: Conv, weights: np.ndarray) -> bool:
    """Whether there is a kernel for a filter per channel: its weights are signed 8-bit numbers, and not too many."""
    single = op.groups == weights.shape[0] and weights.shape[1] == 1 and weights.size <= op.groups * MOST_TAPS
    return single and bool(weights.size) and bool(weights.min() >= -OFFSET and weights.max() < OFFSET)


def _are_whole(numbers: np.ndarray) -> bool:
    return bool(np.isfinite(numbers).all() and (numbers == np.rint(numbers)).all())


def _holds(weights: np.ndarray, conv: bool, bias: np.ndarray | None) -> bool:
    """Whether no sum wraps around, with the whole bias."""
    axes = tuple(range(1, weights.ndim)) if conv else (0,)
    largest = float(np.abs(weights).sum(axis=axes, dtype=np.float64).max()) * LARGEST_DATA
    return largest + (float(np.abs(bias).max()) if bias is not None and bias.size else 0.0) < LARGEST_SUM


def _rewrite(node: Node, found: Product) -> None:
    graph, op = node.graph, node.op
    b = Builder(graph, node, node.loc.by("integer-products"))
    w, zero = _encoded(b, found.weights)
    weights, data = b.constant(w, name="weights"), found.data
    for move in found.moves:
        data = b(move.op, data)
    if isinstance(op, Conv):
        whole = ConvInteger(strides=op.strides, pads=op.pads, dilations=op.dilations, groups=op.groups)
        sums = b(whole, data, weights, _scalar(b, found.zero), zero)
    else:
        sums = b(MatMulInteger(), data, weights, _scalar(b, found.zero), zero)
    shape = (-1, *(1,) * (sums.type.rank - 2)) if isinstance(op, Conv) else (-1,)
    bias = None if found.bias is None else found.bias.reshape(shape)
    if bias is not None and _are_whole(bias):
        sums, bias = b.Add(sums, b.constant(bias.astype(np.int32), name="bias")), None
    result = b(Cast(to=FLOAT32), sums)
    if bias is not None:
        result = b.Add(result, b.constant(bias, name="bias"))
    graph.replace_all_uses(node.output, result)
    name = node.output.name
    graph.remove(node)
    graph.rename(result, name)


def _encoded(b: Builder, weights: np.ndarray) -> tuple[np.ndarray, Value | None]:
    """Whole numbers as 8-bit ones and their zero point."""
    if weights.min() >= -OFFSET and weights.max() < OFFSET:
        return weights.astype(np.int8), None
    zero = max(0, -int(weights.min()))
    return (weights + zero).astype(np.uint8), b.constant(np.array(zero, np.uint8), name="zero")


def _scalar(b: Builder, zero: Value | None) -> Value | None:
    return zero if zero is None or not zero.type.shape else b.constant(zero.numpy().reshape(()), name=zero.name)


def _make_unsigned(node: Node) -> None:
    """Add 128 to quantized data and to the zero points of all that read it, if a product of integers does."""
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if zero is not None and zero.tensor is None:
        return
    values, readers = [node.output], list[Node]()
    for value in values:
        if value.is_output:
            return
        for user, index in value.uses:
            if user.op.name in KEEPING and len(user.outputs) == 1 and index == 0:
                values.append(user.output)
            elif user.op.name in READING and index == 0 and not _open_zero(user):
                readers.append(user)
            else:
                return
    if not any(reader.op.name != "DequantizeLinear" for reader in readers):
        return
    graph = node.graph
    for at in [node, *dict.fromkeys(readers)]:
        _move_zero(graph, at)
    moved = Builder(graph, node, node.loc.by("integer-products"))(replace(node.op, dtype=UINT8), *node.inputs)  # type: ignore[call-arg]
    name = node.output.name
    for value in values[1:]:
        value.type = TensorType(UINT8, value.type.shape)
    graph.replace_all_uses(node.output, moved)
    graph.remove(node)
    graph.rename(moved, name)


def _open_zero(reader: Node) -> bool:
    """Whether a zero point is not known."""
    zero = reader.inputs[2] if len(reader.inputs) > 2 else None
    return zero is not None and zero.tensor is None


def _move_zero(graph: Graph, node: Node) -> None:
    """Add 128 to the zero point of a node's data or result."""
    data, second, *rest = node.inputs
    zero, others = (rest[0], rest[1:]) if rest else (None, [])
    shape = zero.type.static_shape if zero is not None else _zero_shape(node, second)
    numbers = np.zeros(shape, np.int64) if zero is None else zero.numpy().astype(np.int64)
    graph.set_inputs(node, [data, second, graph.constant((numbers + OFFSET).astype(np.uint8), "zero"), *others])


def _zero_shape(node: Node, scale: Value | None) -> tuple[int, ...]:
    return scale.type.static_shape if scale is not None and "Quantize" in node.op.name else ()
