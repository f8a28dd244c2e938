"""Where the channels of a value can be divided by factors without any more work when the model runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lepton_compiler.ir.graph import Node, Value
from lepton_compiler.ops.builder import Builder
from lepton_compiler.passes.quantize.profile import Profile
from lepton_compiler.passes.quantize.roles import ACTIVATIONS, channel_axis, constant_operand, is_moved_input, output_channels, weight_of
from lepton_compiler.quantization.exchange import exchange


@dataclass(frozen=True)
class Division:
    """Where a value is divided.

    Attributes:
        axis: of its channels.
        sums: with constants, between the node that is changed and the value; these constants are divided too.
        maker: a layer, a normalization or a multiplication by a constant that takes the division up; None where it becomes an operator of
            its own, which rides along with the one that gives the value.
    """

    axis: int
    sums: tuple[Node, ...]
    maker: Node | None


def division(value: Value, axis: int, reader: Node, profile: Profile) -> Division | None:
    """Where to divide `value`, which `reader` reads, along `axis`; None where that would cost something."""
    sums, at = list[Node](), value
    while not at.is_output and (at is value or len(at.uses) == 1) and at.producer is not None:
        maker = at.producer
        constant = constant_operand(maker)
        alike = constant is not None and _is_per_channel(constant, at, axis)
        if maker.op.name == "Relu":
            at = maker.present_inputs[0]
        elif maker.op.name == "Add" and alike:
            sums.append(maker)
            at = next(v for v in maker.present_inputs if v is not constant)
        elif (maker.op.name == "Mul" and alike) or _takes_up(maker, at, axis):
            return Division(axis, tuple(sums), maker)
        else:
            break
    return Division(axis, (), None) if profile.tails is None and _carries(value) else None


def _takes_up(maker: Node, value: Value, axis: int) -> bool:
    """Whether a node has weights or parameters along the channels of its result."""
    if maker.op.name == "LayerNormalization":
        vectors = all(v is None or (v.tensor is not None and v.type.shape == value.type.shape[-1:]) for v in maker.inputs[1:])
        return axis == -1 and len(maker.inputs) > 1 and vectors
    if maker.op.name not in ("Conv", "MatMul", "Gemm") or weight_of(maker) is None or channel_axis(maker) != axis:
        return False
    bias = maker.inputs[2] if len(maker.inputs) > 2 else None
    return bias is None or (bias.tensor is not None and bias.type.size == value.type.shape[axis])


def _carries(value: Value) -> bool:
    """Whether a multiplication right after this value is one with the function that gives it, or with the quantization of an input."""
    maker = value.producer
    rides = maker is not None and (maker.op.name in ACTIVATIONS or constant_operand(maker) is not None)
    return rides or is_moved_input(value)


def _is_per_channel(constant: Value, value: Value, axis: int) -> bool:
    """Whether a constant differs along `axis` of a value at most."""
    shape, rank = constant.type.static_shape, value.type.rank
    padded = (1,) * (rank - len(shape)) + shape
    return constant.tensor is not None and all(n == 1 for a, n in enumerate(padded) if a != axis % rank)


def divide(value: Value, where: Division, factor: np.ndarray, readers: Sequence[Node]) -> None:
    """Divide the channels of `value` by `factor` before `readers` read it."""
    rank, maker = value.type.rank, where.maker
    column = factor.reshape(-1, *[1] * (rank - 1 - where.axis % rank))
    for add in where.sums:
        _divide_constant(add, column)
    if maker is None:
        b = Builder(value.graph, before=readers[0], loc=readers[0].loc.by("balance"))
        divided = b.Mul(value, b.constant((1 / column).astype(np.float32), name=f"{value.name}_balance"))
        for node in readers:
            node.graph.set_inputs(node, [divided, *node.inputs[1:]])
    elif maker.op.name == "Mul":
        _divide_constant(maker, column)
    elif maker.op.name == "LayerNormalization":
        for index, parameter in enumerate(maker.inputs):
            if index and parameter is not None:
                exchange(maker, index, parameter.numpy() / factor)
    else:
        _divide_layer(maker, factor)


def _divide_layer(maker: Node, factor: np.ndarray) -> None:
    weight = maker.present_inputs[1].numpy()
    shape = [-1 if axis == output_channels(maker) else 1 for axis in range(weight.ndim)]
    exchange(maker, 1, weight / factor.reshape(shape))
    if len(maker.inputs) > 2 and maker.inputs[2] is not None:
        bias = maker.inputs[2].numpy()
        exchange(maker, 2, (bias.reshape(-1) / factor).reshape(bias.shape))


def _divide_constant(node: Node, column: np.ndarray) -> None:
    constant = constant_operand(node)
    assert constant is not None
    exchange(node, next(i for i, v in enumerate(node.inputs) if v is constant), constant.numpy() / column)
