"""Weights stored as codes that products decode as they read them, so that neither memory nor caches ever hold them in floating point."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from lepton_compiler.analysis.weights import RANKS, product_of_converted
from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ir.traverse import bodies
from lepton_compiler.ir.types import DTYPES, FLOAT16, FLOAT32
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.cast import Cast
from lepton_compiler.ops.evaluator import evaluate_node

DECODED = frozenset({DTYPES["int8"], DTYPES["uint8"], DTYPES["int4"], DTYPES["uint4"]})
"""Types of codes that kernels decode."""

NARROW = frozenset({DTYPES["bfloat16"], FLOAT16})
WHOLE = 8
"""Codes of 4 bits that fill a word: groups are multiples of it."""


def scales_after_products(graph: Graph) -> int:
    """Conv(x, DQ(codes, scales per output channel), bias)  -->  Add(Mul(Conv(x, Cast(codes)), scales), bias), in nested graphs too.

    The kernel converts codes to numbers, which takes an instruction or two, and multiplies sums instead of weights. Groups of weights with
    scales of their own stay as they are where the kernel can multiply by them; all other constants are worked out now. Returns how many
    products were changed.
    """
    count = 0
    for part in list(bodies(graph)):
        for node in part.nodes:
            if node.op.name != "DequantizeLinear" or not all(v.is_constant for v in node.present_inputs) or node.output.is_output:
                continue
            product = _product(node)
            if product is not None:
                _move_scales(node, product)
                count += 1
            elif product_of_converted(node) is None:
                _work_out(node)
    return count


def decode_as_narrow(graph: Graph) -> int:
    """MatMul(x, Cast(DQ(codes, scales)))  -->  MatMul(x, DQ(codes, scales)) of 16-bit floats: the same numbers, decoded by the product.

    Scales of output channels become those of groups as long as the sum. For GPUs. Returns how many products were changed.
    """
    count = 0
    for part in list(bodies(graph)):
        for node in part.nodes:
            source = node.present_inputs[0].producer if node.op.name == "Cast" and node.output.type.dtype in NARROW else None
            if source is None or source.op.name != "DequantizeLinear" or len(source.output.uses) != 1 or source.output.is_output:
                continue
            scales = _grouped_scales(source, node)
            if scales is None:
                continue
            (array, axis, block), b = scales, Builder(part, node, node.loc.merge(source.loc))
            way: Any = replace(source.op, dtype=node.output.type.dtype, axis=axis, block_size=block)  # type: ignore[call-arg]
            weights = b(way, source.present_inputs[0], b.constant(array, name=source.present_inputs[1].name))
            part.replace_all_uses(node.output, weights)
            part.remove(node)
            part.remove(source)
            count += 1
    return count


def _grouped_scales(source: Node, cast: Node) -> tuple[np.ndarray, int, int] | None:
    """The scales of weights of a matrix product by groups along the sum, that axis, and how long groups are; None for other weights."""
    codes, scales, *zero = source.present_inputs
    if zero or codes.type.dtype not in DECODED or not (codes.is_constant and scales.is_constant) or len(cast.output.uses) != 1:
        return None
    ((product, index),) = cast.output.uses
    op, way = product.op, source.op
    if index != 1 or op.name not in ("MatMul", "Gemm") or codes.type.rank != 2 or getattr(op, "trans_a", False):
        return None
    inner = 1 if getattr(op, "trans_b", False) else 0
    axis, block, depth = getattr(way, "axis") % 2, int(getattr(way, "block_size")), codes.type.static_shape[inner]  # noqa: B009
    if block:
        return (scales.numpy(), axis, block) if axis == inner else None
    if depth % WHOLE or not (scales.type.size == 1 or axis != inner):
        return None
    shape = tuple(1 if a == inner else n for a, n in enumerate(codes.type.static_shape))
    return np.broadcast_to(scales.numpy().reshape(-1), (shape[1 - inner],)).reshape(shape).copy(), inner, depth


def _product(node: Node) -> Node | None:
    """The product whose output channels the scales of `node` go with."""
    codes, scales, *zero = node.present_inputs
    way: Any = node.op
    if zero or codes.type.dtype not in DECODED or way.block_size or len(node.output.uses) != 1:
        return None
    ((product, index),) = node.output.uses
    op: Any = product.op
    if index != 1 or codes.type.rank not in RANKS.get(op.name, ()) or product.inputs[0] is None or product.inputs[0].type.rank < 2:
        return None
    if op.name == "Gemm" and (op.trans_a or op.alpha != 1 or op.beta != 1):
        return None
    axis = 0 if op.name == "Conv" or getattr(op, "trans_b", False) else 1
    fits = scales.type.size == 1 or way.axis % codes.type.rank == axis
    return product if fits and product.output.type.dtype == FLOAT32 else None


def _move_scales(node: Node, product: Node) -> None:
    graph, (codes, scales) = product.graph, node.present_inputs
    b = Builder(graph, before=product, loc=product.loc.by("scales-after-products"))
    last = product.op.name != "Conv" or getattr(product.op, "layout", "NCHW") == "NHWC"
    shape = (-1,) if last or scales.type.size == 1 else (-1, *(1,) * (product.output.type.rank - 2))
    sums = b(product.op, product.inputs[0], b(Cast(to=FLOAT32), codes))
    result = b.Mul(sums, b.constant(scales.numpy().astype(np.float32).reshape(shape), name=scales.name))
    bias = product.inputs[2] if len(product.inputs) > 2 else None
    if bias is not None:
        result = b.Add(result, _aligned(b, bias, product, shape))
    name = product.output.name
    graph.replace_all_uses(product.output, result)
    graph.remove(product)
    graph.remove(node)
    graph.rename(result, name)


def _aligned(b: Builder, bias: Value, product: Node, shape: tuple[int, ...]) -> Value:
    """The bias of a convolution in a shape that broadcasts to its result; that of `Gemm` does already."""
    if product.op.name != "Conv" or shape == (-1,):
        return bias
    return (
        b.Reshape(bias, shape=(bias.type.static_shape[0], *shape[1:])) if bias.tensor is None else b.constant(bias.numpy().reshape(shape))
    )


def _work_out(node: Node) -> None:
    graph, name = node.graph, node.output.name
    (array,) = evaluate_node(node, [None if v is None else v.numpy() for v in node.inputs])
    constant = graph.constant(np.asarray(array, order="C"), name)
    graph.replace_all_uses(node.output, constant)
    graph.remove(node)
    graph.rename(constant, name)
