"""Moving factors from data into weights, channel by channel, before ranges are chosen. Both leave the model's results as they are.

`equalize` after M. Nagel et al., "Data-free quantization through weight equalization and bias correction", ICCV 2019, section 4.1;
`smooth` after G. Xiao et al., "SmoothQuant", ICML 2023.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lepton_compiler.calibration import Statistics
from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ops.builder import Builder
from lepton_compiler.passes.quantize.roles import output_channels, weight_of

LARGEST = 1e3
"""Bound on a factor, and its inverse."""


def equalize(graph: Graph, rounds: int = 5) -> int:
    """Scale the channels between pairs of convolutions so that the weights on both sides have equal ranges; returns how many pairs."""
    pairs = [pair for node in graph if (pair := _pair(node)) is not None]
    for _ in range(rounds):
        for first, second in pairs:
            _equalize(first, second)
    return len(pairs)


def _pair(node: Node) -> tuple[Node, Node] | None:
    """A convolution and the one after it, with nothing but a Relu between them."""
    if node.op.name != "Conv" or weight_of(node) is None or _layout(node) != "NCHW":
        return None
    value = node.output
    while len(value.uses) == 1 and not value.is_output:
        (user,) = value.users
        if user.op.name == "Relu":
            value = user.output
            continue
        return (node, user) if user.op.name == "Conv" and weight_of(user) is not None and user.inputs[0] is value else None
    return None


def _layout(node: Node) -> str:
    return str(getattr(node.op, "layout", "NCHW"))


def _equalize(first: Node, second: Node) -> None:
    a, b = (w.numpy() for w in (weight_of(first), weight_of(second)) if w is not None)
    outs = np.abs(a).reshape(len(a), -1).max(1)
    ins = _per_input(second, np.abs(b))
    factor = np.sqrt(np.where((outs > 0) & (ins > 0), outs / np.where(ins > 0, ins, 1), 1.0))
    factor = np.clip(factor, 1 / LARGEST, LARGEST)
    _exchange(first, 1, a / factor.reshape(-1, *[1] * (a.ndim - 1)))
    bias = first.inputs[2] if len(first.inputs) > 2 else None
    if bias is not None:
        _exchange(first, 2, bias.numpy() / factor)
    _exchange(second, 1, b * _spread_inputs(second, factor, b.shape))


def _per_input(node: Node, weights: np.ndarray) -> np.ndarray:
    """The largest weight per input channel of a convolution."""
    groups = int(getattr(node.op, "groups", 1))
    parts = weights.reshape(groups, -1, weights.shape[1], *weights.shape[2:])
    largest: np.ndarray = parts.reshape(groups, parts.shape[1], parts.shape[2], -1).max((1, 3)).reshape(-1)
    return largest


def _spread_inputs(node: Node, factor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Factors per input channel in a shape that multiplies the weights."""
    groups = int(getattr(node.op, "groups", 1))
    rows = np.repeat(factor.reshape(groups, shape[1]), shape[0] // groups, 0)
    return rows.reshape(shape[0], shape[1], *[1] * (len(shape) - 2))


def smoothable(graph: Graph) -> dict[Value, list[Node]]:
    """The values that products by constant matrices read, and these products."""
    found: dict[Value, list[Node]] = {}
    for node in graph:
        data = node.inputs[0] if node.inputs else None
        if node.op.name in ("MatMul", "Gemm") and weight_of(node) is not None and data is not None and data.type.rank >= 2:
            found.setdefault(data, []).append(node)
    return found


def smooth(graph: Graph, statistics: Mapping[str, Statistics], strength: float) -> int:
    """Divide the channels of data that products read by factors, and multiply the products' weights by them; returns how many values.

    The factor of a channel is `largest of data ** strength / largest of weights ** (1 - strength)`. It goes into the parameters of a
    normalization where only these products read the result, else into a multiplication.
    """
    changed = 0
    for value, products in smoothable(graph).items():
        found = statistics[value.name]
        if found.channel_low is None or found.channel_high is None:
            continue
        data = np.maximum(np.abs(found.channel_low), np.abs(found.channel_high))
        weights = np.max([_by_input(node).max(1) for node in products], 0)
        known = (data > 0) & (weights > 0)
        ratio = np.where(known, data, 1.0) ** strength / np.where(known, weights, 1.0) ** (1 - strength)
        factor = np.clip(np.where(known, ratio, 1.0), 1 / LARGEST, LARGEST).astype(np.float32)
        _divide(value, products, factor)
        for node in products:
            weight = weight_of(node)
            assert weight is not None
            _exchange(node, 1, weight.numpy() * (factor[:, None] if output_channels(node) else factor[None, :]))
        changed += 1
    return changed


def _by_input(node: Node) -> np.ndarray:
    """Magnitudes of the weights, one row per input channel."""
    weight = weight_of(node)
    assert weight is not None
    array: np.ndarray = np.abs(weight.numpy())
    return array if output_channels(node) else array.T


def _divide(value: Value, products: list[Node], factor: np.ndarray) -> None:
    graph, maker = value.graph, value.producer
    alone = {n for n, _ in value.uses} == set(products) and not value.is_output
    if alone and maker is not None and maker.op.name == "LayerNormalization" and _has_vector_parameters(maker, len(factor)):
        for index in range(1, len(maker.inputs)):
            parameter = maker.inputs[index]
            if parameter is not None:
                _exchange(maker, index, parameter.numpy() / factor)
        return
    b = Builder(graph, before=products[0], loc=products[0].loc.by("smooth"))
    divided = b.Mul(value, b.constant((1 / factor).astype(np.float32), name=f"{value.name}_smooth"))
    for node in products:
        graph.set_inputs(node, [divided if i == 0 else v for i, v in enumerate(node.inputs)])


def _has_vector_parameters(node: Node, size: int) -> bool:
    return all(v is None or (v.is_constant and v.type.shape == (size,)) for v in node.inputs[1:])


def _exchange(node: Node, index: int, array: np.ndarray) -> None:
    """Another constant as an operand."""
    graph, old = node.graph, node.inputs[index]
    assert old is not None
    new = graph.constant(array.astype(old.type.dtype.numpy), old.name)
    graph.set_inputs(node, [new if i == index else v for i, v in enumerate(node.inputs)])
