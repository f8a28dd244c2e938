"""Values, nodes and graphs. Everything is edited through methods, so that uses always match definitions.

A nested graph (a *region* of `If`, `Loop`, `Scan` or `Fused`) is isolated: it reads nothing from outside except its
own inputs, which the node feeds. Constants are values of the graph that uses them; copies share the tensor.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lepton_compiler.errors import InferenceError, InvalidIR, LeptonError
from lepton_compiler.ir.dim import Dim, SymDim, bind, symbol, symbols
from lepton_compiler.ir.op import Op
from lepton_compiler.ir.tensor import Tensor
from lepton_compiler.ir.types import TensorType

CONTENT_LIMIT = 256
"""Largest number of elements of an integer value whose symbolic contents are followed."""


@dataclass(frozen=True)
class Loc:
    """Provenance: names of the source nodes, and of the rewrites that led here, both in order."""

    sources: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()

    def merge(self, *others: Loc) -> Loc:
        """The union of several origins, first come first."""
        every = (self, *others)
        return Loc(tuple(dict.fromkeys(s for o in every for s in o.sources)), tuple(dict.fromkeys(r for o in every for r in o.rules)))

    def by(self, rule: str) -> Loc:
        """This origin after the rewrite `rule`."""
        return self if rule in self.rules else replace(self, rules=(*self.rules, rule))


class Value:
    """A tensor in a graph: a graph input, a constant, or one output of a node.

    Attributes:
        name: unique in its graph.
        type: element type and shape.
        producer: the node that computes it, or None.
        tensor: the constant, or None.
        uses: `(node, operand index)` of every use by a node, in order of creation.
    """

    __slots__ = ("_content", "graph", "name", "producer", "tensor", "type", "uses")

    def __init__(self, graph: Graph, name: str, type: TensorType, producer: Node | None = None, tensor: Tensor | None = None) -> None:
        self.graph, self.name, self.type, self.producer, self.tensor = graph, name, type, producer, tensor
        self.uses: dict[tuple[Node, int], None] = {}
        self._content: np.ndarray | None = None
        graph._names[name] = self

    @property
    def users(self) -> list[Node]:
        """The nodes that read this value, each once, in order of first use."""
        return list(dict.fromkeys(node for node, _ in self.uses))

    @property
    def is_constant(self) -> bool:
        """Whether the value is known at compile time."""
        return self.tensor is not None

    @property
    def is_output(self) -> bool:
        """Whether the graph returns this value."""
        return any(out is self for out in self.graph.outputs)

    @property
    def is_input(self) -> bool:
        """Whether this is an input of its graph."""
        return self.producer is None and self.tensor is None

    def numpy(self) -> np.ndarray:
        """The constant's values.

        Raises:
            LeptonError: the value is not a constant.
        """
        if self.tensor is None:
            raise LeptonError("not a constant", where=f"value '{self.name}'")
        return self.tensor.numpy()

    @property
    def content(self) -> np.ndarray | None:
        """The elements as an object array of `Dim`, where a small integer value is known symbolically; else None."""
        if self._content is None and self.tensor is not None and _followed(self.type):
            self._content = self.tensor.numpy().astype(object)
        return self._content

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}"


class Node:
    """One application of an operator. `inputs` is a tuple with None for absent optional operands."""

    __slots__ = ("graph", "inputs", "loc", "next", "op", "outputs", "prev", "regions")

    def __init__(self, graph: Graph, op: Op, inputs: tuple[Value | None, ...], regions: tuple[Graph, ...], loc: Loc) -> None:
        self.graph, self.op, self.inputs, self.regions, self.loc = graph, op, inputs, regions, loc
        self.outputs: tuple[Value, ...] = ()
        self.prev: Node | None = None
        self.next: Node | None = None

    @property
    def output(self) -> Value:
        """The only output, or the first of several."""
        return self.outputs[0]

    @property
    def present_inputs(self) -> list[Value]:
        """The operands that are there."""
        return [v for v in self.inputs if v is not None]

    def describe(self) -> str:
        """How diagnostics name a node: source name, operator, operand shapes."""
        name = self.loc.sources[0] if self.loc.sources else self.outputs[0].name if self.outputs else "?"
        return f"node '{name}' ({self.op.name}: {', '.join(repr(v.type) if v else '-' for v in self.inputs)})"

    def __repr__(self) -> str:
        return (
            f"{', '.join('%' + o.name for o in self.outputs)} = {self.op!r}({', '.join('%' + v.name if v else '-' for v in self.inputs)})"
        )


class Graph:
    """A function: inputs, an ordered list of nodes, outputs. Iterating gives the nodes; editing meanwhile is safe."""

    def __init__(self, name: str = "main") -> None:
        self.name = name
        self.inputs: list[Value] = []
        self.outputs: tuple[Value, ...] = ()
        self.owner: Node | None = None
        self._first: Node | None = None
        self._last: Node | None = None
        self._count = 0
        self._edits = 0
        self._names: dict[str, Value | None] = {}
        self._suffixes: dict[str, int] = {}

    # -- reading

    def __iter__(self) -> Iterator[Node]:
        node = self._first
        while node is not None:
            following = node.next
            yield node
            node = node.next if node.graph is self and node.next is not None else following

    def __len__(self) -> int:
        return self._count

    @property
    def nodes(self) -> list[Node]:
        """The nodes in order of execution."""
        return list(self)

    @property
    def edits(self) -> int:
        """How many edits this graph and its nested graphs have seen."""
        return self._edits

    def walk(self) -> Iterator[Node]:
        """All nodes, nested graphs included, each before the contents of its regions."""
        for node in self:
            yield node
            for region in node.regions:
                yield from region.walk()

    def graphs(self) -> Iterator[Graph]:
        """This graph and all nested ones, outermost first."""
        yield self
        for node in self:
            for region in node.regions:
                yield from region.graphs()

    @property
    def constants(self) -> list[Value]:
        """The constants that nodes or outputs of this graph (not of nested ones) use, in order of first use."""
        used = [v for node in self for v in node.inputs if v is not None and v.is_constant]
        return list(dict.fromkeys([*used, *(v for v in self.outputs if v.is_constant)]))

    @property
    def free_symbols(self) -> frozenset[str]:
        """The dimension names in the types of the inputs."""
        return frozenset(s for v in self.inputs for d in v.type.shape for s in symbols(d))

    # -- editing

    def add_input(self, name: str, type: TensorType) -> Value:
        """Append a graph input."""
        value = Value(self, self.fresh_name(name), type)
        self.inputs.append(value)
        self._touch()
        return value

    def remove_input(self, value: Value) -> None:
        """Remove a graph input that nothing uses. The caller mends the owner's operands."""
        if value.uses or value.is_output:
            raise InvalidIR(f"input '{value.name}' is still in use")
        self.inputs.remove(value)
        self._names.pop(value.name, None)
        self._touch()

    def constant(self, array: Tensor | Any, name: str = "c") -> Value:
        """A constant value; it belongs to the graph as long as something uses it."""
        tensor = array if isinstance(array, Tensor) else Tensor(array)
        return Value(self, self.fresh_name(name), tensor.type, tensor=tensor)

    def set_outputs(self, outputs: Iterable[Value]) -> None:
        """Say what the graph returns."""
        self.outputs = tuple(outputs)
        self._touch()

    def add(
        self,
        op: Op,
        inputs: Sequence[Value | None] = (),
        *,
        names: Sequence[str] = (),
        before: Node | None = None,
        regions: Sequence[Graph] = (),
        loc: Loc | None = None,
    ) -> Node:
        """Append a node, or insert it before another; infers the types of its outputs.

        Args:
            op: the operator.
            inputs: operands, values of this graph; trailing absent ones may be left out.
            names: wanted names of the outputs; made unique.
            before: the node to insert before.
            regions: nested graphs, which the node takes over.
            loc: provenance.

        Raises:
            InferenceError: the operands do not fit the operator; nothing was added.
        """
        node = Node(self, op, (), tuple(regions), loc or Loc())
        types = infer_types(op, inputs, node.regions)
        node.outputs = tuple(
            Value(self, self.fresh_name(names[i] if i < len(names) and names[i] else op.name.lower()), t, node) for i, t in enumerate(types)
        )
        for value in node.outputs:
            value.type = _name_fresh_dims(value)
        for region in node.regions:
            region.owner = node
        self._link(node, before)
        self.set_inputs(node, inputs)
        _follow_content(node)
        return node

    def set_inputs(self, node: Node, inputs: Sequence[Value | None]) -> None:
        """Replace the operands of a node. Types are not inferred again: the new operands must have equal types."""
        for i, old in enumerate(node.inputs):
            if old is not None:
                old.uses.pop((node, i), None)
        node.inputs = tuple(inputs)
        for i, new in enumerate(node.inputs):
            if new is not None:
                new.uses[node, i] = None
        self._touch()

    def refresh(self, node: Node) -> bool:
        """Infer a node's output types and contents again, after its operands became better known; says whether a type changed.

        A dimension that inference does not find keeps what it was.
        """
        changed = False
        for value, found in zip(node.outputs, infer_types(node.op, node.inputs, node.regions), strict=True):
            kept = [old if any("?" in s for s in symbols(new)) else new for old, new in zip(value.type.shape, found.shape, strict=True)]
            if tuple(kept) != value.type.shape:
                value.type = TensorType(found.dtype, tuple(kept))
                changed = True
        if changed:
            self._touch()
        _follow_content(node)
        return changed

    def replace_all_uses(self, old: Value, new: Value) -> None:
        """Let every user of `old`, graph outputs included, read `new` instead.

        Where a dimension of `old` was decided by data, it is what it is in `new` from now on, everywhere in the graph.
        """
        for node, _ in list(old.uses):
            self.set_inputs(node, [new if v is old else v for v in node.inputs])
        if old.is_output:
            self.outputs = tuple(new if v is old else v for v in self.outputs)
        if sizes := _renamed_dims(old.type, new.type):
            self._bind(sizes)
        self._touch()

    def rename(self, value: Value, name: str) -> None:
        """Give a value a name; whoever held it before gets another one."""
        if value.name != name:
            self._names.pop(value.name, None)
            other = self._names.get(name)
            if other is not None:
                other.name = self.fresh_name(name)
                self._names[other.name] = other
            value.name = name
            self._names[name] = value
            self._touch()

    def remove(self, node: Node) -> None:
        """Remove a node.

        Raises:
            InvalidIR: one of its outputs is still used; the message names the user.
        """
        for out in node.outputs:
            if out.uses or out.is_output:
                user = next(iter(out.uses))[0].describe() if out.uses else "the graph's outputs"
                raise InvalidIR(f"cannot remove {node.describe()}: '{out.name}' is used by {user}")
        self.set_inputs(node, ())
        if node.prev is not None:
            node.prev.next = node.next
        else:
            self._first = node.next
        if node.next is not None:
            node.next.prev = node.prev
        else:
            self._last = node.prev
        for out in node.outputs:
            self._names.pop(out.name, None)
        self._count -= 1
        self._touch()

    def move_before(self, node: Node, before: Node) -> None:
        """Move a node to the place just before another one of the same graph."""
        if node is before:
            return
        if node.prev is not None:
            node.prev.next = node.next
        else:
            self._first = node.next
        if node.next is not None:
            node.next.prev = node.prev
        else:
            self._last = node.prev
        self._count -= 1
        self._link(node, before)
        self._touch()

    def fresh_name(self, base: str) -> str:
        """`base`, or `base_1`, `base_2`, ... if that is taken; reserved from now on."""
        name = base
        while name in self._names:
            self._suffixes[base] = self._suffixes.get(base, 0) + 1
            name = f"{base}_{self._suffixes[base]}"
        self._names[name] = None
        return name

    def copy(self, sizes: Mapping[str, Dim] | None = None, name: str | None = None) -> Graph:
        """A copy that shares constants, with dimensions bound to `sizes` and types inferred again.

        Raises:
            InferenceError: the sizes do not fit the model; the message names the node.
        """
        sizes, result, mapped = dict(sizes or {}), Graph(name or self.name), dict[Value, Value]()
        for value in self.inputs:
            shape = tuple(bind(d, sizes) for d in value.type.shape)
            mapped[value] = result.add_input(value.name, TensorType(value.type.dtype, shape))
        for node in self:
            new = copy_node(node, result, mapped, sizes)
            for before, after in zip(node.outputs, new.outputs, strict=True):
                sizes |= _renamed_dims(before.type, after.type)
        result.set_outputs(_mapped(v, result, mapped) for v in self.outputs)
        return result

    # -- inside

    def _bind(self, sizes: Mapping[str, Dim]) -> None:
        """Put in sizes of dimensions that only had names so far, here and in nested graphs."""
        for graph in self.graphs():
            for value in [*graph.inputs, *(out for node in graph for out in node.outputs)]:
                if not value.type.is_static:
                    value.type = TensorType(value.type.dtype, tuple(bind(d, sizes) for d in value.type.shape))
            for node in graph:
                node.op = node.op.bind(sizes)

    def _link(self, node: Node, before: Node | None) -> None:
        node.graph, node.next = self, before
        node.prev = before.prev if before is not None else self._last
        if node.prev is not None:
            node.prev.next = node
        else:
            self._first = node
        if before is not None:
            before.prev = node
        else:
            self._last = node
        self._count += 1

    def _touch(self) -> None:
        graph: Graph | None = self
        while graph is not None:
            graph._edits += 1
            graph = graph.owner.graph if graph.owner is not None else None

    def __repr__(self) -> str:
        return f"<Graph '{self.name}': {len(self.inputs)} inputs, {len(self)} nodes, {len(self.outputs)} outputs>"


