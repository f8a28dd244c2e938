"""Checking the invariants of the IR. Every pass takes valid IR and leaves valid IR; this says what valid means."""

from __future__ import annotations

from collections.abc import Callable

from lepton_compiler.errors import InferenceError, InvalidIR, LeptonError, UsageError
from lepton_compiler.ir.dim import Dim, symbols
from lepton_compiler.ir.graph import Graph, Node, Value, infer_types
from lepton_compiler.ir.types import TensorType

CONTEXT = 4
"""Nodes printed before and after a faulty one."""


class _Fault(Exception):
    """What is wrong with a node, or with the graph when `node` is None."""

    def __init__(self, message: str, node: Node | None = None) -> None:
        super().__init__(message)
        self.node = node


def verify(graph: Graph, spec: str = "") -> None:
    """Check a graph and all nested ones.

    Checked are: definitions before uses, use lists that match operands, names, types against inference (dimensions that only
    the data decides match anything), isolation of regions, outputs; and the extra conditions of a level of the IR.

    Args:
        graph: the graph.
        spec: name of a level in `SPECS`, or empty.

    Raises:
        InvalidIR: an invariant is broken; the message shows the IR around the faulty node.
        UsageError: no such level.
    """
    if spec and spec not in SPECS:
        raise UsageError(f"no IR level called '{spec}'", hint=f"known: {', '.join(SPECS)}")
    for part in graph.graphs():
        try:
            _check_graph(part)
            for node in part:
                for check in SPECS.get(spec, ()):
                    if complaint := check(node):
                        raise _Fault(complaint, node)
        except _Fault as fault:
            raise InvalidIR(
                f"{fault}\n{_context(part, fault.node)}", where=fault.node.describe() if fault.node else f"graph '{part.name}'"
            ) from fault


def compatible(a: TensorType, b: TensorType) -> bool:
    """Whether two types may describe one value: equal, but a dimension that only the data decides matches anything."""
    return (
        a.dtype == b.dtype and a.rank == b.rank and all(x == y or _unknown(x) or _unknown(y) for x, y in zip(a.shape, b.shape, strict=True))
    )


def _unknown(dim: Dim) -> bool:
    return any("?" in name for name in symbols(dim))


def _check_graph(graph: Graph) -> None:
    defined: set[Value] = set(graph.inputs)
    names: dict[str, Value] = {}
    for value in graph.inputs:
        _check_name(value, names, None)
        if value.graph is not graph or not value.is_input:
            raise _Fault(f"input '{value.name}' is not an input value of this graph")
    previous, count = None, 0
    for node in graph:
        if node.graph is not graph or node.prev is not previous:
            raise _Fault("the node list is broken", node)
        for i, operand in enumerate(node.inputs):
            _check_operand(graph, node, i, operand, defined, names)
        for output in node.outputs:
            _check_name(output, names, node)
            if output.producer is not node or output.graph is not graph or output.tensor is not None:
                raise _Fault(f"output '{output.name}' does not know its producer", node)
        defined.update(node.outputs)
        _check_types(node)
        for region in node.regions:
            if region.owner is not node:
                raise _Fault(f"region '{region.name}' belongs to another node", node)
        previous, count = node, count + 1
    if count != len(graph):
        raise _Fault(f"the graph counts {len(graph)} nodes and has {count}")
    for value in graph.outputs:
        if value not in defined and not (value.is_constant and value.graph is graph):
            raise _Fault(f"output '{value.name}' is not defined in this graph")
    _check_uses(graph, defined | set(graph.constants))


def _check_operand(graph: Graph, node: Node, index: int, operand: Value | None, defined: set[Value], names: dict[str, Value]) -> None:
    if operand is None:
        return
    if operand.is_constant and operand not in defined:
        if operand.graph is not graph:
            raise _Fault(f"constant '{operand.name}' belongs to another graph", node)
        if operand.tensor is None or operand.tensor.type != operand.type:
            raise _Fault(f"constant '{operand.name}' is not a {operand.type}", node)
        _check_name(operand, names, node)
        defined.add(operand)
    if operand not in defined:
        foreign = "belongs to another graph" if operand.graph is not graph else "is used before it is defined"
        raise _Fault(f"operand '{operand.name}' {foreign}", node)
    if (node, index) not in operand.uses:
        raise _Fault(f"operand {index} ('{operand.name}') does not list this use", node)


def _check_name(value: Value, names: dict[str, Value], node: Node | None) -> None:
    if names.setdefault(value.name, value) is not value:
        raise _Fault(f"two values are called '{value.name}'", node)


def _check_types(node: Node) -> None:
    if bool(node.regions) != node.op.has_regions:
        raise _Fault(f"{node.op.name} {'needs' if node.op.has_regions else 'takes no'} regions", node)
    try:
        inferred = infer_types(node.op, node.inputs, node.regions)
    except LeptonError as error:
        message = error.diagnostics[0].message if isinstance(error, InferenceError) else str(error)
        raise _Fault(f"the operands do not fit: {message}", node) from error
    if len(inferred) != len(node.outputs):
        raise _Fault(f"{len(node.outputs)} outputs instead of {len(inferred)}", node)
    for output, type in zip(node.outputs, inferred, strict=True):
        if not compatible(output.type, type):
            raise _Fault(f"output '{output.name}' is declared {output.type} and inferred {type}", node)


def _check_uses(graph: Graph, values: set[Value]) -> None:
    for value in values:
        for node, index in value.uses:
            if node.graph is not graph or index >= len(node.inputs) or node.inputs[index] is not value:
                raise _Fault(f"'{value.name}' lists a use that does not exist", node if node.graph is graph else value.producer)


def _context(graph: Graph, node: Node | None) -> str:
    nodes = graph.nodes
    at = nodes.index(node) if node in nodes else 0
    lines = [f"{'>>>' if n is node else '   '} {n!r}" for n in nodes[max(0, at - CONTEXT) : at + CONTEXT + 1]]
    return "\n".join([f"    graph '{graph.name}' ({len(nodes)} nodes)", *lines])


# -- levels of the IR

Check = Callable[[Node], str | None]


def _axes_not_negative(node: Node) -> str | None:
    for field in ("axis", "axes"):
        axes = getattr(node.op, field, None)
        if any(isinstance(a, int) and a < 0 for a in (axes if isinstance(axes, tuple) else (axes,))):
            return f"{field}={axes} is negative in canonical IR"
    return None


def _attributes_static(node: Node) -> str | None:
    resolve = getattr(node.op, "resolve", None)
    return "its parameters are known: it should be static" if resolve is not None and resolve(node.inputs) is not None else None


def _shapes_static(node: Node) -> str | None:
    dynamic = [v for v in (*node.present_inputs, *node.outputs) if not v.type.is_static]
    return f"'{dynamic[0].name}' is {dynamic[0].type}: its dimensions must be bound" if dynamic else None


def _kernels_flat(node: Node) -> str | None:
    inside = node.op.name == "Fused" and any(n.regions for n in node.regions[0])
    return "a kernel contains a node with regions" if inside else None


SPECS: dict[str, tuple[Check, ...]] = {
    "imported": (),
    "canonical": (_axes_not_negative, _attributes_static),
    "static": (_shapes_static,),
    "fused": (_kernels_flat,),
}
"""Levels of the IR: name to the conditions that each node fulfils, beyond those of all valid IR."""
