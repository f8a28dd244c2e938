"""Deciding which nodes make up a kernel.

Nodes are visited from the last to the first. When a node is reached, all its users have a kernel; if that is one and the same kernel, and it can
take the node, the node joins, else it starts a kernel of its own. So every kernel has a single sink, nothing but the sink's outputs leaves it,
and no cycle between kernels can arise.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lepton_compiler.analysis.weights import product_of_converted
from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.passes.fuse.kinds import Kind, kind
from lepton_compiler.passes.fuse.moves import MOVES, joins_moves

INTERLEAVED = 4
"""Planes that are put side by side while they are computed."""


@dataclass(eq=False)
class Group:
    """A kernel in the making.

    Attributes:
        nodes: members, the sink first.
        anchor: the member that is not element-wise, if there is one.
        before: members that feed the anchor.
        moved: whether a member transposes.
    """

    nodes: list[Node]
    anchor: Node | None = None
    before: set[Node] = field(default_factory=set)
    moved: bool = False


def form_groups(graph: Graph, depth: int, lanes: int = 1, moves: bool = False) -> list[Group]:
    """The kernels of a graph, last one first; views and nodes with regions stay outside.

    Args:
        graph: without kernels yet.
        depth: most nodes per kernel.
        lanes: numbers that the machine computes at once.
        moves: whether operators that move elements read each other's results in one kernel.
    """
    groups: list[Group] = []
    member: dict[Node, Group] = {}
    returned = set(graph.outputs)
    for node in reversed(graph.nodes):
        what = kind(node)
        users = node.output.users if len(node.outputs) == 1 and node.output not in returned else []
        candidates = {id(member.get(user)): member.get(user) for user in users}
        target = next(iter(candidates.values())) if len(candidates) == 1 else None
        room = target is not None and len(target.nodes) < depth
        if target is not None and room and (_joins(node, what, target, users, lanes) or (moves and _moves(node, what, target, users))):
            _add(target, node, what, users)
            member[node] = target
        elif what not in ("control", "view"):  # a view at the end of a kernel costs nothing outside, and anchors can end before it
            group = Group([node])
            _set_role(group, node, what)
            groups.append(group)
            member[node] = group
    return [kernel for group in groups if (kernel := _without_outer_views(group))]


def _set_role(group: Group, node: Node, what: Kind) -> None:
    if what == "transpose":
        group.moved = True
    elif what not in ("elementwise", "view") and group.anchor is None:
        group.anchor = node


def _add(group: Group, node: Node, what: Kind, users: list[Node]) -> None:
    if group.anchor is not None and all(u is group.anchor or u in group.before for u in users):
        group.before.add(node)
    group.nodes.append(node)
    _set_role(group, node, what)


def _joins(node: Node, what: Kind, group: Group, users: list[Node], lanes: int) -> bool:
    if group.anchor is None:
        if any(kind(n) == "view" for n in group.nodes):
            return what == "elementwise" and all(_whole(node.output, u) for u in users)
        if what == "view":
            return not group.moved and all(kind(u) == "elementwise" and _whole(node.output, u) for u in users) and _chain_goes_on(node)
        if what == "transpose":
            return not group.moved and all(_whole(node.output, u) for u in users)
        if group.moved and (what in ("anchor", "reduction") or (node.op.name == "QuantizeLinear" and not _moves_codes(node, group, lanes))):
            return False
        return what not in ("opaque", "control") and all(_whole(node.output, u) for u in users)
    if product_of_converted(node) is group.anchor:
        return True
    after_anchor = all(kind(u) == "elementwise" and u not in group.before and _whole(node.output, u) for u in users)
    if node.op.name == "DequantizeLinear" and after_anchor:
        return True  # the kernel reads codes, which are small
    if node.op.name == "QuantizeLinear":
        return False  # what it gives is small: the kernel that makes its operand stores that
    feeds_anchor = kind(group.anchor) == "reduction" and all(u is group.anchor or u in group.before for u in users)
    return what == "elementwise" and feeds_anchor and all(u is group.anchor or _whole(node.output, u) for u in users)


def _moves(node: Node, what: Kind, group: Group, users: list[Node]) -> bool:
    """Whether a node joins a kernel because one of them moves elements; products keep what they end with."""
    ends = what == "elementwise" and _ends_an_anchor(node, MOVES)
    return what not in ("opaque", "control") and not ends and joins_moves(node, group.nodes, users)


def _whole(value: Value, user: Node) -> bool:
    """Whether `user` reads each element of `value` once, rather than spreading it over a larger result."""
    if kind(user) in ("view", "transpose"):
        return True
    return value.type.shape == user.output.type.shape and not _is_parameter(value, user)


def _is_parameter(value: Value, user: Node) -> bool:
    """Whether `value` is a scale or zero point rather than data."""
    return kind(user) == "elementwise" and "Quantize" in user.op.name and user.inputs[0] is not value


def _moves_codes(node: Node, group: Group, lanes: int) -> bool:
    """Whether a kernel that moves codes may quantize them on the way: no anchor could end in that, and vectors of what it writes are full, or
    it puts a few planes side by side.
    """
    last = group.nodes[0].output.type.shape[-1:]
    if _ends_an_anchor(node) or not last or not isinstance(last[0], int):
        return False
    return last[0] >= lanes or (last[0] <= INTERLEAVED and _puts_last(group.nodes))


def _puts_last(nodes: list[Node]) -> bool:
    """Whether a kernel is a transposition that puts an axis behind the others."""
    perm = [p % nodes[0].output.type.rank for p in getattr(nodes[0].op, "perm", None) or (0,)]
    return len(nodes) == 1 and perm[:-1] == sorted(perm[:-1])


def _ends_an_anchor(node: Node, but: frozenset[str] = frozenset()) -> bool:
    """Whether an element-wise chain that ends in `node` begins with an anchor, `but` some, which can take the chain into its kernel."""
    for value in node.present_inputs:
        source = value.producer
        if source is None or len(value.uses) != 1 or value.is_output:
            continue
        what = kind(source)
        anchor = what in ("anchor", "reduction") and source.op.name not in but
        if anchor or (what in ("elementwise", "view") and _ends_an_anchor(source, but)):
            return True
    return False


def _chain_goes_on(view: Node) -> bool:
    """Whether a view stands in the middle of an element-wise chain that only it reads."""
    source = view.inputs[0]
    return (
        source is not None
        and source.producer is not None
        and kind(source.producer) == "elementwise"
        and len(source.uses) == 1
        and not source.is_output
    )


def _without_outer_views(group: Group) -> Group | None:
    """The kernel without views at its borders, which cost nothing outside; None if nothing else is there."""
    while group.nodes and kind(group.nodes[-1]) == "view":
        group.nodes.pop()
    return group if group.nodes else None