def copy_node(
    node: Node, graph: Graph, mapped: dict[Value, Value], sizes: Mapping[str, Dim] | None = None, before: Node | None = None
) -> Node:
    """Copy `node` (regions too) into `graph`, reading operands through `mapped` and entering its outputs there."""
    inputs = [v if v is None else _mapped(v, graph, mapped) for v in node.inputs]
    regions = [r.copy(sizes) for r in node.regions]
    names = [o.name for o in node.outputs]
    try:
        new = graph.add(node.op.bind(sizes or {}), inputs, names=names, regions=regions, loc=node.loc, before=before)
    except InferenceError as error:
        raise InferenceError(str(error), where=node.describe()) from error
    mapped.update(zip(node.outputs, new.outputs, strict=True))
    return new


def infer_types(op: Op, inputs: Sequence[Value | None], regions: Sequence[Graph] = ()) -> tuple[TensorType, ...]:
    """Output types of `op` on these operands; arity is checked against the operator's schema."""
    types = [v.type if v is not None else None for v in inputs]
    if op.has_regions:
        return op.infer_regions(types, regions)
    formals = op.operands()
    variadic = bool(formals) and formals[-1].variadic
    if len(types) > len(formals) and not variadic:
        raise InferenceError(f"{op.name} takes at most {len(formals)} operands, not {len(types)}")
    for i, formal in enumerate(formals):
        if not formal.optional and not formal.variadic and (i >= len(types) or types[i] is None):
            raise InferenceError(f"{op.name} needs operand '{formal.name}'")
    return tuple(op.infer(*types))


