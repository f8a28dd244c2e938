"""What a kernel is, independent of names: the input of lowering, and the key under which its object is cached."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from lepton_compiler.backends.tvm.carriers import codes
from lepton_compiler.backends.tvm.choice import ANALYTIC, Choice
from lepton_compiler.backends.tvm.sum_bounds import ALL_BITS, sum_bits_of
from lepton_compiler.backends.tvm.value_ranges import bounded_operands
from lepton_compiler.backends.tvm.window_packing import lanes_of_few_windows
from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ir.op import Op
from lepton_compiler.ir.types import TensorType
from lepton_compiler.ops.control import Fused
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
        scalars: one-element constants that become immediates, by value number; codes where the type has a carrier.
        steps: the operators in order.
        outputs: the values that the kernel writes.
        shares: whether an output may lie over an input of the same size (element-wise kernels).
        in_windows: weights of products of 8-bit integers that few windows cover, each with the sums in a vector for which that is so, and
            whether signs are apart then (`window_packing`); no part of the structure.
        sum_bits: bits that hold the sums of its integer convolution, with the sign, as far as its weights tell (`sum_bounds`);
            no part of the structure.
        bounded: values that are quantized to 8 bits, and whose quotients are known to be far from what int32 does not hold (`value_ranges`);
            no part of the structure.
        choice: what tuning chose in place of the analysis.
        kind: what the kernel is as a whole, where a pass made it one that only some backends take (`Fused.kind`).
    """

    types: tuple[TensorType, ...]
    inputs: int
    constants: frozenset[int]
    scalars: tuple[tuple[int, bool | int | float], ...]
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]
    shares: bool = False
    in_windows: frozenset[tuple[int, int, bool]] = frozenset()
    sum_bits: int = ALL_BITS
    bounded: frozenset[int] = frozenset()
    choice: Choice = ANALYTIC
    kind: str = ""

    @property
    def label(self) -> str:
        """A readable name: what it is, or the operators in order, shortened."""
        if self.kind:
            return self.kind
        names = [s.op.name.lower() for s in self.steps]
        return "_".join(names if len(names) <= 4 else [*names[:3], f"{len(names) - 3}more"])

    def key(self, target: Target) -> str:
        """Content hash: structure, choices, types, immediates, target, and the code that lowers it."""
        machine = (
            target.arch,
            target.triple,
            target.cpu,
            target.features,
            target.vector_bits,
            target.vector_registers,
            target.caches,
            target.extensions,
            target.small,
        )
        windows = sorted((k, apart) for k, lanes, apart in self.in_windows if lanes == target.lanes(32))
        facts = [self.sum_bits, windows, sorted(self.bounded)] if target.arch == "x86_64" else []
        return hashlib.sha256(f"{self._parts()!r}{self.choice!r}{facts!r}{machine!r}{_version(target.backend)}".encode()).hexdigest()[:20]

    @property
    def structure(self) -> str:
        """Content hash of what is computed, whatever the machine, the schedule and the choices: the name of the kernel in a tuning database."""
        return hashlib.sha256(repr(self._parts()).encode()).hexdigest()[:20]

    def _parts(self) -> tuple[object, ...]:
        parts = (self.types, self.inputs, sorted(self.constants), self.scalars, self.steps, self.outputs, self.shares)
        return (*parts, self.kind) if self.kind else parts


@cache
def _version(backend: str) -> str:
    """Hash of the sources that make kernels and of TVM's version: a changed schedule never meets an old object.

    What makes kernels for GPUs counts for those only.
    """
    from importlib.metadata import version

    digest, here = hashlib.sha256(version("apache-tvm").encode()), Path(__file__).parent
    for path in sorted(here.rglob("*.py")):
        if backend == "cuda" or here / "cuda" not in path.parents:
            digest.update(path.read_bytes())
    return digest.hexdigest()


@cache
def schedule_version() -> str:
    """Hash of the sources that say what a `Choice` means, and of TVM's version: choices that were measured with others do not count."""
    from importlib.metadata import version

    here = Path(__file__).parent
    digest = hashlib.sha256(version("apache-tvm").encode())
    for path in sorted(
        [here / "choice.py", *(here / "schedules").glob("*.py"), *(here / "compute").glob("*.py"), here / "lower" / "winograd.py"]
    ):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def spec_of(node: Node, small: bool = False, gpu: bool = False) -> KernelSpec:
    """The kernel of a `Fused` node, or of a single node, of static types throughout; a `small` one keeps weights of integers as they are.

    For a `gpu` it is not found out what takes long and only processors want to know of such weights.
    """
    if isinstance(node.op, Fused):
        region = node.regions[0]
        spec = _number(list(zip(region.inputs, node.inputs, strict=True)), _constants(region), list(region), region.outputs, not gpu)
        spec = replace(spec, kind=node.op.kind)
    else:
        operands = [(v, v) for v in dict.fromkeys(node.present_inputs) if not _is_scalar(v)]
        spec = _number(operands, [v for v in dict.fromkeys(node.present_inputs) if _is_scalar(v)], [node], node.outputs, not gpu)
    return spec if small or gpu else replace(spec, sum_bits=sum_bits_of(node))


