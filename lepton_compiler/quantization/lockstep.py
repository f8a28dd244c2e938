"""Walking through a quantized graph layer by layer, on a few samples, and mending each layer on the way.

Layers are mended in order, each with the data that the mended layers before it give, so that a correction also makes up for what remains of
earlier errors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from lepton_compiler.ir.dim import Dim
from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ops.evaluator import check_feeds, evaluate_node, learn_sizes
from lepton_compiler.passes.quantize.parameters import spread
from lepton_compiler.passes.quantize.roles import channel_axis
from lepton_compiler.quantization.bias import channel_means, take_off
from lepton_compiler.quantization.rounding import rounded_together

Arrays = list[np.ndarray]
Step = tuple[Node, Sequence[Arrays | None], list[Arrays]]
"""A node, its operands and its results, one array per sample each; the results may be changed in place before the next step."""


Settled = tuple[np.ndarray, np.ndarray]
"""Scales and codes of the weights of a layer."""


@dataclass(frozen=True)
class Mendable:
    """A layer whose weights are codes.

    Attributes:
        name: of the value that it gives in the float graph.
        node: the convolution or product in the quantized graph.
        weights: the `DequantizeLinear` of its weights.
        bias: that of its bias, if that is on codes.
        float_weights: what the codes stand for.
        data_scale: scale of its data; None where that is in floating point.
    """

    name: str
    node: Node
    weights: Node
    bias: Node | None
    float_weights: np.ndarray
    data_scale: float | None


@dataclass(frozen=True)
class LayerError:
    """Mean squares of a layer's result in the float graph, and of what the quantized one differs by, on the same samples."""

    signal: float
    noise: float

    @property
    def sqnr(self) -> float:
        """Signal to noise, in decibels."""
        return decibels(self.signal, self.noise)


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise), within -200 and 200."""
    if noise <= 0 or signal <= 0:
        return 200.0 if noise <= 0 else -200.0
    return float(np.clip(10 * np.log10(signal / noise), -200, 200))


class Expected:
    """The results of layers in the float graph: computed when they are asked for, forgotten once they are taken."""

    def __init__(self, graph: Graph, names: Sequence[str], samples: Sequence[Mapping[str, np.ndarray]]) -> None:
        self._wanted, self._found = set(names), dict[str, Arrays]()
        self._steps = steps(graph, samples)

    def take(self, name: str) -> Arrays:
        """The value of that name, one array per sample; each name once, cheapest in the order of the graph."""
        while name not in self._found:
            node, _, results = next(self._steps)
            self._found.update({v.name: list(r) for v, r in zip(node.outputs, results, strict=True) if v.name in self._wanted})
        return self._found.pop(name)


def relative_error(wanted: Sequence[Mapping[str, np.ndarray]], found: Iterable[Mapping[str, np.ndarray]], names: Sequence[str]) -> float:
    """The squares of differences, divided by the squares of what is wanted, added over the values `names`; one mapping per sample."""
    power, noise = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for expected, actual in zip(wanted, found, strict=True):
        for name in names:
            power[name] += float(np.square(expected[name], dtype=np.float64).sum())
            noise[name] += float(np.square(expected[name].astype(np.float64) - actual[name]).sum())
    return sum(noise[n] / power[n] if power[n] > 0 else noise[n] for n in names)


def mend(
    graph: Graph, layers: Sequence[Mendable], expected: Expected, samples: Sequence[Mapping[str, np.ndarray]], *,
    correct_bias: bool, round_together: bool, settled: Mapping[str, Settled] | None = None,
) -> dict[str, LayerError]:  # fmt: skip
    """Choose roundings and biases of the layers of a quantized graph, in place; gives the error that is left after each layer, by name.

    Args:
        graph: the quantized graph.
        layers: what may be changed in it.
        expected: the results of these layers in the float graph, on the same samples.
        samples: feeds.
        correct_bias: see `bias`.
        round_together: see `rounding`.
        settled: codes of weights by name of layer, which are taken over where scales are the same, instead of being chosen again.
    """
    by_node = {layer.node: layer for layer in layers}
    errors: dict[str, LayerError] = {}

    for node, operands, results in steps(graph, samples):
        layer = by_node.get(node)
        if layer is None:
            continue
        if round_together and operands[0] is not None and _round(layer, operands[0], (settled or {}).get(layer.name)):
            results[0] = _again(layer, operands)
        wanted = expected.take(layer.name)
        if correct_bias:
            _correct(layer, wanted, results[0])
        errors[layer.name] = _error(wanted, results[0])
        if len(errors) == len(by_node):
            break
    return errors


def settled_codes(layers: Sequence[Mendable]) -> dict[str, Settled]:
    """What `mend` has chosen."""
    return {layer.name: (scale.numpy(), codes.numpy()) for layer in layers for codes, scale in [layer.weights.present_inputs[:2]]}


def _round(layer: Mendable, data: Arrays, settled: Settled | None) -> bool:
    """Choose the codes of a layer's weights; whether there are new ones."""
    codes, scale = layer.weights.present_inputs[:2]
    op: Any = layer.weights.op
    bits = codes.type.dtype.bits
    factor = spread(scale.numpy(), codes.type.static_shape, op.axis % codes.type.rank, op.block_size)
    if settled is not None and settled[1].shape == codes.type.static_shape and np.array_equal(settled[0], scale.numpy()):
        found: np.ndarray | None = settled[1]
    else:
        found = rounded_together(layer.node, data, layer.float_weights, factor, bits)
    if found is None:
        return False
    graph = layer.node.graph
    new = graph.constant(found.astype(ml_dtypes.int4 if bits == 4 else np.int8), codes.name)
    graph.set_inputs(layer.weights, [new, *layer.weights.inputs[1:]])
    return True