def _mapped(value: Value, graph: Graph, mapped: dict[Value, Value]) -> Value:
    if value not in mapped:
        if value.tensor is None:
            raise InvalidIR(f"'{value.name}' is read before it is defined")
        mapped[value] = graph.constant(value.tensor, value.name)
    return mapped[value]


def _followed(type: TensorType) -> bool:
    return type.dtype.kind in ("int", "uint", "bool") and type.rank <= 1 and type.is_static and type.size <= CONTENT_LIMIT


def _follow_content(node: Node) -> None:
    """Work out the symbolic contents of small integer outputs, e.g. of `Shape` and arithmetic on it."""
    if not node.op.symbolic or not all(_followed(o.type) for o in node.outputs):
        return
    if hasattr(node.op, "content_of"):  # reads types, not contents: Shape, Size
        results = node.op.content_of(*(v.type for v in node.present_inputs))
    else:
        contents = [v.content if v is not None else None for v in node.inputs]
        if any(c is None for c, v in zip(contents, node.inputs, strict=True) if v is not None):
            return
        try:
            results = node.op.evaluate_symbolic(*contents)
        except (TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError):
            return  # arithmetic that symbols do not have, such as a comparison: contents stay unknown
    for value, content in zip(node.outputs, results, strict=True):
        content = np.asarray(content, dtype=object)
        value._content = content.reshape(value.type.static_shape) if all(_holds(value.type, d) for d in content.flat) else None


