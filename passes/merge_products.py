"""Products of the same data with several weights: one product."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from lepton_compiler.analysis.layouts import RESHAPES, Layout, offset_of
from lepton_compiler.ir.graph import Graph, Loc, Node, Value
from lepton_compiler.ir.traverse import bodies, erase_dead
from lepton_compiler.ops.builder import Builder
from lepton_compiler.passes.fuse.attention import largest_heads
from lepton_compiler.passes.fuse.attention_parts import Attention, Operand, find_attention, operands_of
from lepton_compiler.passes.fuse.kinds import kind
from lepton_compiler.passes.fuse.moves import keeps_neighbours
from lepton_compiler.passes.siblings import chain, form, join
from lepton_compiler.pipeline import Pass, PassContext

ALIGNED = 16
"""Bytes to whose multiples the addresses of operands are aligned: what begins elsewhere would be copied."""


@dataclass(frozen=True)
class MergeProducts(Pass):
    """q = MatMul(x, w) + b; k = MatMul(x, v) + c  -->  y = MatMul(x, [w v]) + [b c]; q = y[:, :n]; k = y[:, n:]

    A GPU does the three products of a short text one after the other, each with a few of its multiprocessors, in the time in which it does the one
    product of all three. Slices must cost nothing: they are made for attention that becomes one kernel (`fuse-attention`), which reads queries, keys
    and values where they are; for operators that move elements, if they take slices into their kernels (`fuse{moves=true}`); and where there is
    a single row, so that a slice is a part of memory. Results whose product would otherwise do with them what comes next stay as they are,
    and so does what the model returns.

    Weights may be stored as codes, with scales of columns or groups.

    Attributes:
        float32, float16, bfloat16: elements of the largest keys and values of each type that attention as one kernel takes.
        most: bytes of a result; what the same attention reads may have more.
        moves: whether operators that move elements take slices into their kernels.
    """

    float32: int = 128
    float16: int = 256
    bfloat16: int = 256
    most: int = 16 << 20
    moves: bool = False

    def run(self, graph: Graph, ctx: PassContext) -> None:  # noqa: D102
        heads = largest_heads({"float32": self.float32, "float16": self.float16, "bfloat16": self.bfloat16}, ctx.target)
        for part in list(bodies(graph)):
            reader = _Reader(part, heads, self.moves)
            groups = [group for siblings in _siblings(part, reader) for group in reader.groups(siblings, self.most)]
            for group in groups:
                _merge(part, group)
            if groups:
                erase_dead(part)


@dataclass(frozen=True)
class _Known:
    """An attention that becomes one kernel, and how it reads its operands."""

    attention: Attention
    operands: tuple[Operand, Operand, Operand]


@dataclass
class _Reader:
    """Who reads the results of products, and whether slices of a larger result would do.

    Attributes:
        found: attention that becomes one kernel.
        reading: by value that these read where it is, which do.
    """

    part: Graph
    heads: dict[str, int]
    moves: bool
    found: list[_Known] = field(init=False)
    reading: dict[Value, list[_Known]] = field(init=False)

    def __post_init__(self) -> None:
        self.found, self.reading = [], {}
        for node in self.part:
            attention = find_attention(node) if node.op.name == "Softmax" else None
            operands = operands_of(attention, self.heads) if isinstance(attention, Attention) else ""
            if isinstance(attention, Attention) and not isinstance(operands, str):
                self.found.append(_Known(attention, operands))
        inside = {n for known in self.found for n in (known.attention.first, known.attention.second)}
        inside |= {n for known in self.found for o in known.operands for n in o.passed}
        for known in self.found:
            for o in known.operands:
                if not o.swapped and _read_only_by(o.base, inside):
                    self.reading.setdefault(o.base, []).append(known)

    def ends(self) -> Iterator[Value]:
        """Results of products that may become slices, in order."""
        for node in self.part:
            for value in node.outputs:
                if value.type.is_static and not value.is_output and (self.is_viewed(value) or _is_row(value)) and chain(value):
                    yield value

    def is_viewed(self, value: Value) -> bool:
        """Whether who reads a value reads a slice as well, wherever that begins."""
        return value in self.reading or (self.moves and _is_moved(value))

    def groups(self, siblings: Sequence[Value], most: int) -> Iterator[list[Value]]:
        """Those of several siblings that become one result, of at most so many bytes if not all are read by the same attention."""
        rest = list(siblings)
        while rest:
            group: list[Value] = []
            for value in list(rest):
                size = sum(v.type.nbytes for v in (*group, value))
                if size <= most or all(self._together(v, value) for v in group):
                    group.append(value)
                    rest.remove(value)
            while len(group) > 1 and (fitting := self._fitting(group)) != group:
                group = fitting
            if len(group) > 1:
                yield group

    def _together(self, one: Value, other: Value) -> bool:
        """Whether the same attention reads two values."""
        return any(known in self.reading.get(other, ()) for known in self.reading.get(one, ()))

    def _fitting(self, group: list[Value]) -> list[Value]:
        """Those of a group whose readers would read slices as well."""
        total = sum(v.type.static_shape[-1] for v in group)
        places = dict(zip(group, _places(group, total), strict=True))
        refused = {id(known) for known in self.found if not self._reads(known, places)}
        return [
            v for v in group
            if not any(id(known) in refused for known in self.reading.get(v, ()))
            and (self.is_viewed(v) or places[v].offset * v.type.dtype.bits % (8 * ALIGNED) == 0)
        ]  # fmt: skip

    def _reads(self, known: _Known, places: Mapping[Value, Layout]) -> bool:
        """Whether attention reads values where they are when these are slices."""
        operands = operands_of(known.attention, self.heads, places)
        return not isinstance(operands, str) and [o.base for o in operands] == [o.base for o in known.operands]


def _siblings(part: Graph, reader: _Reader) -> list[list[Value]]:
    """Values of the same form, by the first of them."""
    found: dict[Hashable, list[Value]] = {}
    for value in reader.ends():
        what = form(value)
        if what is not None:
            found.setdefault(what, []).append(value)
    return [values for values in found.values() if len(values) > 1]


def _places(group: Sequence[Value], total: int) -> list[Layout]:
    """Where values lie in one that has `total` columns."""
    sizes = [v.type.static_shape[-1] for v in group]
    whole = Layout.dense((*group[0].type.static_shape[:-1], total))
    slices = [whole.sliced(len(whole.axes) - 1, start, 1, n) for start, n in zip(accumulate([0, *sizes[:-1]]), sizes, strict=True)]
    return [layout for layout in slices if layout is not None]


def _is_row(value: Value) -> bool:
    """Whether slices of a value are parts of memory that somebody reads who does not belong to its product's kernel."""
    single = value.type.size > 0 and all(n == 1 for n in value.type.static_shape[:-1])
    return single and not all(kind(user) == "elementwise" and user.output.type.shape == value.type.shape for user in value.users)


