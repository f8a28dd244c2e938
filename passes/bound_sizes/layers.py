"""Layers over a sequence of a length that data decides: recurrence, dynamic quantization, spectra, scattering, integer products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lepton_compiler.errors import UnsupportedError
from lepton_compiler.ir.graph import Node, Value
from lepton_compiler.ir.types import INT32, UINT8
from lepton_compiler.ops.builder import Builder
from lepton_compiler.passes.bound_sizes.carriers import CARRIERS, Carrier, as_it_is, masked_input, require_known, require_same_batches
from lepton_compiler.passes.bound_sizes.extents import Extents, number


def recurrent(extents: Extents, b: Builder, node: Node) -> Sequence[Value]:
    """LSTM(x)  -->  LSTM(x, lengths): steps behind the actual end leave the states alone, and the backward direction starts there"""
    op: Any = node.op
    x, w, r, bias, lengths, *states = [*node.inputs, *[None] * 5][: max(6, len(node.inputs))]
    assert x is not None and w is not None and r is not None
    time, batch = (1, 0) if op.layout else (0, 1)
    require_known(x.type, (batch, 2))
    for other in (w, r, bias, lengths, *states):
        if other is not None:
            require_known(other.type, range(other.type.rank))
    if lengths is None and not isinstance(x.type.shape[time], int):
        length = b.Cast(extents.count(b, x.type.shape[time]), to=INT32)
        lengths = b.Expand(b.Unsqueeze(length, axes=(0,)), shape=(x.type.shape[batch],))
    whole = op.name == "DynamicQuantizeLSTM"  # which takes the range of all data; zero is in it in any case
    data = masked_input(extents, b, x, (time,), 0) if whole and not isinstance(x.type.shape[time], int) else extents.value(x)
    return b.node(op, [data, w, r, bias, lengths, *states]).outputs


def dynamic_quantize(extents: Extents, b: Builder, node: Node) -> Sequence[Value]:
    """DynamicQuantizeLinear(x)  -->  the same with zeros behind the actual end, which is in the range in any case"""
    x = node.present_inputs[0]
    results = b.node(node.op, [masked_input(extents, b, x, range(x.type.rank), 0)]).outputs
    extents.tails[results[0]] = results[2] if results[2].type.dtype == UINT8 else b.Cast(results[2], to=UINT8)
    return results


def matmul_integer(extents: Extents, b: Builder, node: Node) -> Sequence[Value]:
    """MatMulInteger; the contracted axis of both operands holds the zero point behind its actual end"""
    x, y, *zeros = node.inputs
    assert x is not None and y is not None
    require_same_batches(x.type, y.type)
    contracted = y.type.rank - 2 if y.type.rank > 1 else 0
    operands = []
    for operand, axis, zero in zip((x, y), (x.type.rank - 1, contracted), [*zeros, None, None], strict=False):
        if isinstance(operand.type.shape[axis], int):
            operands.append(extents.value(operand))
            continue
        if zero is not None and zero.type.size > 1:
            raise UnsupportedError("it has a zero point per row or column, and data decides the size of the axis that it sums over")
        fill = b.constant(np.zeros((), operand.type.dtype.numpy)) if zero is None else b.Reshape(zero, shape=())
        operands.append(extents.clean(b, operand, (axis,), fill))
    return b.node(node.op, [*operands, *zeros]).outputs


def scatter_nd(extents: Extents, b: Builder, node: Node) -> Sequence[Value]:
    """ScatterND of known places; negative ones count from the actual end"""
    x, indices, updates = node.present_inputs
    require_known(indices.type, range(indices.type.rank))
    depth = indices.type.static_shape[-1]
    require_known(updates.type, range(updates.type.rank - (x.type.rank - depth)))
    sizes = [extents.count(b, d) if not isinstance(d, int) else number(b, d) for d in x.type.shape[:depth]]
    where = indices
    if extents.dynamic_axes(x.type) and not (indices.is_constant and bool((indices.numpy() >= 0).all())):
        ends = b.Concat(*(b.Unsqueeze(s, axes=(0,)) for s in sizes), axis=0)
        where = b.Where(b.Less(indices, number(b, 0)), b.Add(indices, ends), indices)
    return [b(node.op, extents.value(x), where, extents.value(updates))]


def over_known_axes(first: Callable[[Any, int], int]) -> Carrier:
    """Normalizations over the axes from `first(op, rank)` on: as they are where these have known sizes, else decomposed."""

    def rule(extents: Extents, b: Builder, node: Node) -> Sequence[Value]:
        x = node.present_inputs[0]
        require_known(x.type, range(first(node.op, x.type.rank) % x.type.rank, x.type.rank))
        for other in node.present_inputs[1:]:
            require_known(other.type, range(other.type.rank))
        return as_it_is(extents, b, node)

    return rule


def spectrum(extents: Extents, b: Builder, node: Node) -> Sequence[Value]:
    """STFT: a frame that counts lies within the actual signal"""
    signal, *others = node.present_inputs
    require_known(signal.type, [a for a in range(signal.type.rank) if a != 1])
    for other in others:
        require_known(other.type, range(other.type.rank))
    return as_it_is(extents, b, node)


CARRIERS.update(
    {
        **dict.fromkeys(("LSTM", "DynamicQuantizeLSTM", "GRU", "RNN"), recurrent),
        "DynamicQuantizeLinear": dynamic_quantize,
        "MatMulInteger": matmul_integer,
        "ScatterND": scatter_nd,
        "STFT": spectrum,
        **dict.fromkeys(("LayerNormalization", "RMSNormalization"), over_known_axes(lambda op, rank: op.axis)),
        **dict.fromkeys(("InstanceNormalization", "GroupNormalization", "LRN"), over_known_axes(lambda op, rank: 1)),
    }
)
