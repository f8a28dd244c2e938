"""What an artefact looks like from outside: its tensors, and the dimensions of which it holds several sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lepton_compiler.backends.tvm.package.names import identifiers
from lepton_compiler.backends.tvm.program import Program, stored_type
from lepton_compiler.ir.graph import Graph, Value
from lepton_compiler.ir.types import DType, TensorType
from lepton_compiler.states import States


@dataclass(frozen=True)
class Variant:
    """The model for one choice of sizes: the size of each listed dimension, the legal graph, and its program."""

    sizes: tuple[int, ...]
    graph: Graph
    program: Program


@dataclass(frozen=True)
class Port:
    """One input or output.

    Attributes:
        name: in the model.
        field: in the C struct.
        dtype: element type.
        shape: the largest size of each dimension.
        loose: axes whose size varies between runs; for outputs, each run reports them.
    """

    name: str
    field: str
    dtype: DType
    shape: tuple[int, ...]
    loose: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements, the largest one."""
        count = 1
        for d in self.shape:
            count *= d
        return count

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]" + (" at most" if self.loose else "")


@dataclass(frozen=True)
class Dimension:
    """A dimension of which the artefact holds several sizes; `field` is the member of the input struct that chooses one."""

    name: str
    field: str
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class State:
    """A tensor that stays in the arena: the input that reads it, the output that sets it for the next call."""

    input: str
    output: str
    type: TensorType


@dataclass(frozen=True)
class Interface:
    """Everything that the header, the source and the manifest say about the outside."""

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    dimensions: tuple[Dimension, ...]
    states: tuple[State, ...] = ()

    @staticmethod
    def of(
        name: str, dimensions: Sequence[str], graphs: Sequence[Graph], sizes: Sequence[tuple[int, ...]], states: States | None = None
    ) -> Interface:
        """The interface of graphs that differ in sizes only, without the inputs and outputs that are states."""
        states = states or States()
        kept = states.pairs(graphs[0])
        readers = set(states.inputs.values())
        given = [[v for v in g.inputs if v.name not in readers] for g in graphs]
        made = [[v for v in g.outputs if v.name not in states.inputs] for g in graphs]
        fields = identifiers([*(v.name for v in given[0]), *(f"dim_{d}" for d in dimensions)])
        inputs = _ports(given, fields)
        outputs = _ports(made, identifiers([v.name for v in made[0]]))
        choices = [Dimension(d, fields[len(inputs) + k], tuple(sorted({chosen[k] for chosen in sizes}))) for k, d in enumerate(dimensions)]
        return Interface(name, inputs, outputs, tuple(choices), tuple(State(i.name, o.name, i.type) for o, i in kept))


def _ports(columns: Sequence[Sequence[Value]], fields: Sequence[str]) -> tuple[Port, ...]:
    return tuple(_port(alike, field) for alike, field in zip(zip(*columns, strict=True), fields, strict=False))


def _port(alike: Sequence[Value], field: str) -> Port:
    """The same tensor in each variant."""
    shapes = [stored_type(v).static_shape for v in alike]
    largest = tuple(map(max, zip(*shapes, strict=True)))
    loose = tuple(
        axis
        for axis, sizes in enumerate(zip(*shapes, strict=True))
        if len(set(sizes)) > 1 or not isinstance(alike[0].type.shape[axis], int)
    )
    return Port(alike[0].name, field, alike[0].type.dtype, largest, loose)