def chosen(spec: KernelSpec, choices: Mapping[str, Mapping[str, int]]) -> KernelSpec:
    """The kernel with the choices for its structure, if there are any.

    Raises:
        UsageError: they are no parameters of a kernel.
    """
    found = choices.get(spec.structure) if choices else None
    return replace(spec, choice=Choice.from_json(found)) if found else spec


def kernel_operands(node: Node) -> list[Value]:
    """The values that a kernel node reads, in the order of the kernel's inputs: operands, then constants of its region."""
    if node.op.name == "Fused":
        return [*node.present_inputs, *(v for v in _constants(node.regions[0]) if not _is_scalar(v))]
    return [v for v in dict.fromkeys(node.present_inputs) if not _is_scalar(v)]


def _constants(region: Graph) -> list[Value]:
    return region.constants


PACKED = ("ConvInteger", "MatMulInteger")
"""Operators whose kernels rearrange their weights, however small."""


def _is_scalar(value: Value) -> bool:
    """Whether a constant becomes an immediate: one element, unless it is the weight of a product of integers, which is packed."""
    if not value.is_constant or value.type.size != 1 or value.type.dtype.kind == "complex":
        return False
    return not any(node.op.name in PACKED and index == 1 for node, index in value.uses)


def _number(
    operands: Sequence[tuple[Value, Value | None]],
    constants: Sequence[Value],
    nodes: Sequence[Node],
    outputs: Sequence[Value],
    windows: bool,
) -> KernelSpec:
    """Number the values of a body: `operands` pairs its inputs with what feeds them; `windows`: look for weights in few windows."""
    numbers: dict[Value, int] = {inner: k for k, (inner, _) in enumerate(operands)}
    known = {k for k, (_, outer) in enumerate(operands) if outer is not None and outer.is_constant}
    for value in constants:
        if not _is_scalar(value):
            known.add(len(numbers))
            numbers[value] = len(numbers)
    inputs = len(numbers)
    scalars: list[tuple[int, bool | int | float]] = []
    for value in constants:
        if _is_scalar(value):
            scalars.append((len(numbers), codes(value.numpy().reshape(-1))[0].item()))
            numbers[value] = len(numbers)
    steps = []
    for node in nodes:
        reads = tuple(None if v is None else numbers[v] for v in node.inputs)
        for v in node.outputs:
            numbers[v] = len(numbers)
        steps.append(Step(node.op, reads, tuple(numbers[v] for v in node.outputs)))
    types = tuple(v.type for v in numbers)
    weights = dict(enumerate([*(outer or inner for inner, outer in operands), *(v for v in constants if not _is_scalar(v))]))
    spec = KernelSpec(types, inputs, frozenset(known), tuple(scalars), tuple(steps), tuple(numbers[v] for v in outputs))
    bounded = frozenset(numbers[v] for v in bounded_operands(nodes, dict(operands)))
    return replace(spec, shares=_may_share(spec), in_windows=_in_windows(spec, weights) if windows else frozenset(), bounded=bounded)


def _in_windows(spec: KernelSpec, values: Mapping[int, Value]) -> frozenset[tuple[int, int, bool]]:
    """The weights of products of 8-bit integers that few windows cover, by the sums in a vector."""
    operands = [
        (s.op, s.inputs[1]) for s in spec.steps if s.op.name in ("ConvInteger", "MatMulInteger") and getattr(s.op, "groups", 1) == 1
    ]
    weights = [(op, k, values[k].tensor) for op, k in operands if k is not None and k in spec.constants]
    found = [(k, lanes_of_few_windows(op, tensor)) for op, k, tensor in weights if tensor is not None]
    return frozenset((k, lanes, apart) for k, each in found for lanes, apart in each.items())


ELEMENTWISE_FAMILIES = frozenset({"unary", "activation", "binary", "cast", "lookup"})


def is_elementwise(op: Op) -> bool:
    """Whether each output element depends on the operand elements of the same (broadcast) index only."""
    return type(op).__module__.rpartition(".")[2] in ELEMENTWISE_FAMILIES


def _may_share(spec: KernelSpec) -> bool:
    shape = spec.types[spec.outputs[0]].shape
    produced = [spec.types[o].shape for s in spec.steps for o in s.outputs]
    return len(spec.outputs) == 1 and all(is_elementwise(s.op) for s in spec.steps) and all(s == shape for s in produced)
