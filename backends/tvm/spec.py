"""What a kernel is, independent of names: the input of lowering, and the key under which its object is cached."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ir.op import Op
from lepton_compiler.ir.types import TensorType
from lepton_compiler.target import Target


@dataclass(frozen=True)
class Step:
    """One operator of a kernel; operands and results are value numbers."""

    op: Op
    inputs: tuple[int | None, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class KernelSpec:
    """The body of a kernel with values numbered: inputs first, then scalars, then results in order.

    Attributes:
        types: type of every value.
        inputs: how many of the values are run-time operands.
        constants: which operands are weights, known when the artefact is built, and may be repacked.
        scalars: one-element constants that become immediates, by value number.
        steps: the operators in order.
        outputs: the values that the kernel writes.
        shares: whether an output may lie over an input of the same size (element-wise kernels).
    """

    types: tuple[TensorType, ...]
    inputs: int
    constants: frozenset[int]
    scalars: tuple[tuple[int, bool | int | float], ...]
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]
    shares: bool = False

    @property
    def label(self) -> str:
        """A readable name: the operators in order, shortened."""
        names = [s.op.name.lower() for s in self.steps]
        return "_".join(names if len(names) <= 4 else [*names[:3], f"{len(names) - 3}more"])

    def key(self, target: Target) -> str:
        """Content hash: structure, types, immediates, target, and the code that lowers it."""
        parts = (self.types, self.inputs, sorted(self.constants), self.scalars, self.steps, self.outputs, self.shares)
        machine = (target.arch, target.triple, target.cpu, target.features, target.vector_bits, target.vector_registers)
        return hashlib.sha256(f"{parts!r}{machine!r}{_version()}".encode()).hexdigest()[:20]


@cache
def _version() -> str:
    """Hash of this package's sources and of TVM's version: a changed schedule never meets an old object."""
    from importlib.metadata import version

    digest = hashlib.sha256(version("apache-tvm").encode())
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def spec_of(node: Node, constants: Iterable[int]) -> KernelSpec:
    """The kernel of a `Fused` node, or of a single node.

    Args:
        node: static types throughout.
        constants: indices of the node's operands that are weights.
    """
    if node.op.name == "Fused":
        region = node.regions[0]
        return _number(region, region.inputs, list(region), region.outputs, frozenset(constants))
    graph = Graph("kernel")
    mapped: dict[Value, Value] = {}
    for v in node.present_inputs:
        if v not in mapped:
            mapped[v] = graph.add_input(v.name, v.type)
    inner = graph.add(node.op, [None if v is None else mapped[v] for v in node.inputs], loc=node.loc)
    return _number(graph, graph.inputs, [inner], inner.outputs, frozenset(constants))


def kernel_operands(node: Node) -> list[Value]:
    """The operands of a kernel node in the order of the kernel's inputs."""
    return node.present_inputs if node.op.name == "Fused" else list(dict.fromkeys(node.present_inputs))


def _number(graph: Graph, inputs: Sequence[Value], nodes: Sequence[Node], outputs: Sequence[Value], constants: frozenset[int]) -> KernelSpec:
    numbers: dict[Value, int] = {v: i for i, v in enumerate(inputs)}
    scalars: list[tuple[int, bool | int | float]] = []
    extra: list[Value] = []
    for value in graph.constants:
        numbers[value] = len(numbers)
        if value.type.size == 1 and value.type.dtype.kind != "complex":
            scalars.append((numbers[value], value.numpy().reshape(-1)[0].item()))
        else:
            extra.append(value)
    if extra:
        raise ValueError("a kernel's region may hold scalar constants only")
    steps = []
    for node in nodes:
        operands = tuple(None if v is None else numbers[v] for v in node.inputs)
        for v in node.outputs:
            numbers[v] = len(numbers)
        steps.append(Step(node.op, operands, tuple(numbers[v] for v in node.outputs)))
    types = tuple(v.type for v in numbers)
    spec = KernelSpec(types, len(inputs), constants, tuple(scalars), tuple(steps), tuple(numbers[v] for v in outputs))
    return KernelSpec(types, len(inputs), constants, tuple(scalars), tuple(steps), spec.outputs, _may_share(spec))


ELEMENTWISE_FAMILIES = frozenset({"unary", "activation", "binary", "cast"})


def is_elementwise(op: Op) -> bool:
    """Whether each output element depends on the operand elements of the same (broadcast) index only."""
    return type(op).__module__.rpartition(".")[2] in ELEMENTWISE_FAMILIES


def _may_share(spec: KernelSpec) -> bool:
    shape = spec.types[spec.outputs[0]].shape
    produced = [spec.types[o].shape for s in spec.steps for o in s.outputs]
    return len(spec.outputs) == 1 and all(is_elementwise(s.op) for s in spec.steps) and all(s == shape for s in produced)


def immediate(value: np.ndarray) -> bool | int | float:
    """A one-element array as a Python number."""
    item: bool | int | float = value.reshape(-1)[0].item()
    return item
