"""What lowering rules work with: operands that can be read at an index, packed weights, workspaces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tvm import te, tirx

from lepton_compiler.backends.tvm.carriers import CARRIERS, carrier, codes
from lepton_compiler.backends.tvm.choice import ANALYTIC, Choice
from lepton_compiler.backends.tvm.naming import in_sequence, named
from lepton_compiler.backends.tvm.sum_bounds import ALL_BITS
from lepton_compiler.errors import UnsupportedError
from lepton_compiler.ir.op import Op
from lepton_compiler.ir.types import DType, TensorType, dtype
from lepton_compiler.target import FloatUnit, Target

Expr = Any
"""A `tvm.tirx.PrimExpr`; TVM carries no types."""


@dataclass(frozen=True)
class Packed:
    """A weight operand in another arrangement: the packing function's name and arguments, and the resulting shape."""

    operand: int
    function: str
    arguments: tuple[int, ...]
    type: TensorType


ZERO = tirx.const(0, "int32")
Read = Callable[["Arg", Sequence[Expr]], Expr]
Body = Callable[[Sequence[Expr], Read], Expr]


@dataclass(eq=False)
class Arg:
    """A value inside a kernel: a TE tensor, a number, or an element-wise expression that is not stored anywhere.

    Attributes:
        type: static type.
        tensor: the TE tensor, made from `body` when a rule asks for one.
        number: the constant; its code where the type has a carrier.
        body: the expression of the element at an index; operands are read through the second argument.
        operand: which kernel operand this is, if it is one.
        constant: whether that operand is a weight.
        uses: how many operators read it.
        bounded: whether its quotients are within the range of int32, by far, wherever it is quantized (`value_ranges`), on machines for which
            that makes a difference.
        stored: the weight operand that this value is a conversion of, element by element.
        in_windows: whether its products are exact in few windows (`window_packing`).
        signs_apart: whether signs and magnitudes of weights are apart in these.
        scales: where groups of these have scales: those, a weight operand too, and how many elements are a group.
    """

    type: TensorType
    tensor: Any = None
    number: bool | int | float | None = None
    body: Body | None = None
    operand: int | None = None
    constant: bool = False
    uses: int = 0
    in_windows: bool = False
    signs_apart: bool = False
    bounded: bool = False
    stored: Arg | None = None
    scales: tuple[Arg, int] | None = None

    @property
    def is_weight(self) -> bool:
        """Whether this is a weight operand that may be packed, as it is or under a conversion."""
        return self.stored is not None or (self.constant and self.operand is not None)

    @property
    def shape(self) -> tuple[int, ...]:
        """Static shape."""
        return self.type.static_shape

    @property
    def dtype(self) -> str:
        """TVM's name of the type that holds an element."""
        return carrier(self.type.dtype).name

    def __getitem__(self, index: Sequence[Expr]) -> Expr:
        if self.number is not None:
            return number(self.number, carrier(self.type.dtype))
        return self.tensor(*index)

    def at(self, index: Sequence[Expr]) -> Expr:
        """The element that numpy broadcasting puts at `index` of a shape of this rank or more."""
        return self[self.broadcast(index)]

    def broadcast(self, index: Sequence[Expr]) -> tuple[Expr, ...]:
        """The index of this value's element that numpy broadcasting puts at `index`."""
        offset = len(index) - len(self.shape)
        return tuple(ZERO if d == 1 else index[offset + k] for k, d in enumerate(self.shape))


def expression(arg: Arg, index: Sequence[Expr]) -> Expr:
    """The element of an unstored value, with a name bound for each inner value that is read more than once."""
    known: dict[tuple[int, tuple[int, ...]], Expr] = {}

    def read(a: Arg, at: Sequence[Expr]) -> Expr:
        position = a.broadcast(at)
        if a.body is None:
            return a[position]
        key = (id(a), tuple(map(id, position)))
        if key not in known:
            value = a.body(position, read)
            known[key] = named(value, lambda name: name) if a.uses > 1 else value
        return known[key]

    return in_sequence(lambda: read(arg, index))


