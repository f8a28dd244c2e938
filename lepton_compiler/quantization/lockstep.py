"""Walking through a float graph and its quantized twin layer by layer, on a few samples, and mending each layer on the way.

Layers are mended in order, each with the data that the mended layers before it give, so that a correction also makes up for what remains of
earlier errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lepton_compiler.ir.dim import Dim
from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ops.evaluator import check_feeds, evaluate_node, learn_sizes
from lepton_compiler.passes.quantize.place import Layer
from lepton_compiler.quantization.bias import corrected_bias
from lepton_compiler.quantization.rounding import rounded_together

Arrays = list[np.ndarray]


@dataclass(frozen=True)
class LayerError:
    """What became of a layer's result: signal and noise power, against the float model on the same samples."""

    signal: float
    noise: float

    @property
    def sqnr(self) -> float:
        """Signal to noise, in decibels."""
        return decibels(self.signal, self.noise)


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise), at most 200."""
    if noise <= 0 or signal <= 0:
        return 200.0 if noise <= 0 else -200.0
    return min(200.0, float(10 * np.log10(signal / noise)))


def float_results(graph: Graph, names: Sequence[str], samples: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Arrays]:
    """The values `names` of the float graph, one array per sample."""
    wanted, found = set(names), dict[str, Arrays]()

    def keep(node: Node, results: list[Arrays]) -> None:
        found.update({v.name: r for v, r in zip(node.outputs, results, strict=True) if v.name in wanted})

    walk(graph, samples, keep)
    return found


def walk(graph: Graph, samples: Sequence[Mapping[str, np.ndarray]], visit: object) -> None:
    """Evaluate the nodes in order, each on all samples; `visit(node, results)` may change the results in place.

    Values are dropped after their last use.
    """
    values: dict[Value, Arrays] = {v: [] for v in graph.inputs}
    sizes: list[dict[str, Dim]] = [{} for _ in samples]
    for feeds, known in zip(samples, sizes, strict=True):
        for value, array in zip(graph.inputs, check_feeds(graph, feeds), strict=True):
            values[value].append(array)
            learn_sizes(value, array, known)
    left = {v: len(v.uses) for node in graph for v in node.outputs}
    for node in graph:
        per_sample = [_run(node, values, k, sizes[k]) for k in range(len(samples))]
        results: list[Arrays] = [list(column) for column in zip(*per_sample, strict=True)]
        visit(node, results)  # type: ignore[operator]
        for value, arrays in zip(node.outputs, results, strict=True):
            values[value] = arrays
            for array, known in zip(arrays, sizes, strict=True):
                learn_sizes(value, array, known)
        for value in node.present_inputs:
            if value in left:
                left[value] -= 1
                if not left[value]:
                    values.pop(value, None)


def _run(node: Node, values: Mapping[Value, Arrays], k: int, sizes: Mapping[str, Dim]) -> Arrays:
    inputs = [None if v is None else v.numpy() if v.is_constant else values[v][k] for v in node.inputs]
    with np.errstate(all="ignore"):
        return evaluate_node(node, inputs, None, sizes)
