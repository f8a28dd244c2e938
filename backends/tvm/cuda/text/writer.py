"""Statements and expressions of a kernel on a GPU, over buffers of any rank.

Buffers are parameters of the kernel, registers, or *virtual*: a reduction that is computed where an element of it is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import tvm
from tvm import tirx
from tvm.ir import Range

from lepton_compiler.backends.tvm import outline
from lepton_compiler.backends.tvm.c99.expressions import FENCES, bare, element_kind, intrinsic
from lepton_compiler.backends.tvm.c99.statements import KernelWriter
from lepton_compiler.backends.tvm.c99.support import C_TYPES, Support
from lepton_compiler.backends.tvm.cuda.text.support import DeviceSupport
from lepton_compiler.backends.tvm.lower.conversion import encoded
from lepton_compiler.errors import UnsupportedError
from lepton_compiler.ir.types import DTYPES

Expr = Any
"""A `tvm.tirx` expression; TVM carries no types."""

MOST_ELEMENTS = 2**31 - 2**20
"""Of a buffer: indices are 32-bit integers, and a loop over all elements steps a little past the last one."""

FUNCTIONS = frozenset(
    "exp exp2 exp10 log log2 log10 log1p sin cos tan sinh cosh tanh asin acos atan asinh acosh atanh erf sqrt rsqrt".split()
)
"""Operators of one number that are functions of the device."""


@cache
def _bfloat_code() -> str:
    """The operator that rounds a float32 to bfloat16, which the device has an instruction for."""
    return str(encoded(tirx.Var("x", "float32"), DTYPES["bfloat16"]).op.name)


@dataclass(frozen=True)
class Axis:
    """A loop of a block: the variable of its body and how often it runs."""

    variable: Any
    extent: int


@dataclass(frozen=True)
class Block:
    """A stage of a kernel: `target[index] = value` for all `spatial`, or, with `initial`, reduced over `reduced`."""

    name: str
    spatial: tuple[Axis, ...]
    reduced: tuple[Axis, ...]
    target: Any
    index: tuple[Expr, ...]
    value: Expr
    initial: Expr | None = None

    @property
    def size(self) -> int:
        """How often the spatial loops run."""
        return math.prod(a.extent for a in self.spatial)

    @property
    def depth(self) -> int:
        """How often the reduction runs for each of them."""
        return math.prod(a.extent for a in self.reduced)


class DeviceWriter(KernelWriter):
    """Writes the body of one `__global__` function."""

    support: DeviceSupport

    def __init__(self, support: DeviceSupport, where: str) -> None:
        super().__init__(support, where)
        self.virtual: dict[int, Block] = {}
        self.registers: dict[int, str] = {}
        self.known: dict[tuple[int, tuple[str, ...]], str] = {}
        self.facts: dict[int, tuple[Any, Any]] = {}
        self._analyzer: Any = None

    def refuse(self, what: str) -> UnsupportedError:
        """The error for what has no text."""
        return UnsupportedError(f"{what} has no CUDA C in {self.where}", hint="report the model")

    # -- variables and what is known of them

    @property
    def analyzer(self) -> Any:
        """An analyser that knows the ranges and values of all variables."""
        if self._analyzer is None:
            self._analyzer = tvm.sym.Analyzer()
            for variable, fact in self.facts.values():
                self._analyzer.bind(variable, fact)
        return self._analyzer

    def define(self, variable: Any, fact: Any, text: str) -> None:
        """Let a variable be read as `text`; the fact is its range, or an expression that it is equal to."""
        self.names[hash(variable)] = text
        self.facts[hash(variable)] = variable, fact
        self._analyzer = None

    def range(self, variable: Any, extent: int, text: str) -> None:
        """Let a variable that runs from 0 to `extent` be read as `text`."""
        self.define(variable, Range(0, extent), text)

    def equate(self, variable: Any, value: Expr) -> None:
        """Let a variable stand for an index."""
        value = self.simplified(value)
        self.define(variable, value, self.index_operand(value))

    def simplified(self, index: Expr) -> Expr:
        """An index, simplified by what is known."""
        return self.analyzer.simplify(index)

    def index_operand(self, index: Expr) -> str:
        """The text of an index, as an operand of any operator."""
        text = self.index(index)
        return text if text.isidentifier() or text.isdecimal() else f"({text})"

    def unravel(self, axes: Sequence[Axis], flat: Expr) -> None:
        """Let the variables of `axes` be the index of the row-major position `flat`, which is smaller than the product of their extents."""
        stride = math.prod(a.extent for a in axes)
        for position, axis in enumerate(axes):
            stride //= axis.extent
            at = tirx.floordiv(flat, stride)
            self.equate(axis.variable, at if position == 0 else tirx.floormod(at, axis.extent))

    # -- buffers

    def flat(self, buffer: Any, indices: Any) -> Expr:
        """The row-major position of an element, simplified."""
        position: Expr = tirx.const(0, "int32")
        extents = [int(e) for e in buffer.shape]
        if math.prod(extents) > MOST_ELEMENTS:
            raise self.refuse(f"a buffer of {math.prod(extents)} elements")
        for at, extent in zip(indices, extents, strict=True):
            position = position * extent + at.astype("int32") if str(at.ty) != "int32" else position * extent + at
        return self.simplified(position)

    def element(self, buffer: Any, indices: Any) -> str:
        """An element of a buffer as something that can be read and assigned."""
        key = hash(buffer)
        if key in self.registers:
            return self.registers[key]
        if key not in self.buffers:
            raise self.refuse(f"the buffer '{buffer.name}'")
        name = self.buffers[key]
        return name if name in self.scalars else f"{name}[{self.index(self.flat(buffer, indices))}]"

    def load(self, x: Any) -> str:
        """The element that a load reads; that of a virtual buffer is computed first."""
        block = self.virtual.get(hash(x.source))
        if block is None or hash(x.source) in self.registers:
            text = self.element(x.source, x.indices)
            self.used.add(self.buffers.get(hash(x.source), ""))
            return text
        index = [self.simplified(i) for i in x.indices]
        key = hash(x.source), tuple(self.index(i) for i in index)
        if key not in self.known:
            self.known[key] = self.computed(block, index)
        return self.known[key]

    def computed(self, block: Block, index: Sequence[Expr]) -> str:
        """The name of an element of a reduction, which is computed here."""
        for axis, at in zip(block.spatial, index, strict=True):
            self.equate(axis.variable, at)
        return self.accumulated(block, [(a, None) for a in block.reduced])

    def accumulated(self, block: Block, axes: Sequence[tuple[Axis, None]]) -> str:
        """The name of the result of a reduction over `axes`, whose spatial variables are known."""
        assert block.initial is not None
        name = self.start(block)
        with self.reducing(block, name):
            self.loops([axis for axis, _ in axes], lambda: self.emit(f"{name} = {bare(self.value(block.value))};"))
        return name

    def start(self, block: Block) -> str:
        """A variable with the initial value of a reduction."""
        name = self.name(block.name)
        self.used.add(name)
        self.emit(f"{self.type(block.value)} {name} = {bare(self.value(block.initial))};")
        return name

    @contextmanager
    def reducing(self, block: Block, name: str) -> Iterator[None]:
        """Within the block, what is read of the reduction's own result is the variable `name`."""
        before = self.registers.get(hash(block.target))
        self.registers[hash(block.target)] = name
        try:
            yield
        finally:
            del self.registers[hash(block.target)]
            if before is not None:
                self.registers[hash(block.target)] = before

    def loops(self, axes: Sequence[Axis], body: Callable[[], None]) -> None:
        """Serial loops over `axes` around what `body` writes."""
        if not axes:
            body()
            return
        axis, *rest = axes
        name = self.name(str(axis.variable.name))
        self.range(axis.variable, axis.extent, name)
        if axis.extent == 1:
            self.equate(axis.variable, tirx.const(0, "int32"))
            self.loops(rest, body)
            return
        self.emit(f"for (int32_t {name} = 0; {name} < {axis.extent}; ++{name}) {{")
        self.body(lambda: self.loops(rest, body))
        self.emit("}")

    def block(self, write: Callable[[], Any]) -> tuple[list[str], Any]:
        """As in portable C; what was computed inside is not known outside."""
        known = dict(self.known)
        try:
            return super().block(write)
        finally:
            self.known = known

    # -- statements and expressions that differ from portable C

    def loop(self, stmt: Any) -> None:
        """A loop whose bounds are numbers tells the range of its variable."""
        if isinstance(stmt.min, tirx.IntImm) and isinstance(stmt.extent, tirx.IntImm):
            variable = stmt.loop_var
            first = int(stmt.min.value)
            self.facts[hash(variable)] = variable, Range(first, first + int(stmt.extent.value))
            self._analyzer = None
        super().loop(stmt)

    def binary(self, x: Expr) -> str:
        """Divisions of indices that are never negative are those of C."""
        kind = type(x)
        if kind in (tirx.FloorDiv, tirx.FloorMod) and not element_kind(x).startswith("float"):
            sign = "/" if kind is tirx.FloorDiv else "%"
            if self.analyzer.can_prove(x.a >= 0) and self.analyzer.can_prove(x.b >= 1):
                return self.narrowed(f"({self.value(x.a)} {sign} {self.value(x.b)})", element_kind(x))
        return super().binary(x)

    def cast(self, x: Any) -> str:
        """As in portable C, and from double to half precision."""
        if (element_kind(x.value), element_kind(x)) == ("float64", "float16"):
            return f"{self.support.known('wide_to_half')}({bare(self.value(x.value))})"
        return super().cast(x)

    def call(self, x: Any) -> str:
        """Functions of the device, and the fence."""
        operator = str(getattr(x.op, "name", x.op))
        short = operator.rpartition(".")[2]
        if short in FUNCTIONS:
            return self.library(short + ("f" if element_kind(x) == "float32" else ""), list(x.args), x)
        if short == "pow":
            return self.library("powf" if element_kind(x) == "float32" else "pow", list(x.args), x)
        if operator == _bfloat_code() and element_kind(x.args[0]) == "float32":
            return f"{self.support.known('to_bfloat')}({bare(self.value(x.args[0]))})"
        if operator == outline.SATURATED:
            return f"{self.support.known('saturated')}({', '.join(bare(self.value(a)) for a in x.args)})"
        if short == "call_llvm_pure_intrin" and intrinsic(x) in FENCES:
            return f"{self.support.fence(element_kind(x))}({bare(self.value(x.args[1]))})"
        return super().call(x)

    def another(self, support: Support) -> DeviceWriter:
        """A writer for the body of a device function."""
        return DeviceWriter(self.support, self.where)

    def element_type(self, buffer: Any) -> str:
        """C's type of an element."""
        kind = str(buffer.dtype)
        if kind not in C_TYPES:
            raise self.refuse(f"a buffer of {kind}")
        return C_TYPES[kind]
