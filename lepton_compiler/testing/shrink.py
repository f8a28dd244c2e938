"""Making a graph that shows a fault smaller, as long as it shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from lepton_compiler.errors import LeptonError
from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ops.evaluator import evaluate

Feeds = dict[str, np.ndarray]
Candidate = tuple[Graph, Feeds]


def shrink(graph: Graph, feeds: Mapping[str, Any], fails: Callable[[Graph, Feeds], bool]) -> Candidate:
    """The smallest graph and feeds found that still fail; each step must itself fail, and be smaller.

    Tried are: fewer outputs, or a value in between as the output; an input in place of a value, fed with what the value holds; a node's
    operand in place of its result; zeros and ones for what inputs and constants hold.

    Args:
        graph: a graph that fails.
        feeds: with these inputs.
        fails: whether a candidate shows the fault.
    """
    best: Candidate = (graph.copy(), dict(feeds))
    improved = True
    while improved:
        improved = False
        for kind in (_without_dead, _outputs, _cuts, _bypasses, _simple_feeds, _simple_constants):
            for candidate in kind(*best):
                if weight(*candidate) < weight(*best) and fails(*candidate):
                    best, improved = candidate, True
                    break
    return best


def weight(graph: Graph, feeds: Feeds) -> tuple[int, ...]:
    """What is to become small, the most important first."""
    arrays = [*feeds.values(), *(c.numpy() for g in graph.graphs() for c in g.constants)]
    noise = sum(int(np.count_nonzero(a)) + int(np.count_nonzero(a != 1)) for a in arrays)
    return sum(1 for _ in graph.walk()), len(graph.outputs), len(graph.inputs), noise


def tidy(graph: Graph, feeds: Feeds) -> Candidate:
    """Remove what no output needs."""
    for node in reversed(graph.nodes):
        if not any(v.uses or v.is_output for v in node.outputs):
            graph.remove(node)
    for value in list(graph.inputs):
        if not value.uses and not value.is_output:
            graph.remove_input(value)
    return graph, {v.name: feeds[v.name] for v in graph.inputs}


def _without_dead(graph: Graph, feeds: Feeds) -> Iterator[Candidate]:
    """No node that nobody reads, or one less of them, or one output less: a pass may fail on what is not needed."""
    yield tidy(graph.copy(), feeds)
    for position, node in enumerate(graph.walk()):
        if not any(v.uses or v.is_output for v in node.outputs):
            copy = graph.copy()
            twin = _at(copy, position)
            twin.graph.remove(twin)
            yield copy, dict(feeds)
    for k in range(len(graph.outputs) if len(graph.outputs) > 1 else 0):
        copy = graph.copy()
        copy.set_outputs([v for i, v in enumerate(copy.outputs) if i != k])
        yield copy, dict(feeds)


def _outputs(graph: Graph, feeds: Feeds) -> Iterator[Candidate]:
    """One output, or one value in between as the only output."""
    names = [v.name for v in graph.outputs] if len(graph.outputs) > 1 else []
    names += [v.name for node in graph for v in node.outputs if v.name not in names]
    for name in names:
        copy = graph.copy()
        copy.set_outputs([_value(copy, name)])
        yield tidy(copy, feeds)


def _cuts(graph: Graph, feeds: Feeds) -> Iterator[Candidate]:
    """Inputs in place of values, the last ones first: what is before them goes."""
    held = _holdings(graph, feeds)
    for name in reversed(held):
        copy = graph.copy()
        old = _value(copy, name)
        if old.is_output or not old.type.is_static:
            continue
        new = copy.add_input(f"{name}_in", old.type)
        copy.replace_all_uses(old, new)
        yield tidy(copy, {**feeds, new.name: held[name]})


def _bypasses(graph: Graph, feeds: Feeds) -> Iterator[Candidate]:
    """Operands in place of results, in nested graphs too."""
    for position, node in enumerate(graph.walk()):
        for k, operand in enumerate(node.inputs):
            if operand is None or not node.outputs or operand.type != node.output.type:
                continue
            if not (operand.is_constant and node.output.is_output):
                copy = graph.copy()
                twin = _at(copy, position)
                source = twin.inputs[k]
                assert source is not None
                if twin.output.is_output and source.is_input and twin.graph.owner is None:
                    continue
                twin.graph.replace_all_uses(twin.output, source)
                for nested in copy.graphs():
                    _remove_dead(nested)
                yield tidy(copy, feeds)


def _simple_feeds(graph: Graph, feeds: Feeds) -> Iterator[Candidate]:
    for name, array in feeds.items():
        for simple in _simpler(array):
            yield graph.copy(), {**feeds, name: simple}


def _simple_constants(graph: Graph, feeds: Feeds) -> Iterator[Candidate]:
    for part, original in enumerate(graph.graphs()):
        for k, value in enumerate(original.constants):
            for simple in _simpler(value.numpy()):
                copy = graph.copy()
                twin = list(copy.graphs())[part]
                twin.replace_all_uses(twin.constants[k], twin.constant(simple))
                yield copy, dict(feeds)


def _simpler(array: np.ndarray) -> Iterator[np.ndarray]:
    """Zeros, ones, then each half zeroed, each half set to one."""
    flat = array.reshape(-1)
    for fill in (0, 1):
        for part in (slice(None), slice(0, flat.size // 2), slice(flat.size // 2, None)):
            simple = flat.copy()
            simple[part] = np.asarray(fill, array.dtype)
            if not np.array_equal(simple, flat):
                yield simple.reshape(array.shape)


def _holdings(graph: Graph, feeds: Feeds) -> dict[str, np.ndarray]:
    """What the results of the nodes of the outermost graph hold."""
    held: dict[str, np.ndarray] = {}

    def note(node: Node, results: Any) -> None:
        if node.graph is graph:
            held.update({v.name: np.asarray(r) for v, r in zip(node.outputs, results, strict=True)})

    try:
        evaluate(graph, feeds, note)
    except LeptonError:
        return held
    return held


def _remove_dead(graph: Graph) -> None:
    for node in reversed(graph.nodes):
        if not any(v.uses or v.is_output for v in node.outputs):
            graph.remove(node)


def _value(graph: Graph, name: str) -> Value:
    return next(v for node in graph for v in node.outputs if v.name == name)


def _at(graph: Graph, position: int) -> Node:
    return next(node for k, node in enumerate(graph.walk()) if k == position)