def _is_moved(value: Value) -> bool:
    """Whether the elements of a value are moved, in a kernel of their own, and do nothing else."""
    while len(value.uses) == 1 and not value.is_output:
        (user,) = value.users
        if user.op.name not in RESHAPES:
            return (user.op.name == "Slice" and offset_of(user) is None) or (user.op.name == "Transpose" and keeps_neighbours(user))
        value = user.output
    return False


def _read_only_by(value: Value, inside: Collection[Node]) -> bool:
    """Whether only these nodes read a value, and what they make of it as long as they only view it."""
    if value.is_output:
        return False
    return all(u in inside and (u.op.name == "MatMul" or all(_read_only_by(v, inside) for v in u.outputs)) for u in value.users)


def _merge(part: Graph, group: Sequence[Value]) -> None:
    """Compute values as one, and take slices."""
    before = next(node for node in part.nodes if any(v.producer is node for v in group))
    members = {node for value in group for node in chain(value)}
    b = Builder(part, before, Loc().merge(*(n.loc for n in part.nodes if n in members)).by(MergeProducts.name))
    whole, start = join(b, group), 0
    b.loc = Loc().by(MergeProducts.name)  # the slices are part of those that read them
    for value in group:
        end = start + value.type.static_shape[-1]
        part_of = b.Slice(whole, starts=(start,), ends=(end,), axes=(value.type.rank - 1,), steps=(1,))
        name, start = value.name, end
        part.replace_all_uses(value, part_of)
        part.rename(value, part.fresh_name(name))
        part.rename(part_of, name)
