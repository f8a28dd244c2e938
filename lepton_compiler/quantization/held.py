"""How many samples fit in memory while layers are mended."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lepton_compiler.errors import LeptonError
from lepton_compiler.ir.dim import Dim
from lepton_compiler.ir.graph import Graph, Value
from lepton_compiler.ops.evaluator import learn_sizes

HELD = 384 << 20
"""Bytes that the tensors of a float and of a quantized graph may take together, on all samples that layers are mended with."""
WALKS = 3
"""Tensors of the quantized graph, which are there as codes and as numbers again, and of the float graph, in units of the latter."""


def samples_at_once(graph: Graph, feeds: Mapping[str, np.ndarray], most: int) -> int:
    """How many samples like `feeds` layers may be mended with: at least one, `most` at most, as many as `HELD` allows."""
    return max(1, min(most, HELD // max(1, WALKS * live_bytes(graph, feeds))))


def live_bytes(graph: Graph, feeds: Mapping[str, np.ndarray]) -> int:
    """The most bytes that values of a graph take at one time, going through it in order; those of unknown size count as nothing."""
    sizes: dict[str, Dim] = {}
    for value in graph.inputs:
        if value.name in feeds:
            learn_sizes(value, np.asarray(feeds[value.name]), sizes)
    try:
        bound = graph.copy({name: size for name, size in sizes.items() if isinstance(size, int)})
    except LeptonError:
        bound = graph
    left = {v: len(v.uses) for node in bound for v in node.outputs}
    now = most = sum(map(_bytes, bound.inputs))
    for node in bound:
        now += sum(_bytes(v) for v in node.outputs)
        most = max(most, now)
        for value in node.present_inputs:
            if value in left:
                left[value] -= 1
                now -= _bytes(value) if not left[value] else 0
    return most


def _bytes(value: Value) -> int:
    return value.type.nbytes if value.type.is_static else 0
