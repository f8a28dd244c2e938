"""What lowering rules work with: operands that can be read at an index, packed weights, workspaces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tvm import te, tirx

from lepton_compiler.errors import UnsupportedError
from lepton_compiler.ir.op import Op
from lepton_compiler.ir.types import DType, TensorType
from lepton_compiler.target import Target

Expr = Any
"""A `tvm.tirx.PrimExpr`; TVM carries no types."""

NATIVE_TYPES = frozenset({"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"})


@dataclass(frozen=True)
class Packed:
    """A weight operand in another arrangement: the packing function's name and arguments, and the resulting shape."""

    operand: int
    function: str
    arguments: tuple[int, ...]
    type: TensorType


@dataclass(frozen=True)
class Arg:
    """An operand of a rule: a TE tensor, or a number. `operand` is the kernel operand that it is, if it is one."""

    type: TensorType
    tensor: Any = None
    number: bool | int | float | None = None
    operand: int | None = None
    constant: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Static shape."""
        return self.type.static_shape

    @property
    def dtype(self) -> str:
        """TVM's name of the element type."""
        return self.type.dtype.name

    def __getitem__(self, index: Sequence[Expr]) -> Expr:
        if self.number is not None:
            return number(self.number, self.type.dtype)
        return self.tensor(*index)

    def at(self, index: Sequence[Expr]) -> Expr:
        """The element that numpy broadcasting puts at `index` of a shape of this rank or more."""
        if self.number is not None:
            return number(self.number, self.type.dtype)
        offset = len(index) - len(self.shape)
        return self.tensor(*(tirx.const(0, "int32") if d == 1 else index[offset + k] for k, d in enumerate(self.shape)))


@dataclass
class Context:
    """State of one kernel's lowering.

    Attributes:
        target: the machine.
        outputs: types of the results of the current operator.
        workspaces: TE tensors that become parameters of the kernel, for the arena.
        packed: placeholders of repacked weights.
    """

    target: Target
    outputs: tuple[TensorType, ...] = ()
    workspaces: list[Any] = field(default_factory=list)
    packed: dict[Packed, Any] = field(default_factory=dict)

    def pack(self, arg: Arg, function: str, *arguments: int) -> Any:
        """The weight `arg` rearranged at compile time by the packing function, as a placeholder."""
        assert arg.operand is not None and arg.constant
        from lepton_compiler.backends.tvm.lower.packing import PACKINGS

        shape = PACKINGS[function](np.broadcast_to(np.zeros((), arg.type.dtype.numpy), arg.shape), *arguments).shape
        packed = Packed(arg.operand, function, arguments, TensorType(arg.type.dtype, shape))
        if packed not in self.packed:
            self.packed[packed] = te.placeholder(shape, arg.dtype, f"packed{len(self.packed)}")
        return self.packed[packed]

    def tensor(self, arg: Arg) -> Any:
        """The operand as a TE tensor, a number spread over its shape included."""
        if arg.tensor is not None:
            return arg.tensor
        return te.compute(arg.shape, lambda *i: arg[i], "fill")

    def workspace(self, *tensors: Any) -> None:
        """Let intermediate tensors live in the arena."""
        self.workspaces += tensors


Rule = Callable[..., list[Any]]
RULES: dict[str, Rule] = {}


def lowers(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule `(ctx, op, *args) -> list of TE tensors` for the operators called `names`."""

    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return register


def number(value: bool | int | float, dtype: DType) -> Expr:
    """A constant expression of the given type."""
    if dtype.kind == "bool":
        return tirx.const(bool(value), "bool")
    return tirx.const(float(value) if dtype.is_float else int(value), dtype.name)


def compute(shape: Sequence[int], body: Callable[..., Expr], name: str) -> Any:
    """`te.compute`, for scalars too."""
    return te.compute(tuple(shape), body, name)


def unsupported(op: Op, reason: str) -> UnsupportedError:
    """The error of a rule that cannot lower this form of its operator."""
    return UnsupportedError(f"{op.name}: {reason}", hint="the evaluator and the ONNX backend can run it")


def wide(dtype: str) -> str:
    """The type in which arithmetic on `dtype` is done: float32 for float16."""
    return "float32" if dtype in ("float16", "bfloat16") else dtype
