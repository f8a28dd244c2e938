"""Choosing channels-first or channels-last for each operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import networkx as nx
import numpy as np

from lepton_compiler.ir.graph import Graph, Loc, Node, Value
from lepton_compiler.ir.traverse import bodies
from lepton_compiler.ops.builder import Builder
from lepton_compiler.passes.permute import Perm, Permuted, compose, inverse, permute_op
from lepton_compiler.pipeline import Pass, PassContext

PREFERENCE = 8
"""What computing channels-first costs an operator that prefers channels-last, per byte of its data."""

CONVERTIBLE = frozenset({"Conv", "ConvInteger", "ConvTranspose", "MaxPool", "AveragePool"})
RANKS = (3, 4, 5)


@dataclass(frozen=True)
class Layout(Pass):
    """Conv, Relu, Conv  -->  Transpose, Conv(NHWC), Relu, Conv(NHWC), Transpose

    Convolutions and poolings prefer channels-last; most other operators work in either layout once their axes are renumbered; the rest, and
    the inputs and outputs of the graph, are channels-first. A transpose costs the bytes that it moves, once per value; where the graph has
    one between the two layouts already, it costs nothing to be without it. The cheapest choice is a minimum cut (Stoer's classic reduction),
    which networkx finds. Constants are transposed at compile time.
    """

    def run(self, graph: Graph, ctx: PassContext) -> None:  # noqa: D102
        for part in list(bodies(graph)):
            if any(_prefers_last(node) for node in part):
                chosen = choose(part)
                if chosen:
                    _Rewriter(part, chosen).run()


def channels_last(rank: int) -> Perm:
    """The permutation from [N, C, spatial...] to [N, spatial..., C]."""
    return (0, *range(2, rank), 1)


def choose(graph: Graph) -> dict[Node, Permuted]:
    """The nodes to compute channels-last, and how."""
    options = {node: found for node in graph if (found := _permuted(node)) is not None}
    network = nx.DiGraph()
    network.add_nodes_from(("last", "first"))
    for node in graph:
        if node in options and _prefers_last(node):
            network.add_edge("last", node, capacity=PREFERENCE * (_bytes(node.inputs[0]) + _bytes(node.output)))
    for value in [*graph.inputs, *(out for node in graph for out in node.outputs)]:
        _add_value(network, value, options)
    return {node: options[node] for node in _last_side(network) if node in options}


def _last_side(network: nx.DiGraph) -> set[Any]:
    _, (last, _) = nx.minimum_cut(network, "last", "first", flow_func=nx.algorithms.flow.boykov_kolmogorov)
    return set(last)


def _add_value(network: nx.DiGraph, value: Value, options: dict[Node, Permuted]) -> None:
    """Edges that charge one transpose when the producer and any consumer of a value disagree."""
    producer = value.producer
    maker: Any = producer if producer in options and _moves(options[producer].outputs[producer.outputs.index(value)]) else "first"
    if producer is not None and _transposes(producer, inverse(channels_last(value.type.rank))):
        maker = "last"
    takers: list[Any] = []
    for user, index in value.uses:
        if user in options and _moves(options[user].operands[index]):
            takers.append(user)
        elif _transposes(user, channels_last(value.type.rank)):
            takers.append("last")
        else:
            takers.append("first")
    if value.is_output:
        takers.append("first")
    takers = list(dict.fromkeys(takers))
    if not takers or takers == [maker]:
        return
    cost = _bytes(value)
    if any(t != "first" for t in takers):
        network.add_edge(("back", value), maker, capacity=cost)
        for taker in takers:
            if taker != "first":
                network.add_edge(taker, ("back", value))
    if maker != "first":
        network.add_edge(maker, ("out", value), capacity=cost)
        for taker in takers:
            network.add_edge(("out", value), taker)


def _transposes(node: Node, perm: Perm) -> bool:
    """Whether a node changes between the two layouts in the way that `perm` says."""
    return node.op.name == "Transpose" and len(perm) in RANKS and getattr(node.op, "perm") == perm  # noqa: B009


def _moves(perm: Perm | None) -> bool:
    return perm is not None


def _bytes(value: Value | None) -> int:
    if value is None:
        return 0
    size = 1
    for d in value.type.shape:
        size *= d if isinstance(d, int) else 64  # an unbound dimension: a guess is enough to compare costs
    return max(1, size * value.type.dtype.bits // 8)


def _prefers_last(node: Node) -> bool:
    x = node.inputs[0] if node.inputs else None
    if node.op.name not in CONVERTIBLE or x is None or x.type.rank not in RANKS or getattr(node.op, "layout") != "NCHW":  # noqa: B009
        return False
    return not getattr(node.op, "indices", False)


def _permuted(node: Node) -> Permuted | None:
    """How a node works channels-last, if it can."""
    if _prefers_last(node):
        x = node.present_inputs[0]
        perm = channels_last(x.type.rank)
        return Permuted(replace(node.op, layout="NHWC"), (perm, *(None,) * (len(node.inputs) - 1)), (perm,))  # type: ignore[call-arg]
    ranks = [v.type.rank for v in (*node.present_inputs, *node.outputs)]
    rank = max(ranks, default=0)
    return permute_op(node, channels_last(rank)) if rank in RANKS else None


class _Rewriter:
    """Rebuilds the chosen nodes channels-last and puts transposes where layouts meet."""

    def __init__(self, graph: Graph, chosen: dict[Node, Permuted]) -> None:
        self.graph, self.chosen = graph, chosen
        self.last: dict[Value, Value] = {}
        self.moved: dict[tuple[Value, Perm], Value] = {}
        self.perms: dict[Value, Perm] = {}

    def run(self) -> None:
        order = self.graph.nodes
        for node in order:
            if node in self.chosen:
                self.convert(node, self.chosen[node])
        for node in order:
            if node not in self.chosen and any(v in self.last for v in node.inputs):
                builder = Builder(self.graph, node, Loc((), ("layout",)))
                self.graph.set_inputs(node, [v if v is None else self.first(v, builder) for v in node.inputs])
        self.outputs()
        for node in reversed(order):
            if node in self.chosen:
                self.graph.remove(node)

    def convert(self, node: Node, how: Permuted) -> None:
        builder = Builder(self.graph, node, node.loc.by("layout"))
        operands: list[Value | None] = []
        for value, perm in zip(node.inputs, how.operands, strict=True):
            operands.append(value if value is None else self.first(value, builder) if perm is None else self.permuted(value, perm, builder))
        new = builder.node(how.op, operands)
        for old, value, perm in zip(node.outputs, new.outputs, how.outputs, strict=True):
            self.last[old] = value
            if perm is not None:
                self.perms[old] = perm

    def permuted(self, value: Value, perm: Perm, builder: Builder) -> Value:
        """`value` transposed by `perm`, after leading axes of size one if its rank is lower."""
        if self.perms.get(value) == perm:
            return self.last[value]
        key = (value, perm)
        if key not in self.moved:
            self.moved[key] = transposed(builder, self.first(value, builder), perm, lambda v: self.first(v, builder))
        return self.moved[key]

    def first(self, value: Value, builder: Builder) -> Value:
        """`value` as it was before this pass."""
        if value not in self.last:
            return value
        perm = self.perms.get(value)
        if perm is None:
            return self.last[value]
        key = (value, ())
        if key not in self.moved:
            before = value.producer  # right where the value is made: nodes that were passed already may want it as well
            at = builder if before is None else Builder(self.graph, before, builder.loc)
            self.moved[key] = transposed(at, self.last[value], inverse(perm))
        return self.moved[key]

    def outputs(self) -> None:
        builder = Builder(self.graph, None, Loc((), ("layout",)))
        names = dict.fromkeys((self.first(v, builder), v) for v in self.graph.outputs if v in self.last)
        replaced = {old: new for new, old in names}
        self.graph.set_outputs([replaced.get(v, v) for v in self.graph.outputs])
        for new, old in names:
            name = old.name
            self.graph.rename(old, self.graph.fresh_name(name))
            self.graph.rename(new, name)


def transposed(b: Builder, value: Value, perm: Perm, current: Callable[[Value], Value] = lambda value: value) -> Value:
    """`value` with leading axes of size one up to the rank of `perm`, transposed: a constant, a view where only ones move, or a Transpose.

    A transpose that is there already is looked through; `current` gives what stands for its operand by now.
    """
    missing = len(perm) - value.type.rank
    if value.tensor is not None:
        array = value.numpy()
        return b.constant(np.ascontiguousarray(array.reshape((1,) * missing + array.shape).transpose(perm)), name=value.name)
    if missing:
        value = b.Reshape(value, shape=(1,) * missing + value.type.shape)
    shape = value.type.shape
    target = tuple(shape[p] for p in perm)
    if only_ones_move(shape, perm) and value.type.is_static:
        return value if target == shape else b.Reshape(value, shape=target)
    producer = value.producer
    if producer is not None and producer.op.name == "Transpose" and producer.inputs[0] is not None:
        merged = compose(perm, getattr(producer.op, "perm"))  # noqa: B009
        source = current(producer.inputs[0])
        return source if merged == tuple(range(len(perm))) else b.Transpose(source, perm=merged)
    return b.Transpose(value, perm=perm)


def only_ones_move(shape: tuple[Any, ...], perm: Perm) -> bool:
    """Whether a transpose keeps the axes whose size is not one in their order, so that it moves no element."""
    kept = [p for p in perm if shape[p] != 1]
    return kept == sorted(kept)
