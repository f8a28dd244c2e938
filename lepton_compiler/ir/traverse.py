"""Ways through a graph that passes share."""

from __future__ import annotations

from collections.abc import Iterator

from lepton_compiler.ir.graph import Graph, Node, Value, copy_node


def bodies(graph: Graph) -> Iterator[Graph]:
    """This graph and the bodies of control flow in it, outermost first; the insides of fused kernels are left alone."""
    yield graph
    for node in graph:
        if node.regions and node.op.name != "Fused":
            for region in node.regions:
                yield from bodies(region)


def erase_dead(graph: Graph) -> int:
    """Remove every node whose outputs nobody reads, and those that then become unread; returns how many."""
    kept, count = set(graph.outputs), 0
    for node in reversed(graph.nodes):
        if not any(out.uses or out in kept for out in node.outputs):
            graph.remove(node)
            count += 1
    return count


def inline_region(region: Graph, arguments: list[Value], before: Node) -> list[Value]:
    """Copy a region's nodes to the place before a node of the outer graph; gives what stands for the region's outputs."""
    graph, mapped = before.graph, dict(zip(region.inputs, arguments, strict=True))
    for node in region:
        copy_node(node, graph, mapped, before=before)
    for value in region.outputs:
        if value.tensor is not None and value not in mapped:
            mapped[value] = graph.constant(value.tensor, value.name)
    return [mapped[value] for value in region.outputs]


def refine_types(graph: Graph) -> int:
    """Infer all types again in order, where operands have become better known; returns how many nodes changed."""
    return sum(graph.refresh(node) for node in graph)
