"""Kernels written as loops, for what is no expression per element: scatters, running sums, sorting, pivoting.

A procedure is a TE extern stage. Its body is built with TVM's IR builder, in order of execution; the compiler keeps the
order of its statements. Outermost loops may be `parallel`; each begins when the one before it has ended.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from tvm import te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from lepton_compiler.backends.tvm.carriers import carrier
from lepton_compiler.backends.tvm.lower.context import Arg, Context, Expr
from lepton_compiler.backends.tvm.schedules.loops import PARALLEL_WORK
from lepton_compiler.ir.types import TensorType

Buffer = Any
"""`tvm.tirx.Buffer`; TVM carries no types."""


def procedure(
    ctx: Context,
    name: str,
    operands: Sequence[Arg | None],
    write: Callable[..., None],
    spaces: Sequence[TensorType] = (),
    private: bool = False,
) -> list[Any]:
    """The results of the current operator, computed by the statements that `write` emits.

    Args:
        ctx: the kernel; its `outputs` say what the results are.
        name: of the stage.
        operands: what the statements read.
        write: called once with the operands, to be read by index, then the buffers of the results, then those of `spaces`.
        spaces: intermediate buffers, planned into the arena.
        private: each thread has its own of them.
    """
    present = [x for x in operands if x is not None]
    stored = [x for x in present if x.number is None]
    tensors = [ctx.tensor(x) for x in stored]
    ctx.workspace(*(t for t in tensors if isinstance(t.op, te.ComputeOp)))
    kinds = [*ctx.outputs, *spaces]
    sources = [tirx.decl_buffer(t.shape, t.dtype, t.op.name, layout=None) for t in tensors]
    targets = [tirx.decl_buffer(kind.static_shape, carrier(kind.dtype).name, f"{name}{k}", layout=None) for k, kind in enumerate(kinds)]
    readers = {id(x): replace(x, tensor=_load(b)) for x, b in zip(stored, sources, strict=True)}

    def body(_ins: Any, _outs: Any) -> Any:
        with IRBuilder() as builder:
            with T.serial(0, 1):
                write(*(None if x is None else readers.get(id(x), x) for x in operands), *targets)
            return builder.get()

    made = te.extern(
        [kind.static_shape for kind in kinds],
        tensors,
        body,
        name,
        dtype=[carrier(kind.dtype).name for kind in kinds],
        in_buffers=sources,
        out_buffers=targets,
    )
    results = list(made) if len(kinds) > 1 else [made]
    (ctx.scratch if private else ctx.workspace)(*results[len(ctx.outputs) :])
    return results[: len(ctx.outputs)]


def _load(buffer: Buffer) -> Callable[..., Expr]:
    return lambda *index: load(buffer, index)


def load(buffer: Buffer, index: Sequence[Expr]) -> Expr:
    """The element of `buffer` at `index`."""
    return tirx.BufferLoad(buffer, list(index))


def store(buffer: Buffer, index: Sequence[Expr], value: Expr) -> None:
    """Emit `buffer[index] = value`."""
    T.buffer_store(buffer, value, list(index))


class Cell:
    """A variable of the loop body that it is made in."""

    def __init__(self, dtype: str, value: Expr) -> None:
        self.buffer = T.alloc_buffer((1,), dtype, scope="global")
        self.set(value)

    def get(self) -> Expr:
        """Its value here."""
        return tirx.BufferLoad(self.buffer, [0])

    def set(self, value: Expr) -> None:
        """Emit an assignment."""
        T.buffer_store(self.buffer, value, [0])


_least_work = [PARALLEL_WORK]


@contextmanager
def parallel_from(work: int) -> Iterator[None]:
    """Within the block, independent iterations that do so much in all are one parallel loop."""
    _least_work.append(work)
    try:
        yield
    finally:
        _least_work.pop()


@contextmanager
def chunks(count: int) -> Iterator[Expr]:
    """A parallel loop over chunks, unless there is only one."""
    if count == 1:
        yield tirx.const(0, "int32")
    else:
        with T.parallel(0, count) as chunk:
            yield chunk


@contextmanager
def nest(shape: Sequence[int], parallel_work: int = 0) -> Iterator[list[Expr]]:
    """Loops over all indices of `shape`; one parallel loop where the iterations are independent and do `parallel_work` in all."""
    with ExitStack() as frames:
        if parallel_work >= _least_work[-1] and math.prod(shape) > 1:
            yield _split(frames.enter_context(T.parallel(0, math.prod(shape))), shape)
        else:
            yield [frames.enter_context(T.serial(0, d)) for d in shape]


def _split(flat: Expr, shape: Sequence[int]) -> list[Expr]:
    index: list[Expr] = []
    for size in reversed(shape):
        index.append(tirx.floormod(flat, size))
        flat = tirx.floordiv(flat, size)
    return index[::-1]


@contextmanager
def when(*conditions: Expr) -> Iterator[None]:
    """Statements that run if all conditions hold."""
    with ExitStack() as frames:
        if conditions:
            frames.enter_context(T.If(tirx.all(*conditions)))
            frames.enter_context(T.Then())
        yield


@contextmanager
def repeat_while(condition: Expr) -> Iterator[None]:
    """Statements that run again for as long as the condition, worked out anew each time, holds."""
    with T.While(condition):
        yield
