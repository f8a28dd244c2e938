"""What an artefact looks like from outside: its tensors, and the dimensions of which it holds several sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lepton_compiler.backends.tvm.package.names import identifiers
from lepton_compiler.backends.tvm.program import Program, stored_type
from lepton_compiler.ir.graph import Graph, Value
from lepton_compiler.ir.types import DType


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
class Interface:
    """Everything that the header, the source and the manifest say about the outside."""

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    dimensions: tuple[Dimension, ...]

    @staticmethod
    def of(name: str, dimensions: Sequence[str], graphs: Sequence[Graph], sizes: Sequence[tuple[int, ...]]) -> Interface:
        """The interface of graphs that differ in sizes only."""
        first = graphs[0]
        fields = identifiers([*(v.name for v in first.inputs), *(f"dim_{d}" for d in dimensions)])
        inputs = _ports([g.inputs for g in graphs], fields)
        outputs = _ports([g.outputs for g in graphs], identifiers([v.name for v in first.outputs]))
        choices = [Dimension(d, fields[len(inputs) + k], tuple(sorted({chosen[k] for chosen in sizes}))) for k, d in enumerate(dimensions)]
        return Interface(name, inputs, outputs, tuple(choices))


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
