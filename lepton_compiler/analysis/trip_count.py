"""How often a loop runs, where that depends on nothing but numbers known at compile time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lepton_compiler.errors import LeptonError
from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ops.evaluator import evaluate_node

SIMULATED = 10_000
"""Most iterations that are followed one by one; a loop that runs longer counts as unknown."""
SMALL = 64
"""Most elements of a value that takes part in the decision to go on."""


def trip_count(node: Node) -> int | None:
    """The number of iterations of a `Loop`, or None if data decides it.

    The part of the body that decides whether to go on is run by itself, as scalar evolution would, but for any arithmetic.
    """
    count, start = node.inputs[:2]
    limit = None if count is None else known_number(count)
    if count is not None and limit is None:
        return None
    going = True if start is None else known_number(start)
    if going is None:
        return None
    if not going:
        return 0
    region = node.regions[0]
    if goes_on_forever(region):
        return None if limit is None else max(0, int(limit))
    decision = _Decision.of(node)
    return None if decision is None else decision.run(SIMULATED if limit is None else max(0, int(limit)), capped=limit is not None)


def goes_on_forever(region: Graph) -> bool:
    """Whether the body of a loop never asks to stop."""
    return region.outputs[0] is region.inputs[1] or bool(known_number(region.outputs[0]))


def known_number(value: Value) -> Any:
    """The number that a one-element value is at compile time, or None."""
    if value.tensor is not None:
        return value.numpy().reshape(-1)[0].item() if value.type.size == 1 else None
    content = value.content
    return int(content.flat[0]) if content is not None and content.size == 1 and isinstance(content.flat[0], (int, bool)) else None


class _Decision:
    """The nodes of a body that its condition needs, and what they start from."""

    def __init__(self, region: Graph, nodes: list[Node], start: Mapping[Value, np.ndarray], updates: Mapping[Value, Value]) -> None:
        self.region, self.nodes, self.start, self.updates = region, nodes, start, updates

    @staticmethod
    def of(node: Node) -> _Decision | None:
        """The decision of a loop, if it depends on known numbers only."""
        region, carried = node.regions[0], int(node.op.attributes()["carried"])
        updates = dict(zip(region.inputs[2 : 2 + carried], region.outputs[1 : 1 + carried], strict=True))
        outside = dict(zip(region.inputs[2:], node.inputs[2:], strict=True))
        needed: set[Value] = set()
        pending = [region.outputs[0]]
        while pending:
            value = pending.pop()
            if value in needed or value.tensor is not None:
                continue
            if not value.type.is_static or value.type.size > SMALL or (value.producer is not None and value.producer.regions):
                return None
            needed.add(value)
            pending += value.producer.present_inputs if value.producer is not None else [updates[value]] if value in updates else []
        start = {inner: array for inner, outer in outside.items() if inner in needed and outer and (array := _known(outer)) is not None}
        if any(inner in needed and inner not in start for inner in outside):
            return None
        return _Decision(region, [n for n in region if any(out in needed for out in n.outputs)], start, updates)

    def run(self, limit: int, capped: bool) -> int | None:
        """Iterate until the condition is false, or `limit` is reached, which is an answer if the loop is `capped`."""
        state = dict(self.start)
        for iteration in range(limit):
            values = {**state, self.region.inputs[0]: np.array(iteration, np.int64), self.region.inputs[1]: np.array(True)}
            try:
                self._step(values)
            except LeptonError:
                return None
            if not _read(self.region.outputs[0], values).reshape(-1)[0]:
                return iteration + 1
            state = {inner: _read(self.updates[inner], values) if inner in self.updates else array for inner, array in state.items()}
        return limit if capped else None

    def _step(self, values: dict[Value, np.ndarray]) -> None:
        with np.errstate(all="ignore"):
            for node in self.nodes:
                results = evaluate_node(node, [None if v is None else _read(v, values) for v in node.inputs])
                values.update(zip(node.outputs, results, strict=True))


def _read(value: Value, values: Mapping[Value, np.ndarray]) -> np.ndarray:
    return value.numpy() if value.tensor is not None else values[value]


def _known(value: Value) -> np.ndarray | None:
    """The elements of a small value that are known at compile time."""
    if value.tensor is not None:
        return value.numpy()
    content = value.content
    if content is None or not all(isinstance(d, (int, bool, np.integer, np.bool_)) for d in content.flat):
        return None
    return np.asarray(content.tolist(), value.type.dtype.numpy).reshape(content.shape)
