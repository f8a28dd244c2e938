"""TIR statements as C99: one function for each kernel."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.ir import Call

from lepton_compiler.backends.tvm.c99.expressions import Expressions, bare, intrinsic, lanes, pruned
from lepton_compiler.backends.tvm.c99.support import C_TYPES, Support

Stmt = Any
"""A `tvm.tirx` statement; TVM carries no types."""

CLEARED = 64
"""Elements of the largest buffer that is cleared where it is declared: compilers keep those in registers, and see which are read."""
LOOPS = (tirx.ForKind.SERIAL, tirx.ForKind.PARALLEL, tirx.ForKind.UNROLLED, tirx.ForKind.VECTORIZED)
"""Kinds of loops whose iterations may run one after another."""
SILENT_ATTRIBUTES = ("target", "device_id", "device_type", "storage_scope", "volatile_scope")


def kernel_source(func: Any, symbol: str, where: str) -> str:
    """The C text of a kernel after all passes: chunks with empty lines between them, the kernel last.

    Its signature is `void symbol(const void *p0, ..., void *pN)`, parameters in the order of the `PrimFunc`; those that it does not
    write point to constants. They do not overlap where the function says so.

    Raises:
        UnsupportedError: a statement or expression that has no portable C.
    """
    support = Support()
    alone = bool(func.attrs and func.attrs.get("tirx.noalias", False))
    return support.text([KernelWriter(support, where).function(func, symbol, alone)])


class KernelWriter(Expressions):
    """Writes the body of a kernel; buffers of one element are variables."""

    def __init__(self, support: Support, where: str) -> None:
        super().__init__(support, where)
        self.buffers: dict[int, str] = {}
        self.scalars: set[str] = set()
        self.written: set[str] = set()
        self.fresh: dict[str, str] = {}

    def function(self, func: Any, symbol: str, alone: bool) -> str:
        """The text of the function."""
        pointers = {hash(p): f"p{k}" for k, p in enumerate(func.params)}
        for name in pointers.values():
            self.name(name)
        kinds: dict[str, tuple[str, str]] = {}
        body = []
        for stmt in func.body.seq:
            if isinstance(stmt, tirx.DeclBuffer) and hash(stmt.data) in pointers:
                name = self.buffers[hash(stmt.buffer)] = self.name(str(stmt.buffer.name))
                kinds[pointers[hash(stmt.data)]] = (self.element_type(stmt.buffer), name)
            elif not isinstance(stmt, tirx.Return):
                body.append(stmt)
        self.sequence(body)
        lines = pruned(self.lines)
        words = set(re.findall(r"\w+", " ".join(lines)))
        opening, formals = [], []
        for p in pointers.values():
            kind, name = kinds.get(p, ("", ""))
            writes = name in self.written
            formals.append(f"void *{p}" if writes else f"const void *{p}")
            if name not in words:
                opening.append(f"  (void){p};")
            else:
                opening.append(f"  {'' if writes else 'const '}{kind} *{'restrict ' if alone else ''}const {name} = {p};")
        return "\n".join([f"void {symbol}({', '.join(formals) or 'void'}) {{", *opening, *lines, "}", ""])

    def element_type(self, buffer: Any) -> str:
        """C's type of an element of a buffer."""
        kind = str(buffer.dtype)
        if kind not in C_TYPES:
            raise self.refuse(f"a buffer of {kind}")
        return C_TYPES[kind]

    # -- buffers

    def element(self, buffer: Any, indices: Any) -> str:
        """An element as something that can be read and assigned."""
        if len(indices) != 1:
            raise self.refuse("a buffer of several dimensions")
        name = self.buffers[hash(buffer)]
        return name if name in self.scalars else f"{name}[{self.index(indices[0])}]"

    def load(self, x: Any) -> str:
        """The element that a load reads."""
        text = self.element(x.source, x.indices)
        self.used.add(self.buffers[hash(x.source)])
        return text

    def store(self, stmt: Any) -> None:
        """An assignment to an element, or to a vector of them."""
        if lanes(stmt.value) > 1 or any(isinstance(at, tirx.Ramp) for at in stmt.indices):
            self.vector_store(stmt)
        else:
            self.scalar_store(stmt)

    def vector_store(self, stmt: Any) -> None:
        """A loop over the elements of a vector."""
        if self.lane:
            raise self.refuse("a vector of vectors")
        outer = self.lane
        lane = self.name("lane")
        self.emit(f"for (int32_t {lane} = 0; {lane} < {lanes(stmt.value)}; ++{lane}) {{")
        self.lane = lane
        self.body(lambda: self.scalar_store(stmt))
        self.lane = outer
        self.emit("}")

    def scalar_store(self, stmt: Any) -> None:
        """An assignment to one element."""
        self.written.add(self.buffers[hash(stmt.buffer)])
        value = bare(self.value(stmt.value))
        name = self.buffers[hash(stmt.buffer)]
        place = self.element(stmt.buffer, stmt.indices)
        if self.lane and any(text != place for text in re.findall(rf"\b{name}\[[^]]*\]", value)):
            raise self.refuse("a vector that is stored where another one of its operands lies")
        fresh = self.fresh.pop(place, "")
        self.emit(f"{fresh}{' ' if fresh else ''}{place} = {value};")

    # -- statements

    def sequence(self, statements: Any) -> None:
        """The statements of a block; what it defines and nobody reads is left out."""
        first = len(self.lines)
        declared: list[str] = []
        for stmt, following in zip(statements, [*statements[1:], None], strict=True):
            if isinstance(stmt, tirx.Bind):
                self.bind(stmt.var, stmt.value)
            elif isinstance(stmt, tirx.AllocBuffer):
                self.allocate(stmt.buffer, following)
                declared.append(self.buffers[hash(stmt.buffer)])
            else:
                self.statement(stmt)
        for name in declared:
            if name not in self.used:
                self.lines.insert(self._after_declarations(first, name), "  " * self.depth + f"(void){name};")

    def _after_declarations(self, first: int, name: str) -> int:
        """Where a buffer that is only written can be mentioned: behind its own declaration."""
        return next(k for k in range(first, len(self.lines)) if f" {name}" in self.lines[k]) + 1

    def allocate(self, buffer: Any, following: Any) -> None:
        """Declare a buffer; a small one begins as zeros, as schedules compute elements of tiles that they do not store."""
        size = math.prod(int(extent) for extent in buffer.shape)
        name = self.buffers[hash(buffer)] = self.name(str(buffer.name))
        c = self.element_type(buffer)
        if size > 1:
            self.emit(f"{c} {name}[{size}]{' = {0}' if size <= CLEARED else ''};")
            return
        self.scalars.add(name)
        if isinstance(following, tirx.BufferStore) and hash(following.buffer) == hash(buffer):
            self.fresh[name] = c
        else:
            self.emit(f"{c} {name} = {'false' if c == 'bool' else 0};")

    def statement(self, stmt: Stmt) -> None:
        """Any statement."""
        if isinstance(stmt, tirx.SeqStmt):
            self.sequence(stmt.seq)
        elif isinstance(stmt, tirx.BufferStore):
            self.store(stmt)
        elif isinstance(stmt, tirx.For):
            self.loop(stmt)
        elif isinstance(stmt, tirx.While):
            self.repeat(stmt)
        elif isinstance(stmt, tirx.IfThenElse):
            self.branch(stmt)
        elif isinstance(stmt, tirx.AttrStmt) and str(stmt.attr_key) in SILENT_ATTRIBUTES:
            self.statement(stmt.body)
        elif isinstance(stmt, tirx.AttrStmt):
            raise self.refuse(f"the attribute '{stmt.attr_key}'")
        elif isinstance(stmt, tirx.Evaluate):
            self.evaluate(stmt.value)
        elif isinstance(stmt, tirx.Bind | tirx.AllocBuffer):
            self.sequence([stmt])
        elif isinstance(stmt, tirx.Break | tirx.Continue):
            self.emit("break;" if isinstance(stmt, tirx.Break) else "continue;")
        else:
            raise self.refuse(f"the statement '{type(stmt).__name__}'")

    def body(self, write: Callable[[], None]) -> None:
        """What `write` emits, one level deeper."""
        lines, _ = self.block(write)
        self.lines += lines

    def loop(self, stmt: Any) -> None:
        """A loop over a range."""
        if stmt.kind not in LOOPS:
            raise self.refuse(f"a loop of kind {stmt.kind}")
        step = 1 if stmt.step is None else stmt.step
        c = self.type(stmt.loop_var)
        start, zero = self.index(stmt.min), isinstance(stmt.min, tirx.IntImm) and int(stmt.min.value) == 0
        end = self.index(stmt.extent if zero else stmt.min + stmt.extent)
        name = self.names[hash(stmt.loop_var)] = self.name(str(stmt.loop_var.name))
        advance = f"++{name}" if isinstance(step, int) or int(step.value) == 1 else f"{name} += {self.index(step)}"
        self.emit(f"for ({c} {name} = {start}; {name} < {end}; {advance}) {{")
        self.body(lambda: self.sequence([stmt.body]))
        self.emit("}")

    def repeat(self, stmt: Any) -> None:
        """A loop for as long as a condition holds."""

        def turn() -> None:
            self.emit(f"if (!{self.value(stmt.condition)}) break;")
            self.statement(stmt.body)

        self.emit("for (;;) {")
        self.body(turn)
        self.emit("}")

    def branch(self, stmt: Any) -> None:
        """Statements that run if a condition holds, and others if not."""
        self.emit(f"if ({bare(self.value(stmt.condition))}) {{")
        self.body(lambda: self.statement(stmt.then_case))
        if stmt.else_case is not None:
            self.emit("} else {")
            self.body(lambda: self.statement(stmt.else_case))
        self.emit("}")

    def evaluate(self, x: Any) -> None:
        """A call for its effect: a prefetch has none that C knows."""
        if isinstance(x, tirx.IntImm):
            return
        if isinstance(x, Call) and str(x.op.name).endswith("call_llvm_intrin") and intrinsic(x).startswith("llvm.prefetch"):
            return
        raise self.refuse(f"'{getattr(x.op, 'name', x) if isinstance(x, Call) else type(x).__name__}'")
