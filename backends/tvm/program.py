"""The program of an artefact: kernel calls, copies, branches and loops over buffers with known life spans."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from lepton_compiler.analysis.layouts import offset_of
from lepton_compiler.backends.tvm.capabilities import computes_nothing, is_view, joins
from lepton_compiler.backends.tvm.kernels import Kernel, KernelParameter
from lepton_compiler.backends.tvm.spec import KernelSpec, kernel_operands
from lepton_compiler.backends.tvm.weights import WeightStore
from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ir.tensor import Tensor
from lepton_compiler.ir.types import TensorType
from lepton_compiler.states import States


@dataclass(eq=False)
class Buffer:
    """A block of memory. `index` counts within its kind; the life span is in program steps, for the arena."""

    kind: Literal["input", "output", "arena", "weight"]
    index: int
    size: int
    name: str
    start: int = 0
    end: int = 0


@dataclass(frozen=True)
class Ref:
    """An address: a buffer, a constant offset, and per enclosing loop variable a stride in bytes."""

    buffer: Buffer
    offset: int = 0
    strides: tuple[tuple[str, int], ...] = ()

    def moved(self, offset: int, variable: str = "", stride: int = 0) -> Ref:
        """The address `offset + variable * stride` bytes further on."""
        return Ref(self.buffer, self.offset + offset, (*self.strides, (variable, stride)) if variable else self.strides)


@dataclass(frozen=True)
class Call:
    """Run a kernel on these addresses."""

    kernel: Kernel
    arguments: tuple[Ref, ...]
    node: Node


@dataclass(frozen=True)
class Copy:
    """Move `size` bytes."""

    target: Ref
    source: Ref
    size: int


@dataclass(frozen=True)
class SetCounter:
    """Store a loop variable as int64."""

    target: Ref
    variable: str


@dataclass(frozen=True)
class Branch:
    """`if (*condition) then else other`."""

    condition: Ref
    then: tuple[Statement, ...]
    other: tuple[Statement, ...]
    node: Node


@dataclass(frozen=True)
class Repeat:
    """`for (variable = 0; variable < count && *condition; ++variable)`; either bound may be missing."""

    variable: str
    count: int | Ref | None
    condition: Ref | None
    body: tuple[Statement, ...]
    node: Node


@dataclass(frozen=True)
class Clear:
    """Set `size` bytes to zero."""

    target: Ref
    size: int


@dataclass(frozen=True)
class SetSize:
    """Report the size of an output along an axis: a number, or an int64 at an address."""

    output: int
    axis: int
    size: int | Ref


@dataclass(frozen=True)
class Stop:
    """Give up: the node cannot be computed."""

    node: Node


Statement = Call | Copy | Clear | SetCounter | SetSize | Branch | Repeat | Stop


@dataclass
class Program:
    """Statements, those that set states to what they are at first, and arena buffers with life spans."""

    statements: tuple[Statement, ...] = ()
    reset: tuple[Statement, ...] = ()
    buffers: list[Buffer] = field(default_factory=list)


def build_program(
    graph: Graph,
    kernels: dict[Node, tuple[KernelSpec, Kernel]],
    weights: WeightStore,
    reported: Collection[int] = (),
    threads: int = 1,
    states: States | None = None,
    alignment: int = 1,
) -> Program:
    """Turn a legal graph into a program.

    Args:
        graph: the graph.
        kernels: of every node that is not a view or control flow.
        weights: where constants go.
        reported: outputs whose sizes each run reports even though they are fixed in this graph.
        threads: that may work on a kernel at the same time.
        states: pairs of outputs and inputs that stay in the arena.
        alignment: bytes that addresses given to kernels are multiples of; what lies elsewhere is copied.
    """
    return _Builder(kernels, weights, reported, threads, alignment).build(graph, states or States())


class _Builder:
    """One walk over the graph in order of execution; `time` counts statements, for life spans."""

    def __init__(
        self,
        kernels: dict[Node, tuple[KernelSpec, Kernel]],
        weights: WeightStore,
        reported: Collection[int],
        threads: int,
        alignment: int,
    ) -> None:
        self.kernels, self.weights, self.reported, self.threads, self.alignment = kernels, weights, reported, threads, alignment
        self.program, self.time, self.loops = Program(), 0, 0
        self.places: dict[Value, Ref] = {}
        self.wanted: dict[Value, Ref] = {}
        self.joined: dict[Value, tuple[Value, int]] = {}

    def build(self, graph: Graph, states: States) -> Program:
        pairs = states.pairs(graph)
        kept = self.keep(graph, pairs, states)
        for k, value in enumerate(v for v in graph.inputs if v not in self.places):
            self.places[value] = Ref(Buffer("input", k, value.type.nbytes, value.name))
        shown = [value for value in graph.outputs if value.name not in states.inputs]
        ports = {value: Ref(Buffer("output", k, stored_type(value).nbytes, value.name)) for k, value in enumerate(shown)}
        statements = self.body(graph, [ports.get(value) for value in graph.outputs])
        statements += self.advance([output for output, _ in pairs], kept)
        for k, value in enumerate(shown):
            statements += self.sizes(k, value)
        for place in kept:
            place.buffer.end = self.time + 1
        self.program.statements = tuple(statements)
        return self.program

    def keep(self, graph: Graph, pairs: Sequence[tuple[Value, Value]], states: States) -> list[Ref]:
        """Places of states, which nothing else ever uses. A kernel writes there itself if nobody reads the old value any more."""
        last, order = _last_uses(graph), {node: k for k, node in enumerate(graph)}
        places, reset = [], list[Statement]()
        for output, value in pairs:
            place = self.places[value] = self.new(value.type.nbytes, value.name)
            initial, size = states.first(value), value.type.nbytes
            plain = not initial.tobytes().strip(b"\0")
            reset.append(Clear(place, size) if plain else Copy(place, self.constant(initial, f"{value.name}.initial"), size))
            root = _root(output)
            producer = root.producer if root.type.nbytes == size else None
            if producer is not None and order.get(producer, -1) > last.get(value, -1) and not joins(producer):
                self.wanted.setdefault(root, place)
            places.append(place)
        self.program.reset = tuple(reset)
        return places

    def sizes(self, index: int, value: Value) -> list[SetSize]:
        """Report the sizes of an output of which data decides some, or that differ between the sizes compiled for."""
        node = value.producer
        sized = node is not None and node.op.name == "Sized"
        if not sized and index not in self.reported:
            return []
        given = dict(zip(node.op.attributes()["axes"], node.inputs[1:], strict=True)) if node is not None and sized else {}
        known = {axis: self.operand(size) for axis, size in given.items() if size is not None}
        return [SetSize(index, axis, known.get(axis, size)) for axis, size in enumerate(stored_type(value).static_shape)]

    def body(self, graph: Graph, targets: Sequence[Ref | None]) -> list[Statement]:
        """Statements of a graph whose inputs have places; its outputs end up at `targets`, where given."""
        for value, target in zip(graph.outputs, targets, strict=True):
            root = _root(value)
            whole = root.type.nbytes == stored_type(value).nbytes
            if target is not None and whole and root not in self.wanted and root.producer is not None:
                self.wanted[root] = target
        self.joined |= _parts(graph)
        last = _last_uses(graph)
        statements: list[Statement] = []
        for position, node in enumerate(graph):
            statements += self.node(node, position, last)
        for value, target in zip(graph.outputs, targets, strict=True):
            if target is not None and (source := self.read(value)) != target:
                statements.append(self.copy(target, source, stored_type(value).nbytes))
        return statements

    def node(self, node: Node, position: int, last: dict[Value, int]) -> list[Statement]:
        match node.op.name:
            case _ if is_view(node):
                assert node.inputs[0] is not None
                self.places[node.output] = self.read(node.inputs[0]).moved(offset_of(node) or 0)
                return []
            case _ if joins(node):
                self.places[node.output] = self.wanted[node.output]
                return []
            case "If":
                return self.branch(node)
            case "Scan":
                return self.scan(node)
            case "Loop":
                return self.loop(node)
            case "Fail":
                self.places[node.output] = self.wanted.get(node.output) or self.new(0, node.output.name)
                return [Stop(node)]
        if computes_nothing(node):
            self.places.update({v: self.wanted.get(v) or self.new(0, v.name) for v in node.outputs})
            return []
        return self.aligned(self.call(node, position, last))

    def aligned(self, call: Call) -> list[Statement]:
        """The call, with copies of arguments whose addresses are not aligned before it, or after it."""
        before: list[Statement] = []
        after: list[Statement] = []
        arguments = list(call.arguments)
        for k, (place, parameter) in enumerate(zip(call.arguments, call.kernel.parameters, strict=True)):
            if all(n % self.alignment == 0 for n in (place.offset, *(stride for _, stride in place.strides))):
                continue
            arguments[k] = spare = self.new(parameter.type.nbytes, f"{call.node.output.name}.aligned{k}")
            if parameter.kind == "output":
                after.append(self.copy(place, spare, parameter.type.nbytes))
            else:
                before.append(self.copy(spare, place, parameter.type.nbytes))
        for k in range(len(arguments)):
            self.touch(arguments[k])
        return [*before, Call(call.kernel, tuple(arguments), call.node), *after] if before or after else [call]

    def call(self, node: Node, position: int, last: dict[Value, int]) -> Call:
        spec, kernel = self.kernels[node]
        operands = kernel_operands(node)
        self.time += 1
        places: dict[int, Ref] = {}
        for k, value in enumerate(operands):
            if value.tensor is None:
                places[k] = self.read(value)
        shared = self.shared_place(node, spec, operands, position, last)
        results = [self.part(v) or self.wanted.get(v) or shared or self.new(v.type.nbytes, v.name) for v in node.outputs]
        for value, place in zip(node.outputs, results, strict=True):
            self.places[value] = place
            self.touch(place)
        arguments = [self.argument(p, operands, places, results, node) for p in kernel.parameters]
        return Call(kernel, tuple(arguments), node)

    def part(self, value: Value) -> Ref | None:
        """The place of a value in the result of the `Concat` that joins it to others; the first of them makes room for all."""
        if value not in self.joined:
            return None
        whole, offset = self.joined[value]
        if whole not in self.wanted:
            self.wanted[whole] = self.new(whole.type.nbytes, whole.name)
        return self.wanted[whole].moved(offset)

    def argument(
        self, parameter: KernelParameter, operands: Sequence[Value], places: dict[int, Ref], results: Sequence[Ref], node: Node
    ) -> Ref:
        match parameter.kind:
            case "output":
                return results[parameter.index]
            case "workspace":
                return self.new(parameter.type.nbytes, f"{node.output.name}.workspace")
            case "scratch":
                return self.new(parameter.stride * self.kernels[node][1].tasks(self.threads), f"{node.output.name}.scratch")
            case "packed":
                assert parameter.packed is not None
                return self.weight(operands[parameter.index], parameter.packed.function, parameter.packed.arguments)
            case "table":
                return self.constant(np.frombuffer(parameter.table, parameter.type.dtype.numpy), f"{node.output.name}.table")
        value = operands[parameter.index]
        return self.weight(value, "", ()) if value.tensor is not None else places[parameter.index]

    def shared_place(self, node: Node, spec: KernelSpec, operands: Sequence[Value], position: int, last: dict[Value, int]) -> Ref | None:
        """The place of an operand that dies here and may be overwritten element by element."""
        if not spec.shares:
            return None
        for value in operands:
            root = _root(value)
            place = self.places.get(value)
            mine = root.producer is not None and root.producer.graph is node.graph
            if place is None or not mine or place.buffer.kind != "arena" or place.strides or last.get(root) != position:
                continue
            if value.type.shape == node.output.type.shape and value.type.nbytes == node.output.type.nbytes == place.buffer.size:
                return place
        return None

    def branch(self, node: Node) -> list[Statement]:
        condition, *captures = node.inputs
        assert condition is not None
        self.time += 1
        results = [self.wanted.get(v) or self.new(v.type.nbytes, v.name) for v in node.outputs]
        where = self.operand(condition)
        sides = []
        for region in node.regions:
            self.bind(region, captures)
            sides.append(tuple(self.body(region, results)))
        self.time += 1
        for value, place in zip(node.outputs, results, strict=True):
            self.places[value] = place
            self.touch(place)
        return [Branch(where, sides[0], sides[1], node)]

    def scan(self, node: Node) -> list[Statement]:
        op, region = node.op, node.regions[0]
        carried, scans = op.attributes()["carried"], op.attributes()["num_scan_inputs"]
        states, sequences, captures = node.inputs[:carried], node.inputs[carried : carried + scans], node.inputs[carried + scans :]
        sequence = sequences[0]
        assert sequence is not None
        length = sequence.type.static_shape[0]
        variable = self.variable()
        opening = self.time
        self.time += 1
        begin, places = self.states(states, node.outputs[:carried])
        slices = [
            self.element(self.operand(s), s, variable, bool(d))
            for s, d in zip(sequences, _directions(op, "input_directions", scans), strict=True)
            if s
        ]
        outputs = node.outputs[carried:]
        directions = _directions(op, "output_directions", len(outputs))
        targets = [self.wanted.get(v) or self.new(v.type.nbytes, v.name) for v in outputs]
        steps = [self.element(t, v, variable, bool(d)) for t, v, d in zip(targets, outputs, directions, strict=True)]
        self.place_inputs(region, [*places, *slices], captures)
        body = self.body(region, [*([None] * carried), *steps]) if length else []
        body += self.advance(region.outputs[:carried], places) if length else []
        return self.finish(begin, Repeat(variable, length, None, tuple(body), node), opening, [*places, *targets], node)

    def loop(self, node: Node) -> list[Statement]:
        region, carried = node.regions[0], node.op.attributes()["carried"]
        trip, condition, *rest = node.inputs
        states, captures = rest[:carried], rest[carried:]
        variable = self.variable()
        opening = self.time
        self.time += 1
        begin, places = self.states(states, node.outputs[:carried])
        counter = self.new(8, f"{node.output.name}.iteration")
        flag = self.new(1, f"{node.output.name}.condition")
        rows = node.op.attributes()["rows"]
        begin.append(self.copy(flag, self.operand(condition) if condition else self.constant(np.array(True), "true"), 1))
        count: int | Ref | None = None
        if trip is not None:
            count = int(trip.numpy().reshape(-1)[0]) if trip.is_constant else self.operand(trip)
        outputs = node.outputs[carried:]
        targets = [self.wanted.get(v) or self.new(v.type.nbytes, v.name) for v in outputs]
        if rows is not None:
            begin += [self.clear(t, v.type.nbytes) for t, v in zip(targets, outputs, strict=True)]
        steps = [self.element(t, v, variable, False) for t, v in zip(targets, outputs, strict=True)]
        self.place_inputs(region, [counter, flag, *places], captures)
        body: list[Statement] = [SetCounter(counter, variable)]
        body += self.body(region, [*([None] * (1 + carried)), *steps])
        body += self.advance(region.outputs[: 1 + carried], [flag, *places])
        return self.finish(begin, Repeat(variable, count, flag, tuple(body), node), opening, [*places, *targets, counter, flag], node)

    def states(self, initial: Sequence[Value | None], results: Sequence[Value]) -> tuple[list[Statement], list[Ref]]:
        """Buffers for what a loop carries, set to the initial values."""
        begin: list[Statement] = []
        places = []
        for value, result in zip(initial, results, strict=True):
            assert value is not None
            place = self.wanted.get(result) or self.new(result.type.nbytes, result.name)
            begin.append(self.copy(place, self.operand(value), value.type.nbytes))
            places.append(place)
        return begin, places

    def advance(self, produced: Sequence[Value], places: Sequence[Ref]) -> list[Statement]:
        """Carry the values over to the next iteration; those that are other states go through a copy first."""
        moves: list[tuple[Ref, Ref, int]] = []
        early: list[Statement] = []
        for value, place in zip(produced, places, strict=True):
            source = self.operand(value)
            if source == place:
                continue
            if any(source.buffer is other.buffer for other in places):
                spare = self.new(value.type.nbytes, f"{value.name}.previous")
                early.append(self.copy(spare, source, value.type.nbytes))
                source = spare
            moves.append((place, source, value.type.nbytes))
        return [*early, *(self.copy(*move) for move in moves)]

    def finish(self, begin: list[Statement], repeat: Repeat, opening: int, kept: Sequence[Ref], node: Node) -> list[Statement]:
        """Close a loop: whatever was alive before it and is used in it stays alive to its end."""
        self.time += 1
        for buffer in self.program.buffers:
            if buffer.start <= opening and buffer.end > opening:
                buffer.end = self.time
        for place in kept:
            self.touch(place)
        carried = node.op.attributes()["carried"]
        for value, place in zip(node.outputs, [*kept[:carried], *kept[carried : len(node.outputs)]], strict=True):
            self.places[value] = place
        return [*begin, repeat]

    def bind(self, region: Graph, operands: Sequence[Value | None]) -> None:
        """Let a region's inputs be the operands."""
        for inner, outer in zip(region.inputs, operands, strict=True):
            assert outer is not None
            self.places[inner] = self.operand(outer)

    def place_inputs(self, region: Graph, places: Sequence[Ref], captures: Sequence[Value | None]) -> None:
        for inner, place in zip(region.inputs, places, strict=False):
            self.places[inner] = place
        for inner, outer in zip(region.inputs[len(places) :], captures, strict=True):
            assert outer is not None
            self.places[inner] = self.operand(outer)

    def element(self, place: Ref, value: Value, variable: str, backwards: bool) -> Ref:
        """The slice of a sequence at the loop variable."""
        count = value.type.static_shape[0]
        step = value.type.nbytes // count if count else 0
        return place.moved((count - 1) * step, variable, -step) if backwards else place.moved(0, variable, step)

    def operand(self, value: Value) -> Ref:
        """Where a value is read, a weight included."""
        return self.weight(value, "", ()) if value.tensor is not None else self.read(value)

    def read(self, value: Value) -> Ref:
        if value.tensor is not None:
            return self.weight(value, "", ())
        place = self.places[value]
        self.touch(place)
        return place

    def touch(self, place: Ref) -> None:
        place.buffer.end = max(place.buffer.end, self.time)

    def copy(self, target: Ref, source: Ref, size: int) -> Copy:
        self.time += 1
        self.touch(target)
        self.touch(source)
        return Copy(target, source, size)

    def clear(self, target: Ref, size: int) -> Clear:
        self.time += 1
        self.touch(target)
        return Clear(target, size)

    def new(self, size: int, name: str) -> Ref:
        buffer = Buffer("arena", len(self.program.buffers), size, name, self.time, self.time)
        self.program.buffers.append(buffer)
        return Ref(buffer)

    def variable(self) -> str:
        self.loops += 1
        return f"i{self.loops}"

    def weight(self, value: Value, function: str, arguments: tuple[int, ...]) -> Ref:
        """The place of a constant in the weight blob, rearranged if asked; equal ones are stored once."""
        assert value.tensor is not None
        return self.store(value.tensor, value.name, function, arguments)

    def constant(self, array: np.ndarray, name: str) -> Ref:
        """The place of a constant that is no value of the graph."""
        return self.store(Tensor(array), name, "", ())

    def store(self, tensor: Tensor, name: str, function: str, arguments: tuple[int, ...]) -> Ref:
        offset = self.weights.place(tensor, function, arguments)
        return Ref(Buffer("weight", offset, tensor.type.nbytes, name, offset, offset))