def _again(layer: Mendable, operands: Sequence[Arrays | None]) -> Arrays:
    """The results of a layer with the weights that it has now."""
    weights = evaluate_node(layer.weights, [v.numpy() for v in layer.weights.present_inputs])[0]
    every = range(len(operands[0] or ()))
    return [
        evaluate_node(layer.node, [weights if i == 1 else None if o is None else o[k] for i, o in enumerate(operands)])[0] for k in every
    ]


def _correct(layer: Mendable, wanted: Arrays, results: Arrays) -> None:
    axis = channel_axis(layer.node)
    error = channel_means(results, axis) - channel_means(wanted, axis)
    scales = layer.weights.present_inputs[1].numpy().astype(np.float64)
    if layer.data_scale is None and layer.node.op.name != "MatMul" and len(layer.node.inputs) < 3:
        return  # a layer of float data without a bias does not get one: it would be larger than the codes saved
    unit = np.broadcast_to(scales * (layer.data_scale or 1.0), error.shape) if scales.ndim < 2 else np.ones(len(error))
    lost = take_off(layer.node, layer.bias, error, unit)
    shape = [-1 if a == axis % results[0].ndim else 1 for a in range(results[0].ndim)]
    for k, array in enumerate(results):
        results[k] = (array - lost.reshape(shape)).astype(array.dtype)


def _error(wanted: Arrays, results: Arrays) -> LayerError:
    count = max(1, sum(a.size for a in wanted))
    signal = sum(float(np.square(a, dtype=np.float64).sum()) for a in wanted)
    noise = sum(float(np.square(r - a, dtype=np.float64).sum()) for r, a in zip(results, wanted, strict=True))
    return LayerError(signal / count, noise / count)


def steps(graph: Graph, samples: Sequence[Mapping[str, np.ndarray]]) -> Iterator[Step]:
    """Evaluate a graph node by node, each node on all samples before the next; values are dropped after their last use."""
    values: dict[Value, Arrays] = {v: [] for v in graph.inputs}
    sizes: list[dict[str, Dim]] = [{} for _ in samples]
    for feeds, known in zip(samples, sizes, strict=True):
        for value, array in zip(graph.inputs, check_feeds(graph, feeds), strict=True):
            values[value].append(array)
            learn_sizes(value, array, known)
    left = {v: len(v.uses) for node in graph for v in node.outputs}
    for node in graph.nodes:
        operands = [None if v is None else [v.numpy()] * len(samples) if v.is_constant else values[v] for v in node.inputs]
        columns = [_evaluate(node, [None if o is None else o[k] for o in operands], known) for k, known in enumerate(sizes)]
        results: list[Arrays] = [list(arrays) for arrays in zip(*columns, strict=True)]
        del columns
        yield node, operands, results
        for value, arrays in zip(node.outputs, results, strict=True):
            if left[value]:
                values[value] = arrays
            for array, known in zip(arrays, sizes, strict=True):
                learn_sizes(value, array, known)
        for value in node.present_inputs:
            if value in left:
                left[value] -= 1
                if not left[value]:
                    values.pop(value, None)


def _evaluate(node: Node, inputs: Sequence[np.ndarray | None], sizes: Mapping[str, Dim]) -> Arrays:
    with np.errstate(all="ignore"):
        return evaluate_node(node, inputs, None, sizes)
