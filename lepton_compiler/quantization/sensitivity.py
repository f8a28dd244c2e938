"""Which layer hurts? Each layer is quantized alone, and the model's outputs are compared with those of the float model."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from lepton_compiler.ir.dim import Dim
from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ops.evaluator import check_feeds, evaluate_node, learn_sizes
from lepton_compiler.passes.quantize.place import Layer, Placement

BUDGET = 60.0
"""Seconds that the analysis may take, about; the number of samples follows from it."""


def shares(graph: Graph, quantized: Placement, samples: Sequence[Mapping[str, np.ndarray]], budget: float = BUDGET) -> dict[str, float]:
    """The part of the error that each layer causes, by name; the parts add up to one.

    A layer's data and weights are rounded as in `quantized`, everything else is computed in floating point. Its error is the square of what
    the outputs differ by, relative to the square of the outputs, added over outputs and samples. Parts of the graph that do not depend on
    the layer are not computed again.

    Args:
        graph: the float graph that `quantized` was made from.
        quantized: layers and ranges.
        samples: feeds; the first ones are used, as many as the budget allows and at least one.
        budget: seconds.
    """
    totals = {layer.name: 0.0 for layer in quantized.layers}
    begun = time.monotonic()
    for number, feeds in enumerate(samples):
        if number and (time.monotonic() - begun) * (number + 1) / number > budget:
            break
        for name, error in _errors(graph, quantized, feeds).items():
            totals[name] += error
    whole = sum(totals.values())
    return {name: total / whole if whole > 0 else 0.0 for name, total in totals.items()}


def _errors(graph: Graph, quantized: Placement, feeds: Mapping[str, np.ndarray]) -> dict[str, float]:
    values, sizes = _all_values(graph, feeds)
    nodes = graph.nodes
    place = {node.output.name: k for k, node in enumerate(nodes) if node.outputs}
    found = {}
    for layer in quantized.layers:
        k = place[layer.name]
        changed = {nodes[k].output: _rounded_layer(nodes[k], layer, values, sizes)}
        _propagate(nodes[k + 1 :], changed, values, sizes, set(graph.outputs))
        found[layer.name] = sum(_relative(values[v], changed[v]) for v in graph.outputs if v in changed and v in values)
    return found


def _all_values(graph: Graph, feeds: Mapping[str, np.ndarray]) -> tuple[dict[Value, np.ndarray], dict[str, Dim]]:
    values = dict(zip(graph.inputs, check_feeds(graph, feeds), strict=True))
    sizes: dict[str, Dim] = {}
    for value, array in values.items():
        learn_sizes(value, array, sizes)
    for node in graph:
        values.update(zip(node.outputs, _run(node, values, {}, sizes), strict=True))
        for value in node.outputs:
            learn_sizes(value, values[value], sizes)
    return values, sizes


def _run(node: Node, values: Mapping[Value, np.ndarray], changed: Mapping[Value, np.ndarray], sizes: Mapping[str, Dim]) -> list[np.ndarray]:
    inputs = [None if v is None else v.numpy() if v.is_constant else changed[v] if v in changed else values[v] for v in node.inputs]
    with np.errstate(all="ignore"):
        return evaluate_node(node, inputs, None, sizes)


def _rounded_layer(node: Node, layer: Layer, values: Mapping[Value, np.ndarray], sizes: Mapping[str, Dim]) -> np.ndarray:
    """The result of a layer of the float graph on rounded data and weights."""
    scale, zero, weights = layer.scale, layer.zero_point, layer.weights
    info = np.iinfo(layer.element.numpy)
    operands = [None if v is None else v.numpy() if v.is_constant else values[v] for v in node.inputs]
    x = operands[0]
    assert x is not None
    codes = np.clip(np.rint(x / np.float32(scale)) + np.float32(zero), int(info.min), int(info.max))
    operands[0] = ((codes - np.float32(zero)) * np.float32(scale)).astype(x.dtype)
    operands[1] = evaluate_node(weights, [v.numpy() for v in weights.present_inputs])[0]
    with np.errstate(all="ignore"):
        return evaluate_node(node, operands, None, sizes)[0]


def _propagate(
    nodes: Sequence[Node], changed: dict[Value, np.ndarray], values: Mapping[Value, np.ndarray], sizes: Mapping[str, Dim], kept: set[Value]
) -> None:
    """Compute again what depends on changed values; what nobody reads any more is dropped."""
    last = {v: k for k, node in enumerate(nodes) for v in node.present_inputs}
    for k, node in enumerate(nodes):
        if any(v in changed for v in node.present_inputs):
            changed.update(zip(node.outputs, _run(node, values, changed, sizes), strict=True))
            for v in node.present_inputs:
                if last[v] == k and v not in kept:
                    changed.pop(v, None)


def _relative(wanted: np.ndarray, found: np.ndarray) -> float:
    if wanted.dtype.kind != "f":
        return float(np.mean(wanted != found)) if wanted.size else 0.0
    a, b = wanted.astype(np.float64), found.astype(np.float64)
    power = float(np.square(a).sum())
    return float(np.square(a - b).sum()) / power if power > 0 else float(np.any(a != b))
