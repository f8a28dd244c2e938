"""Kernels that move elements: operators that read each other's results in registers, where a launch costs more than some arithmetic of indices."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from lepton_compiler.ir.graph import Node
from lepton_compiler.passes.fuse.kinds import is_arithmetic, kind

MOVES = frozenset({"Concat", "Expand", "Pad", "Slice"})
"""Operators each of whose elements is one of an operand, or a constant."""
ONCE = frozenset({"Concat", "Pad", "Slice"})
"""Those of them that read no element several times, or hardly any."""
CHEAP = frozenset({"Abs", "Add", "Cast", "Max", "Min", "Mul", "Neg", "Relu", "Sub"})
"""Operators that may be computed again for another reader in the kernel."""
MOST_COPIES = 8
"""Times that a kernel's text may have an operator."""
NEIGHBOURS = 8
"""Elements that stay neighbours in a transpose that costs no more than what reads it."""


def is_light(nodes: Collection[Node]) -> bool:
    """Whether a kernel consists of operators that compute an element from few others, which lie as its neighbours do."""
    return all(
        is_arithmetic(n) or n.op.name in MOVES or kind(n) == "view" or (kind(n) == "transpose" and keeps_neighbours(n)) for n in nodes
    )


def keeps_neighbours(transpose: Node) -> bool:
    """Whether a transpose moves whole vectors."""
    rank, perm = transpose.output.type.rank, getattr(transpose.op, "perm", None) or (0,)
    last = transpose.output.type.shape[-1] if rank else 0
    return perm[-1] % rank == rank - 1 and isinstance(last, int) and last >= NEIGHBOURS


def joins_moves(node: Node, nodes: Sequence[Node], users: Sequence[Node]) -> bool:
    """Whether a node that only a kernel reads joins it, where either moves elements: `nodes` are those of the kernel, `users` its readers there."""
    if not is_light(nodes) or not (node.op.name in MOVES or any(n.op.name in MOVES for n in nodes)):
        return False
    if len(node.outputs) != 1 or not node.output.type.is_static or _copies(node, nodes) > MOST_COPIES:
        return False
    if kind(node) == "view":
        return _goes_on(node)
    if kind(node) == "transpose":
        return keeps_neighbours(node)
    if node.op.name in MOVES:
        return True
    return is_arithmetic(node) and (len(users) == 1 or node.op.name in CHEAP) and all(_reads_once(node, u) for u in users)


def _reads_once(node: Node, user: Node) -> bool:
    if kind(user) in ("transpose", "view") or user.op.name in ONCE:
        return True
    return is_arithmetic(user) and node.output.type.shape == user.output.type.shape


def _goes_on(view: Node) -> bool:
    """Whether what a view is taken from could join as well."""
    source = view.present_inputs[0]
    node = source.producer
    if node is None or len(source.uses) != 1 or source.is_output:
        return False
    return node.op.name in MOVES or kind(node) == "transpose"


def _copies(node: Node, nodes: Sequence[Node]) -> int:
    """How often a kernel's text would have a node: once for each way from it to the result, the first of `nodes`, which are in reverse order."""
    ways: dict[Node, int] = {}
    for n in (*nodes, node):
        ways[n] = sum(ways.get(user, 0) for user, _ in n.output.uses) or 1
    return ways[node]
