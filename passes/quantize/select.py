"""Which operators compute on quantized numbers, and which values have codes.

A *unit* is what becomes one integer kernel: a layer or a sum with the element-wise operators after it, or an operator that keeps codes.
All units are taken for quantized first; then those that stand among real numbers are dropped until nothing changes.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.passes.quantize.profile import CLAMPS, Profile
from lepton_compiler.passes.quantize.roles import Role, bias_after, constant_operand, data_operands, is_moved_input, role


@dataclass(eq=False)
class Unit:
    """Operators that are one kernel on codes.

    Attributes:
        head: the first of them.
        role: of the head.
        inputs: the values that it reads codes of.
        outputs: the values that it gives.
        nodes: all operators, in order.
    """

    head: Node
    role: Role
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Selection:
    """What is to be quantized: the units, and the values that get codes, in the order of the graph."""

    units: tuple[Unit, ...]
    values: tuple[Value, ...]

    @property
    def layers(self) -> list[Unit]:
        """The units that multiply by weights."""
        return [u for u in self.units if u.role == "layer"]

    def made_of_codes(self) -> set[Value]:
        """The values that quantized units compute."""
        return {v for u in self.units for v in u.outputs}


def select(graph: Graph, profile: Profile, keep: Collection[str] = ()) -> Selection:
    """Choose what is quantized in `graph` (not in nested graphs).

    Args:
        graph: an optimised float graph.
        profile: the rules.
        keep: layers that stay in floating point, by the name of the value that the convolution or product gives.
    """
    units = _units(graph, profile, keep)
    made = {v: u for u in units for v in u.outputs}
    alive = dict.fromkeys(units)
    changed = True
    while changed:
        readers = {v for u in alive for v in u.inputs}
        doomed = [u for u in alive if u.role != "layer" and not _belongs(u, made, alive, readers, profile)]
        changed = bool(doomed)
        for unit in doomed:
            del alive[unit]
    wanted = {v for u in alive for v in u.inputs}
    if profile.outputs:
        wanted |= {v for u in alive for v in u.outputs if v.is_output}
    ordered = [*graph.inputs, *(v for node in graph for v in node.outputs)]
    return Selection(tuple(alive), tuple(v for v in ordered if v in wanted))


def _belongs(unit: Unit, made: dict[Value, Unit], alive: dict[Unit, None], readers: set[Value], profile: Profile) -> bool:
    """Whether the operands of a unit have codes, and somebody wants those of its results.

    Functions of single elements of the model's input are computed before this is rounded: on codes it would be rounded twice.
    """
    read = any(v in readers or (profile.outputs and v.is_output) for v in unit.outputs)
    early = unit.role in ("activation", "affine") and all(is_moved_input(v) for v in unit.inputs)
    return read and not early and all(v.is_input or made.get(v) in alive for v in unit.inputs)


def _units(graph: Graph, profile: Profile, keep: Collection[str]) -> list[Unit]:
    taken: set[Node] = set()
    units = []
    for node in graph:
        what = role(node)
        if node in taken or what == "other" or (what == "layer" and node.output.name in keep):
            continue
        nodes = [node]
        if what not in ("keeping", "concat"):
            nodes += _tail(node, what, profile)
        taken.update(nodes)
        units.append(Unit(node, what, tuple(data_operands(node)), nodes[-1].outputs, tuple(nodes)))
    return units


def _tail(head: Node, what: Role, profile: Profile) -> list[Node]:
    """The element-wise operators after `head` that nobody else reads results of."""
    nodes: list[Node] = []
    bias = bias_after(head) if what == "layer" else None
    if bias is not None:
        nodes.append(bias)
    per_element = what in ("activation", "affine")
    while True:
        last = nodes[-1] if nodes else head
        if len(last.output.uses) != 1 or last.output.is_output:
            return nodes
        (user,) = last.output.users
        if role(user) not in ("activation", "affine") or not _joins(user, profile, per_element):
            return nodes
        nodes.append(user)


def _joins(user: Node, profile: Profile, per_element: bool) -> bool:
    if profile.tails is not None:
        return user.op.name in profile.tails and not per_element
    constant = constant_operand(user)
    return not per_element or user.op.name in CLAMPS or constant is None or constant.type.size == 1


def groups(selection: Selection, profile: Profile) -> list[tuple[Value, ...]]:
    """The values with codes, those together that share a scale: across what keeps codes, and across joins."""
    found: dict[Value, Value] = {v: v for v in selection.values}

    def root(value: Value) -> Value:
        while found[value] is not value:
            value = found[value]
        return value

    for unit in selection.units:
        if unit.role in ("keeping", "concat") or (unit.role == "average" and profile.averages_keep):
            members = [v for v in (*unit.inputs, *unit.outputs) if v in found]
            for other in members[1:]:
                found[root(other)] = root(members[0])
    classes: dict[Value, list[Value]] = {}
    for value in selection.values:
        classes.setdefault(root(value), []).append(value)
    return [tuple(members) for members in classes.values()]