def _holds(type: TensorType, element: Any) -> bool:
    """Whether an element of a content is one of the value: an integer in range (arithmetic on contents does not wrap), or symbolic."""
    if isinstance(element, SymDim):
        return True
    if not isinstance(element, (int, np.integer, bool, np.bool_)):
        return False
    kind = type.dtype.numpy
    return kind.kind not in "iu" or int(np.iinfo(kind).min) <= int(element) <= int(np.iinfo(kind).max)


def _renamed_dims(before: TensorType, after: TensorType) -> dict[str, Dim]:
    """What the data-dependent dimensions of a value are called, or turned out to be, in a copy of it."""
    pairs = zip(before.shape, after.shape, strict=False)
    return {
        repr(old): new for old, new in pairs if isinstance(old, SymDim) and old != new and symbols(old) == {repr(old)} and "?" in repr(old)
    }


def _name_fresh_dims(value: Value) -> TensorType:
    """Replace the placeholders `?0`, `?1` of data-dependent dimensions by names that are unique in the graph."""
    if not any(s.startswith("?") for d in value.type.shape for s in symbols(d)):
        return value.type
    prefix = re.sub(r"[^\w.]", "_", value.name)
    prefix = prefix if prefix[:1].isalpha() or prefix[:1] == "_" else f"_{prefix}"
    names = {s: symbol(f"{prefix}{s}") for d in value.type.shape for s in symbols(d) if s.startswith("?")}
    return TensorType(value.type.dtype, tuple(bind(d, names) for d in value.type.shape))
