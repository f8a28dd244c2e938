"""Which rows of its operands an operator needs for some rows of its result, and the operator that computes just these.

Rows are indices along axis 1 of images [1, rows, columns..., channels]: the outermost axis of which there are several, so that rows lie in
memory one after another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lepton_compiler.backends.tvm.spec import is_elementwise
from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ir.op import Op
from lepton_compiler.ops.builder import Builder

AXIS = 1
CONVOLUTIONS = ("Conv", "ConvInteger")
POOLS = ("AveragePool", "MaxPool")
CONVERSIONS = ("DequantizeLinear", "QuantizeLinear")

Rows = tuple[int, int]
"""First row, and the one after the last."""

Outside = Callable[[Value, "Rows | None"], Value]
"""What stands for these rows (None: all of it) of a value that is computed elsewhere."""


def is_image(value: Value) -> bool:
    """Whether a value has rows that lie one after another."""
    return value.type.rank >= 3 and value.type.is_static and value.type.shape[0] == 1 and value.type.size > 0


def row_count(value: Value) -> int:
    """How many rows an image has."""
    return value.type.static_shape[AXIS]


@dataclass
class Demand:
    """What some rows of a result need.

    Attributes:
        rows: of each value in between, the result included: those that are computed.
        uses: of each operand of each node, by position: the rows it reads; None is all of a value that has no rows, as a weight.
        inside: the demand within the regions of `Fused` nodes.
    """

    rows: dict[Value, Rows] = field(default_factory=dict)
    uses: dict[tuple[Node, int], Rows | None] = field(default_factory=dict)
    inside: dict[Node, Demand] = field(default_factory=dict)


def demand(nodes: Sequence[Node], result: Value, rows: Rows, strict: bool = False) -> Demand | None:
    """What `rows` of `result`, the last value of `nodes`, need; None where that cannot be computed by rows.

    Args:
        nodes: in order of execution.
        result: a value of the last of them.
        rows: of the result.
        strict: refuse values of which two nodes need different rows.
    """
    found, made = Demand({result: rows}), {out for node in nodes for out in node.outputs}
    for node in reversed(nodes):
        if len(node.outputs) != 1 or node.output not in found.rows or not is_image(node.output):
            return None
        wanted = _operands(node, found)
        if wanted is None:
            return None
        for index, need in wanted.items():
            operand = node.inputs[index]
            assert operand is not None
            found.uses[node, index] = need
            if operand not in made:
                continue
            if need is None or (strict and found.rows.get(operand, need) != need):
                return None
            found.rows[operand] = _hull(need, found.rows.get(operand, need))
    return found


def _hull(a: Rows, b: Rows) -> Rows:
    return min(a[0], b[0]), max(a[1], b[1])


def _operands(node: Node, found: Demand) -> dict[int, Rows | None] | None:
    """By position, the rows of its operands that a node needs, or None where it cannot be computed by rows."""
    if node.op.name != "Fused":
        return needs(node, found.rows[node.output])
    region = node.regions[0]
    inner = demand(region.nodes, region.outputs[0], found.rows[node.output], strict=True) if len(region.outputs) == 1 else None
    if inner is None or inner.rows[region.outputs[0]] != found.rows[node.output]:
        return None
    found.inside[node] = inner
    wanted: dict[int, Rows | None] = {}
    for (user, index), rows in inner.uses.items():
        value = user.inputs[index]
        if value not in region.inputs:
            continue
        position = region.inputs.index(value)
        if (before := wanted.setdefault(position, rows)) != rows:
            if before is None or rows is None:
                return None
            wanted[position] = _hull(rows, before)
    return wanted


def needs(node: Node, rows: Rows) -> dict[int, Rows | None] | None:
    """By position, the rows of its operands that an operator needs for `rows` of its result; None where it does not work by rows."""
    op: Any = node.op
    present = {k: v for k, v in enumerate(node.inputs) if v is not None}
    if (window := _window(node)) is not None:
        source, (first, end), _ = present[0], *window.reach(rows)
        return None if end <= first else {**dict.fromkeys(present), 0: (first, end)} if is_image(source) else None
    if op.name in CONVERSIONS and any(v.type.size > 1 and op.axis % node.output.type.rank == AXIS for k, v in present.items() if k):
        return None
    if op.name == "Concat" and op.axis % node.output.type.rank > AXIS:
        return dict.fromkeys(present, rows)
    if not is_elementwise(op) and op.name not in CONVERSIONS:
        return None
    ranked = [k for k, v in present.items() if _has_rows(v, node.output)]
    if any(not is_image(present[k]) or present[k].type.rank != node.output.type.rank for k in ranked):
        return None
    return {k: rows if k in ranked else None for k in present}


def _has_rows(operand: Value, result: Value) -> bool:
    """Whether an operand that is broadcast to `result` has a row for each of its rows."""
    axis = AXIS - (result.type.rank - operand.type.rank)
    return axis >= 0 and row_count(result) > 1 and operand.type.shape[axis] != 1


@dataclass(frozen=True)
class Window:
    """How a convolution or a pool slides along the rows of its operand."""

    size: int
    kernel: int
    stride: int
    dilation: int
    pad: int

    def reach(self, rows: Rows) -> tuple[Rows, Rows]:
        """The rows that lie under `rows` of the result, and how many lie outside, before and after."""
        first = rows[0] * self.stride - self.pad
        end = (rows[1] - 1) * self.stride - self.pad + (self.kernel - 1) * self.dilation + 1
        return (max(first, 0), min(end, self.size)), (max(-first, 0), max(end - self.size, 0))


def _window(node: Node) -> Window | None:
    op: Any = node.op
    if op.name not in (*CONVOLUTIONS, *POOLS) or op.layout != "NHWC":
        return None
    if op.name in POOLS and (op.ceil_mode or getattr(op, "indices", False)):
        return None
    x, *rest = node.present_inputs
    if not x.type.is_static or (op.name in CONVOLUTIONS and not rest[0].type.is_static):
        return None
    kernel = op.kernel_shape[0] if op.name in POOLS else rest[0].type.static_shape[2]
    return Window(x.type.static_shape[AXIS], kernel, op.strides[0], op.dilations[0], int(op.pads[0]))


def narrowed(node: Node, rows: Rows) -> Op:
    """The operator that computes `rows` of a node's result from the rows that `needs` tells: padding is left at the image's ends only."""
    window = _window(node)
    if window is None:
        return node.op
    op: Any = node.op
    before, after = window.reach(rows)[1]
    half = len(op.pads) // 2
    pads = (before, *op.pads[1:half], after, *op.pads[half + 1 :])
    narrow: Op = replace(op, pads=pads)
    return narrow


def copy_rows(nodes: Iterable[Node], found: Demand, into: Builder, outside: Outside) -> dict[Value, Value]:
    """Copies of `nodes` that compute the rows of a demand.

    Args:
        nodes: as `demand` took them.
        found: its result.
        into: adds the nodes.
        outside: gives the rows of operands that none of the nodes computes.

    Returns:
        The copies, by original.
    """
    made: dict[Value, Value] = {}
    for node in nodes:
        into.loc = node.loc.by("patches")
        wanted = {
            k: _part(v, found.uses[node, k], found, made, into, outside)
            for k, v in enumerate(node.inputs)
            if v is not None and (node, k) in found.uses
        }
        if node.op.name == "Fused":
            copy = _copy_kernel(node, found.inside[node], wanted, found, into, outside)
        else:
            copy = into(narrowed(node, found.rows[node.output]), *(wanted.get(k) for k in range(len(node.inputs))))
        into.graph.rename(copy, into.graph.fresh_name(node.output.name))
        made[node.output] = copy
    return made


def _part(value: Value, rows: Rows | None, found: Demand, made: Mapping[Value, Value], into: Builder, outside: Outside) -> Value:
    if value not in made:
        return outside(value, rows)
    assert rows is not None
    have = found.rows[value]
    return sliced(into, made[value], (rows[0] - have[0], rows[1] - have[0]))


def sliced(into: Builder, image: Value, rows: Rows) -> Value:
    """Some rows of an image: a view."""
    if rows == (0, row_count(image)):
        return image
    return into.Slice(image, starts=(rows[0],), ends=(rows[1],), axes=(AXIS,), steps=(1,))


def _copy_kernel(node: Node, inner: Demand, wanted: Mapping[int, Value], found: Demand, into: Builder, outside: Outside) -> Value:
    """A `Fused` node that computes fewer rows. What its region reads twice, in different parts, becomes two operands."""
    old, region = node.regions[0], Graph(node.regions[0].name)
    operands: list[Value] = []
    entered: dict[tuple[Value, Rows | None], Value] = {}

    def enter(value: Value, rows: Rows | None) -> Value:
        if (value, rows) not in entered:
            if value.tensor is not None:
                entered[value, rows] = region.constant(value.tensor, value.name)
                return entered[value, rows]
            position = old.inputs.index(value)
            operand = wanted[position]
            if rows is not None:
                whole = found.uses[node, position]
                assert whole is not None
                operand = sliced(into, operand, (rows[0] - whole[0], rows[1] - whole[0]))
            entered[value, rows] = region.add_input(value.name, operand.type)
            operands.append(operand)
        return entered[value, rows]

    copies = copy_rows(old.nodes, inner, Builder(region), enter)
    region.set_outputs([copies[old.outputs[0]]])
    return into.node(node.op, operands, regions=[region]).output
