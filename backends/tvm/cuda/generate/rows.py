"""Chains of stages that work row by row: softmax, normalisation, reductions along the innermost axis, in one pass.

A warp, or a whole block of threads, has a row. Each thread reduces its share of the elements (`shares`), then partial results are combined by
shuffles, always in the same order, so that results are the same bits in every run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx
from tvm.ir import Call
from tvm.ir.expr import TensorLoad

from lepton_compiler.backends.tvm import outline
from lepton_compiler.backends.tvm.c99.expressions import bare, element_kind
from lepton_compiler.backends.tvm.cuda.generate.function import KernelText
from lepton_compiler.backends.tvm.cuda.generate.shares import RowWriter, Share
from lepton_compiler.backends.tvm.cuda.generate.stages import loads
from lepton_compiler.backends.tvm.cuda.text.vectors import WIDEST
from lepton_compiler.backends.tvm.cuda.text.writer import Axis, Block
from lepton_compiler.backends.tvm.schedules.loops import bits_of

WARP = 32
SHORT = 16
"""Elements of a row below which a thread has it alone."""
PER_THREAD = 4
"""Elements that each thread of a row has at least."""
ROWS_PER_BLOCK = 4
"""Rows of a block, where a warp has one."""
VECTORS = (8, 4, 2)
"""Neighbours that are read at once, if they are 16 bytes at most and 8 at least."""
HALF_WIDE = WIDEST // 2
IN_FLIGHT = 4
"""Vectors that a thread reads before it looks at the first."""
MOST_THREADS = 1024
ENOUGH = 1 << 17
"""Threads that keep the memory of any GPU busy, if each has some vectors under way."""
FEW = 64
"""Rows that are too few for a GPU, if they are long."""
LONG = 1 << 14
"""Elements of a row that take long, even for a whole block of threads."""
PART = 1 << 12
"""Elements of a part of such a row."""
MOST_PARTS = 256
COMBINED = (tirx.Add, tirx.Mul, tirx.Max, tirx.Min)


def fits_rows(stages: Sequence[Block], shared: int, along: frozenset[str]) -> bool:
    """Whether stages can be one pass over rows: all reductions give one number per row and run along it."""
    reductions = [s for s in stages if s.initial is not None]
    if not reductions or any(s.name not in along or _inner(s, shared) > 1 or combiner(s) is None for s in reductions):
        return False
    return max(s.depth for s in reductions) >= SHORT and all(s.size for s in stages)


def fills_gpu(stages: Sequence[Block], shared: int) -> bool:
    """Whether rows are many, or short: few long ones are better shared among blocks of threads, a stage at a time."""
    rows = math.prod(a.extent for a in stages[0].spatial[:shared])
    return rows >= FEW or max(max(s.depth, _inner(s, shared)) for s in stages) <= LONG


def row_reduction(kernel: KernelText, stage: Block) -> None:
    """Add the functions of a reduction along rows whose result is stored: each row is cut in parts where there are few of them."""
    parts = min(MOST_PARTS, -(-stage.depth // PART)) if stage.size < FEW and stage.depth > LONG else 1
    if parts == 1:
        row_stage(kernel, [stage], len(stage.spatial))
        return
    chunk = -(-stage.depth // parts)
    partial = tirx.decl_buffer((stage.size, parts), str(stage.target.dtype), f"{stage.name}_parts", layout=None)
    kernel.space(partial)
    writer = _writer(kernel)
    row = tirx.Var("row", "int32")
    writer.range(row, stage.size, "row")
    writer.unravel(stage.spatial, row)
    lanes = MOST_THREADS // 4
    place, target = f"{writer.buffers[hash(partial)]}[row * {parts} + blockIdx.x]", writer.buffers[hash(partial)]
    writer.written.add(target)
    _Row(writer, lanes).reduce(stage, (f"blockIdx.x * {chunk}", f"min((int32_t)(blockIdx.x + 1) * {chunk}, {stage.depth})"), place)
    opening = ["  const int32_t lane = threadIdx.x;", "  const int32_t row = blockIdx.y;", f"  __shared__ double lepton_parts[{WARP}];"]
    kernel.add(writer, (parts, stage.size, 1), (lanes, 1, 1), opening)
    part, self_load = tirx.Var("part", "int32"), tirx.BufferLoad(stage.target, list(stage.index))
    rows = list(stage.index) if stage.index else []
    flat = _flat(rows, [int(e) for e in stage.target.shape])
    value = combiner(stage)(self_load, tirx.BufferLoad(partial, [flat, part]))
    total = Block(stage.name, stage.spatial, (Axis(part, parts),), stage.target, stage.index, value, stage.initial)
    row_stage(kernel, [total], len(stage.spatial))


def _flat(index: Sequence[Any], shape: Sequence[int]) -> Any:
    position: Any = tirx.const(0, "int32")
    for at, extent in zip(index, shape, strict=True):
        position = position * extent + at
    return position


def row_stage(kernel: KernelText, stages: Sequence[Block], shared: int) -> None:
    """Add the function of a chain of stages with `shared` leading axes in common."""
    outer = stages[0].spatial[:shared]
    rows = math.prod(a.extent for a in outer)
    length = max(max(s.depth, _inner(s, shared)) for s in stages)
    once = sum(max(s.depth, _inner(s, shared)) > 1 for s in stages) == 1
    lanes = kernel.choice.lanes or lanes_for(length, rows, once)
    several = ROWS_PER_BLOCK if lanes == WARP else 1
    writer = _writer(kernel)
    if kernel.alone:
        writer.apart = {hash(s.target) for s in stages if s.initial is None and any(loads(other, s.target) for other in stages)}
    row = tirx.Var("row", "int32")
    for k, stage in enumerate(stages):
        writer.range(row, rows, "row")
        writer.unravel(stage.spatial[:shared], row)
        _Row(writer, lanes, _neighbours(kernel)).write(stage, shared)
        if stage.initial is None and any(loads(later, stage.target) for later in stages[k + 1 :]):
            writer.emit("__syncthreads();" if lanes > WARP else "__syncwarp();")
    position = f"blockIdx.x * {several} + threadIdx.y" if several > 1 else "blockIdx.x"
    opening = ["  const int32_t lane = threadIdx.x;", f"  const int32_t row = {position};"]
    if rows % several:
        opening.append(f"  if (row >= {rows}) return;")
    if any("lepton_parts" in line for line in writer.lines):
        opening.append(f"  __shared__ double lepton_parts[{WARP}];")
    for kept in writer.kept.values():
        opening += [kept.declaration, *([] if kept.buffer in writer.written else kept.moves())]
    kernel.add(writer, (-(-rows // several), 1, 1), (lanes, several, 1), opening)


def _writer(kernel: KernelText) -> RowWriter:
    writer = kernel.writer(RowWriter)
    assert isinstance(writer, RowWriter)
    return writer


def _neighbours(kernel: KernelText) -> int:
    """Elements that one load takes of each buffer; one where results may lie where operands do."""
    return max(1, WIDEST // (max(bits_of(b.dtype) for b in kernel.buffers) // 8)) if kernel.alone else 1


def lanes_for(length: int, rows: int, once: bool = False) -> int:
    """Threads of a row: a warp where there are many short rows, else as many as have a few elements each.

    Rows that are read `once` stay in no cache, so that they need not be few at a time: where they are many, they have fewer threads.
    """
    if length <= 1024 and rows >= 64:
        return WARP
    lanes = WARP
    while lanes < MOST_THREADS and lanes * PER_THREAD < length:
        lanes *= 2
    while once and lanes > WARP and lanes * rows > ENOUGH:
        lanes //= 2
    return lanes


def _inner(stage: Block, shared: int) -> int:
    return math.prod(a.extent for a in stage.spatial[shared:])


def combiner(block: Block) -> Any:
    """A function of two variables that combines partial results of a reduction; None where it is no operation of two numbers."""
    value = block.value
    if isinstance(value, COMBINED) and _is_self(value.a, block) != _is_self(value.b, block):
        return lambda a, b: type(value)(a, b)
    two = isinstance(value, Call) and outline.is_outlined(value) and len(value.args) == 2
    if two and _is_self(value.args[0], block) != _is_self(value.args[1], block):
        return lambda a, b: Call(value.op, [a, b], ret_ty=value.ty)
    return None


def _is_self(x: Any, block: Block) -> bool:
    return isinstance(x, TensorLoad) and hash(x.source) == hash(block.target)


class _Row:
    """Writes the stages of one row."""

    def __init__(self, writer: RowWriter, lanes: int, neighbours: int = 1) -> None:
        self.writer, self.lanes, self.neighbours = writer, lanes, neighbours

    def write(self, stage: Block, shared: int) -> None:
        """One stage, whose leading axes are known."""
        if stage.initial is not None:
            for axis in stage.spatial[shared:]:
                self.writer.equate(axis.variable, tirx.const(0, "int32"))
            self.reduce(stage)
        else:
            self.spread(stage.spatial[shared:], lambda: self.store(stage, self.writer.value(stage.value)))
            self.writer.lines += [line for kept in self.writer.kept_of(stage.target) for line in kept.moves(store=True)]

    def spread(self, axes: Sequence[Axis], body: Callable[[], None], bounds: tuple[str, str] | None = None) -> None:
        """A loop over `axes`, or a part of it, of which each thread has its share."""
        writer, extent = self.writer, math.prod(a.extent for a in axes)
        if extent == 0:
            return
        share = Share.of(extent, self.lanes, self.neighbours)
        if bounds is None and not writer.keeps(share) and self.spread_vectors(axes, body, extent):
            return
        name = writer.name("j")
        at = tirx.Var("j", "int32")
        writer.range(at, extent, name)

        def turn() -> None:
            writer.unravel(axes, at)
            body()

        if bounds is not None:
            lines, _ = writer.block(turn)
            writer.emit(f"for (int32_t {name} = {bounds[0]} + lane; {name} < {bounds[1]}; {name} += {self.lanes}) {{")
            writer.lines += [*lines, "  }"]
            return
        step, following = f"{name}_turn", f"{name}_next"
        with writer.sharing(share, at, f"{step} * {share.width} + {following}"):
            lines, _ = writer.block(turn)
        inner = [
            "  #pragma unroll",
            f"  for (int32_t {following} = 0; {following} < {share.width}; ++{following}) {{",
            f"    const int32_t {name} = {share.first(step)} + {following};",
            *(f"  {line}" for line in lines),
            "  }",
        ]
        writer.lines += share.loop(step, inner)

    def spread_vectors(self, axes: Sequence[Axis], body: Callable[[], None], extent: int) -> bool:
        """The same loop over neighbours that are read or written as vectors; False where there are none, too few for all threads, or one that is
        written may be read.
        """
        if self.writer.apart is None:
            return False
        for count in VECTORS:
            if extent % count == 0 and extent // count >= self.lanes and (lines := self.vectors(axes, body, extent // count, count)):
                self.writer.lines += lines
                return True
        return False

    def vectors(self, axes: Sequence[Axis], body: Callable[[], None], extent: int, count: int) -> list[str]:
        """A loop over `extent` vectors of `count` elements; nothing where none have `HALF_WIDE` to `WIDEST` bytes."""
        writer, turns = self.writer, -(-extent // self.lanes)
        vector, element, at = (tirx.Var(name, "int32") for name in ("vector", "e", "j"))
        turn, name, inner = writer.name("turn"), writer.name("vector"), writer.name("e")

        def each() -> None:
            writer.range(vector, extent, name)
            writer.range(element, count, inner)
            writer.equate(at, vector * count + element)
            writer.unravel(axes, at)
            writer.begin(element, count)
            body()
            writer.end()

        lines, _ = writer.block(each)
        if not HALF_WIDE <= writer.widest <= WIDEST:
            return []
        before, after = writer.transfers(lines)
        return [
            f"  #pragma unroll {min(turns, IN_FLIGHT)}",
            f"  for (int32_t {turn} = 0; {turn} < {turns}; ++{turn}) {{",
            f"    const int32_t {name} = lane + {turn} * {self.lanes};",
            *([f"    if ({name} >= {extent}) break;"] if extent % self.lanes else []),
            *(f"    {line}" for line in [*before, "#pragma unroll", f"for (int32_t {inner} = 0; {inner} < {count}; ++{inner}) {{"]),
            *(f"  {line}" for line in lines),
            *(f"    {line}" for line in ["}", *after]),
            "  }",
        ]

    def reduce(self, stage: Block, bounds: tuple[str, str] | None = None, place: str = "") -> None:
        """The result of a reduction, or of a part of it, in a variable of every thread; it is stored at `place`, or as a parameter."""
        writer = self.writer
        name = writer.start(stage)
        with writer.reducing(stage, name):
            self.spread(stage.reduced, lambda: writer.emit(f"{name} = {bare(writer.value(stage.value))};"), bounds)
        self.combine(stage, name)
        if place or hash(stage.target) in writer.buffers:
            writer.emit("if (lane == 0) {")
            lines, _ = writer.block(lambda: writer.emit(f"{place} = {name};") if place else self.store(stage, name))
            writer.lines += lines
            writer.emit("}")
        writer.registers[hash(stage.target)] = name

    def combine(self, stage: Block, name: str) -> None:
        """Combine what the threads of a row have; each gets the result."""
        self.shuffle(stage, name, min(self.lanes, WARP))
        if self.lanes == WARP:
            return
        writer, kind = self.writer, self.writer.type(stage.value)
        warps = self.lanes // WARP
        parts = f"(({kind} *)lepton_parts)"
        assert stage.initial is not None
        writer.emit(f"if ((lane & {WARP - 1}) == 0) {parts}[lane >> 5] = {name};")
        writer.emit("__syncthreads();")
        writer.emit(f"{name} = (lane & {WARP - 1}) < {warps} ? {parts}[lane & {WARP - 1}] : {bare(writer.value(stage.initial))};")
        self.shuffle(stage, name, WARP)
        writer.emit("__syncthreads();")

    def shuffle(self, stage: Block, name: str, width: int) -> None:
        """Combine the values of `width` neighbouring lanes."""
        writer, kind = self.writer, element_kind(stage.value)
        function = writer.support.shuffle(kind)
        mine, other = tirx.Var(name, kind), tirx.Var("other", kind)
        writer.names[hash(mine)], writer.names[hash(other)] = name, "other"
        combined = bare(writer.value(combiner(stage)(mine, other)))
        writer.emit("#pragma unroll")
        writer.emit(f"for (int mask = {width // 2}; mask > 0; mask >>= 1) {{")
        writer.emit(f"  const {writer.type(stage.value)} other = {function}({name}, mask);")
        writer.emit(f"  {name} = {combined};")
        writer.emit("}")

    def store(self, stage: Block, value: str) -> None:
        """Assign the element of a stage whose variables are known."""
        name = self.writer.buffers[hash(stage.target)]
        self.writer.written.add(name)
        self.writer.emit(f"{self.writer.element(stage.target, stage.index)} = {bare(value)};")
