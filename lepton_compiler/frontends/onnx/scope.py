"""Names in sight of an ONNX node: values by name, captures of nested graphs, bindings of function bodies."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import onnx

from lepton_compiler.errors import ModelError
from lepton_compiler.ir.graph import Graph, Value


class Failed:
    """What stands for a value whose node could not be imported."""


FAILED: Final = Failed()
Entry = Value | Failed


class Scope:
    """One level of names.

    Args:
        graph: where nodes are added.
        opsets: domain to version.
        parent: the enclosing scope, or None. If its graph is another one, this scope is the outermost of a region:
            what it reads from the parent becomes an operand of the region, constants are copied.
        bindings: attributes of the function call that is being inlined.
        prefix: of node names in provenance.
    """

    def __init__(
        self,
        graph: Graph,
        opsets: Mapping[str, int],
        parent: Scope | None = None,
        bindings: Mapping[str, onnx.AttributeProto] | None = None,
        prefix: str = "",
    ) -> None:
        self.graph, self.opsets, self.parent = graph, opsets, parent
        inherited: Mapping[str, onnx.AttributeProto] = parent.bindings if parent is not None else {}
        self.bindings: Mapping[str, onnx.AttributeProto] = inherited if bindings is None else bindings
        self.prefix: str = prefix or (parent.prefix if parent is not None else "")
        self.values: dict[str, Entry] = {}
        self.captures: dict[Value, Value] = {}

    def find(self, name: str) -> Entry | None:
        """The value called `name`, captured if it lies outside this region; None if there is none."""
        if name in self.values:
            return self.values[name]
        if self.parent is None:
            return None
        found = self.parent.find(name)
        if not isinstance(found, Value) or self.parent.graph is self.graph:
            return found
        inner = self.graph.constant(found.tensor, found.name) if found.tensor is not None else self.capture(found)
        self.values[name] = inner
        return inner

    def capture(self, outer: Value) -> Value:
        """The region's input for a value of the enclosing graph."""
        if outer not in self.captures:
            inner = self.graph.add_input(outer.name, outer.type)
            inner._content = outer.content
            self.captures[outer] = inner
        return self.captures[outer]

    def define(self, name: str, entry: Entry) -> None:
        """Bind a name.

        Raises:
            ModelError: the name is taken on this level.
        """
        if name in self.values:
            raise ModelError("defined twice", where=f"value '{name}'")
        self.values[name] = entry


def outer_reads(graph: onnx.GraphProto) -> set[str]:
    """Names that a nested graph reads from the graphs around it."""
    own = {v.name for v in graph.input} | {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    own |= {name for node in graph.node for name in node.output}
    return (set().union(*(node_reads(node) for node in graph.node)) | {v.name for v in graph.output}) - own


def node_reads(node: onnx.NodeProto) -> set[str]:
    """Names that a node reads, its nested graphs included."""
    reads = {name for name in node.input if name}
    for attribute in node.attribute:
        for graph in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
            reads |= outer_reads(graph)
    return reads


def execution_order(nodes: Sequence[onnx.NodeProto]) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]]:
    """The nodes sorted so that each comes after what it reads, as near to the given order as possible; and those on a cycle."""
    makers: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in node.output:
            if name:
                makers.setdefault(name, index)
    needs = [{makers[name] for name in node_reads(node) if name in makers} for node in nodes]
    users: list[list[int]] = [[] for _ in nodes]
    for index, need in enumerate(needs):
        for maker in need:
            users[maker].append(index)
    left = [len(need) for need in needs]
    ready = [index for index, count in enumerate(left) if count == 0]
    heapq.heapify(ready)
    order: list[onnx.NodeProto] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(nodes[index])
        for user in users[index]:
            left[user] -= 1
            if left[user] == 0:
                heapq.heappush(ready, user)
    return order, [node for node, count in zip(nodes, left, strict=True) if count > 0]


def nested_graphs(node: onnx.NodeProto) -> Iterable[onnx.GraphProto]:
    """The graphs in a node's attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs
