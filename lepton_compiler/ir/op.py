"""The base of all operators: a frozen dataclass whose fields are its attributes.

The signature of `infer` is the schema: its parameters name the operands, a default of `None` makes one optional,
`*name` makes it variadic. `evaluate` takes numpy arrays in the same places and *defines* what the operator means.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from lepton_compiler.errors import InferenceError, UnsupportedError
from lepton_compiler.ir.dim import Dim, SymDim, bind
from lepton_compiler.ir.types import TensorType
from lepton_compiler.registry import Registry

if TYPE_CHECKING:
    from lepton_compiler.ir.graph import Graph

Types = Sequence[TensorType | None]
RunRegion = Callable[["Graph", Sequence[np.ndarray]], list[np.ndarray]]

registry = Registry("operator", "lepton_compiler.ops:TABLE", "lepton.ops")
"""The operator classes by name."""


@dataclass(frozen=True)
class Cost:
    """What one execution takes: multiply-accumulates, other arithmetic operations, bytes read and written."""

    macs: int = 0
    ops: int = 0
    bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.macs + other.macs, self.ops + other.ops, self.bytes + other.bytes)


@dataclass(frozen=True)
class Operand:
    """One formal operand of an operator, as read from the signature of `infer`."""

    name: str
    optional: bool
    variadic: bool


@dataclass(frozen=True)
class Op:
    """An operator. Hashable and comparable by class and attributes.

    Class attributes:
        symbolic: `evaluate` also works on object arrays of `Dim`; used to follow shape arithmetic.
        has_regions: the node carries nested graphs, and `infer_regions`/`evaluate_regions` are used.
    """

    symbolic: ClassVar[bool] = False
    has_regions: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The operator's name in text form and diagnostics."""
        return type(self).__name__

    @classmethod
    def operands(cls) -> tuple[Operand, ...]:
        """The formal operands."""
        return _operands(cls.infer)

    def infer(self, *inputs: Any) -> tuple[TensorType, ...]:
        """Types of the outputs, from the types of the operands.

        A dimension that only the data decides is `symbol("?0")`, `symbol("?1")`, ...

        Raises:
            InferenceError: the operands do not fit each other or the attributes.
        """
        raise NotImplementedError(f"{self.name}.infer")

    def evaluate(self, *inputs: Any) -> tuple[np.ndarray, ...]:
        """The outputs, computed with numpy: the definition of this operator's meaning."""
        raise NotImplementedError(f"{self.name}.evaluate")

    def cost(self, inputs: Types, outputs: Types) -> Cost:
        """Cost of one execution on static types; one operation per output element unless overridden."""
        return Cost(0, sum(t.size for t in outputs if t), traffic(inputs, outputs))

    def infer_dynamic(self, params: tuple[str, ...], *inputs: Any) -> tuple[TensorType, ...]:
        """Types of the outputs when the attributes `params` are only known at run time.

        `inputs` are the operand types followed by the types of the tensors that will supply `params`.
        """
        raise UnsupportedError(
            f"{self.name} needs its {', '.join(params)} at compile time",
            hint="make it a constant of the model, or bind the shapes that it is computed from",
        )

    def evaluate_symbolic(self, *inputs: Any) -> tuple[np.ndarray, ...]:
        """`evaluate` on object arrays of `Dim`, for operators with `symbolic = True`."""
        return self.evaluate(*inputs)

    def infer_regions(self, inputs: Types, regions: Sequence[Graph]) -> tuple[TensorType, ...]:
        """Like `infer`, for operators that carry nested graphs."""
        raise NotImplementedError(f"{self.name}.infer_regions")

    def evaluate_regions(self, inputs: Sequence[np.ndarray | None], regions: Sequence[Graph], run: RunRegion) -> tuple[np.ndarray, ...]:
        """Like `evaluate`, for operators that carry nested graphs; `run` evaluates one of them."""
        raise NotImplementedError(f"{self.name}.evaluate_regions")

    def bind(self, sizes: Mapping[str, Dim]) -> Self:
        """This operator with symbolic sizes in its attributes replaced."""
        changed = {f.name: new for f in fields(self) if (new := _bind(old := getattr(self, f.name), sizes)) is not old}
        return replace(self, **changed) if changed else self

    def attributes(self) -> dict[str, Any]:
        """Field name to value, in order of declaration."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def __repr__(self) -> str:
        defaults = {f.name: f.default for f in fields(self)}
        given = [f"{n}={v!r}" for n, v in self.attributes().items() if type(v) is not type(defaults[n]) or v != defaults[n]]
        return f"{self.name}({', '.join(given)})"

    def __init_subclass__(cls) -> None:
        # dataclass() would write its own __repr__ into every operator; ours leaves defaults out.
        cls.__repr__ = Op.__repr__  # type: ignore[method-assign]


def traffic(inputs: Types, outputs: Types) -> int:
    """Bytes of all operands and results, each counted once."""
    return sum(t.nbytes for t in (*inputs, *outputs) if t)


def require(condition: bool, message: str) -> None:
    """Raise `InferenceError(message)` unless `condition` holds."""
    if not condition:
        raise InferenceError(message)


@cache
def _operands(infer: Callable[..., Any]) -> tuple[Operand, ...]:
    found = list(inspect.signature(infer).parameters.values())[1:]
    return tuple(Operand(p.name, p.default is None, p.kind is p.VAR_POSITIONAL) for p in found)


def _bind(value: Any, sizes: Mapping[str, Dim]) -> Any:
    if isinstance(value, SymDim):
        return bind(value, sizes)
    if isinstance(value, tuple):
        new = tuple(_bind(v, sizes) for v in value)
        return new if any(a is not b for a, b in zip(new, value, strict=True)) else value
    if isinstance(value, Op) and is_dataclass(value):
        return value.bind(sizes)
    return value