def _directions(op: object, name: str, count: int) -> tuple[int, ...]:
    given = getattr(op, name, ()) or ()
    return tuple(given) if given else (0,) * count


def stored_type(value: Value) -> TensorType:
    """The type of the buffer that holds an output of the model: of the largest size, where data decides it."""
    if value.producer is not None and value.producer.op.name == "Sized":
        source = value.producer.inputs[0]
        assert source is not None
        return source.type
    return value.type


def _root(value: Value) -> Value:
    """The value whose bytes a chain of views shows."""
    while value.producer is not None and is_view(value.producer):
        source = value.producer.inputs[0]
        assert source is not None
        value = source
    return value


def _parts(graph: Graph) -> dict[Value, tuple[Value, int]]:
    """The values that are joined to others: to what, and at which offset in bytes."""
    found: dict[Value, tuple[Value, int]] = {}
    for node in graph:
        offset = 0
        for value in node.present_inputs if joins(node) else ():
            found[value] = node.output, offset
            offset += value.type.nbytes
    return found


def _last_uses(graph: Graph) -> dict[Value, int]:
    """For each value with bytes of its own, the position of the last node that reads it, or one past the end."""
    last: dict[Value, int] = {}
    count = 0
    for position, node in enumerate(graph):
        count += 1
        if not is_view(node):
            for value in node.present_inputs:
                last[_root(value)] = position
    for value in graph.outputs:
        for read in [value, *(value.producer.present_inputs if value.producer and value.producer.op.name == "Sized" else [])]:
            last[_root(read)] = count
    return last