@dataclass
class Context:
    """State of one kernel's lowering.

    Attributes:
        target: the machine.
        choice: what tuning chose for the kernel.
        sum_bits: bits that hold the sums of its integer convolution.
        outputs: types of the results of the current operator.
        workspaces: TE tensors that become parameters of the kernel, for the arena.
        private: those of them of which each thread has its own.
        packed: placeholders of repacked weights.
        stored: how many expressions have got a loop of their own.
        tables: constants that the kernel brings along, by content, and their placeholders.
        internal: intermediate tensors stay inside of the kernel, whose generator finds a place for them; those of procedures do not.
    """

    target: Target
    choice: Choice = ANALYTIC
    sum_bits: int = ALL_BITS
    outputs: tuple[TensorType, ...] = ()
    workspaces: list[Any] = field(default_factory=list)
    private: list[Any] = field(default_factory=list)
    packed: dict[Packed, Any] = field(default_factory=dict)
    stored: int = 0
    tables: dict[bytes, tuple[np.ndarray, Any]] = field(default_factory=dict)
    internal: bool = False

    def pack(self, arg: Arg, function: str, *arguments: int) -> Any:
        """The weight `arg`, as it is stored, rearranged at compile time by the packing function: a placeholder."""
        arg = arg.stored or arg
        assert arg.operand is not None and arg.constant
        from lepton_compiler.backends.tvm.packing import PACKINGS

        made = PACKINGS[function](np.broadcast_to(np.zeros((), arg.type.dtype.numpy), arg.shape), *arguments)
        packed = Packed(arg.operand, function, arguments, TensorType(dtype(made.dtype), made.shape))
        if packed not in self.packed:
            self.packed[packed] = te.placeholder(made.shape, carrier(packed.type.dtype).name, f"packed{len(self.packed)}")
        return self.packed[packed]

    def table(self, values: np.ndarray) -> Any:
        """A constant worked out here, which becomes a parameter of the kernel and a weight of the artefact."""
        key = f"{values.dtype}{values.shape}".encode() + values.tobytes()
        if key not in self.tables:
            self.tables[key] = values, te.placeholder(values.shape, values.dtype.name, f"table{len(self.tables)}")
        return self.tables[key][1]

    def tensor(self, arg: Arg) -> Any:
        """The value as a TE tensor: a number is spread over its shape, an expression gets a loop of its own."""
        if arg.tensor is None:
            read = expression if arg.body is not None else Arg.__getitem__
            arg.tensor = te.compute(arg.shape, lambda *i: read(arg, i), f"value{self.stored}")
            self.stored += 1  # schedules tell buffers apart by their names
        return arg.tensor

    def workspace(self, *tensors: Any) -> None:
        """Let intermediate tensors live in the arena."""
        self.workspaces += [t for t in tensors if not self.internal or isinstance(t.op, te.ExternOp)]

    def scratch(self, *tensors: Any) -> None:
        """Let intermediate tensors live in the arena, once per thread: an iteration of a parallel loop reads only what it wrote."""
        self.workspaces += tensors
        self.private += tensors


Rule = Callable[..., list[Any]]
Element = Callable[..., Expr]
RULES: dict[str, Rule] = {}
ELEMENTS: dict[str, Element] = {}
SPECIAL_ELEMENTS: dict[tuple[str, FloatUnit], Element] = {}


def lowers(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule `(ctx, op, *args) -> list of TE tensors` for the operators called `names`; the args are stored."""

    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return register


def element(*names: str) -> Callable[[Element], Element]:
    """Register a rule `(op, type, index, read, *args) -> expression` for element-wise operators."""

    def register(rule: Element) -> Element:
        ELEMENTS.update(dict.fromkeys(names, rule))
        return rule

    return register


def element_for(unit: FloatUnit, *names: str) -> Callable[[Element], Element]:
    """Register a rule for element-wise operators that replaces the general one on machines with such a floating-point unit."""

    def register(rule: Element) -> Element:
        SPECIAL_ELEMENTS.update({(name, unit): rule for name in names})
        return rule

    return register


def element_rule(name: str, target: Target) -> Element:
    """The rule of an element-wise operator on a machine."""
    return SPECIAL_ELEMENTS.get((name, target.float_unit), ELEMENTS[name])


def number(value: bool | int | float, dtype: DType) -> Expr:
    """A constant expression of the given type, or the code of the number where the type has a carrier."""
    if dtype.name in CARRIERS:
        return number(codes(np.full(1, value, dtype.numpy))[0].item(), carrier(dtype))
    if dtype.kind == "bool":
        return tirx.const(bool(value), "bool")
    return tirx.const(float(value) if dtype.is_float else int(value), dtype.name)


def compute(shape: Sequence[int], body: Callable[..., Expr], name: str) -> Any:
    """`te.compute`, for scalars too."""
    return te.compute(tuple(shape), body, name)


def identity(tensor: Any) -> tuple[int, int]:
    """Which tensor this is: TVM hashes all results of a stage alike, and scalar tensors cannot be compared."""
    return hash(tensor.op), int(tensor.value_index)


def unsupported(op: Op, reason: str) -> UnsupportedError:
    """The error of a rule that cannot lower this form of its operator."""
    return UnsupportedError(f"{op.name}: {reason}", hint="the evaluator and the ONNX backend can run it")


def wide(dtype: str) -> str:
    """The type in which arithmetic on `dtype` is done: float32 for float16."""
    return "float32" if dtype == "float16" else dtype
