"""Reductions across rows: means over the pixels of an image with channels last, over the tokens of a sequence, along the first axis of a matrix.

Neighbouring threads have neighbouring results, so that they read neighbours. Where results are few, several threads share each: every one of them
reduces every so many elements, and the first one combines what they have, always in the same order. Where results are very few, blocks share them,
too, and a second launch combines what these have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
from tvm import tirx
from tvm.ir.expr import TensorLoad

from lepton_compiler.backends.tvm.c99.expressions import bare
from lepton_compiler.backends.tvm.cuda.generate.function import KernelText
from lepton_compiler.backends.tvm.cuda.generate.rows import combiner
from lepton_compiler.backends.tvm.cuda.text.support import DeviceSupport
from lepton_compiler.backends.tvm.cuda.text.writer import Axis, Block, DeviceWriter
from lepton_compiler.backends.tvm.schedules.epilogue import parts

LANES = 32
"""Results of a block whose threads share results: a warp has neighbours."""
MOST_SHARES = 16
"""Threads of a result, in a block."""
EACH = 4
"""Elements that such a thread has at least."""
FULL = 1 << 18
"""Threads that keep the memory of a GPU busy."""
BLOCKS = 256
"""Blocks that there should be at least, if sums are long."""
LONG = 16
"""Elements that a thread has at least where blocks share results."""
MOST_PARTS = 64
"""Blocks of a result."""


def goes_across(block: Block, along: frozenset[str]) -> bool:
    """Whether a block is a reduction of whole axes, across rows, whose partial results can be combined."""
    if block.initial is None or block.name in along or block.depth < 2 * EACH or combiner(block) is None:
        return False
    analyzer = tvm.sym.Analyzer()
    for axis in block.spatial:
        if axis.extent == 1:
            analyzer.bind(axis.variable, tirx.const(0, "int32"))
    indices = [analyzer.simplify(index) for load in _loads(block) for index in load.indices]
    return all(any(index.same_as(axis.variable) for index in indices) for axis in block.reduced if axis.extent > 1)


def shares_of(block: Block) -> int:
    """Threads that share each result."""
    shares = 1
    while shares < MOST_SHARES and block.size * shares < FULL and 2 * shares * EACH <= block.depth:
        shares *= 2
    return shares


def parts_of(block: Block) -> int:
    """Blocks that share each result."""
    blocks = -(-block.size // LANES)
    return max(1, min(MOST_PARTS, BLOCKS // max(1, blocks), block.depth // (MOST_SHARES * LONG)))


class ColumnWriter(DeviceWriter):
    """Writes what several threads of a block do for each result: reductions are shared by them, and the first one, `share` 0, has the result."""

    def __init__(self, support: DeviceSupport, where: str) -> None:
        super().__init__(support, where)
        self.shares, self.bounds = 1, ("", "")

    def accumulated(self, block: Block, axes: Sequence[tuple[Axis, None]]) -> str:
        """The name of the result of a reduction, which is whole for the first thread only."""
        name, at = self.start(block), tirx.Var("j", "int32")
        j = self.name("j")
        self.range(at, block.depth, j)
        first, end = f"{self.bounds[0]} + share" if self.bounds[0] else "share", self.bounds[1] or str(block.depth)
        self.emit("#pragma unroll 8")
        self.emit(f"for (int32_t {j} = {first}; {j} < {end}; {j} += {self.shares}) {{")

        def turn() -> None:
            self.unravel([axis for axis, _ in axes], at)
            with self.reducing(block, name):
                self.emit(f"{name} = {bare(self.value(block.value))};")

        self.body(turn)
        self.emit("}")
        self._combine(block, name)
        return name

    def _combine(self, block: Block, name: str) -> None:
        shared, kind, element = self.name("shared"), self.type(block.value), self.name("other")
        mine, other = (tirx.Var(n, str(block.target.dtype)) for n in (name, element))
        self.names[hash(mine)], self.names[hash(other)] = name, element
        self.emit(f"__shared__ {kind} {shared}[{self.shares}][{LANES}];")
        self.emit(f"{shared}[share][threadIdx.x] = {name};")
        self.emit("__syncthreads();")
        self.emit("if (share == 0) {")
        self.emit("  #pragma unroll")
        self.emit(f"  for (int32_t k = 1; k < {self.shares}; ++k) {{")
        self.emit(f"    const {kind} {element} = {shared}[k][threadIdx.x];")
        self.emit(f"    {name} = {bare(self.value(combiner(block)(mine, other)))};")
        self.emit("  }")
        self.emit("}")


def column_stage(kernel: KernelText, block: Block, virtual: dict[int, Block], shares: int) -> None:
    """Add the function of a reduction across rows whose result is stored, or of an element-wise block that reads such a one, which is virtual."""
    writer = _writer(kernel, shares)
    writer.virtual = virtual
    position = tirx.Var("i", "int32")
    writer.range(position, block.size, "i")
    writer.unravel(block.spatial, position)
    value = bare(writer.value(block.value)) if block.initial is None else writer.accumulated(block, [(a, None) for a in block.reduced])
    target = writer.buffers[hash(block.target)]
    writer.written.add(target)
    whole = "" if block.size % LANES == 0 else f" && blockIdx.x * {LANES} + threadIdx.x < {block.size}"
    writer.emit(f"if (share == 0{whole}) {writer.element(block.target, block.index)} = {value};")
    kernel.add(writer, (-(-block.size // LANES), 1, 1), (LANES, shares, 1), _opening(block.size))


def split_columns(kernel: KernelText, block: Block) -> Block:
    """The reduction of what several blocks have of each result; adds the function that computes that. The block itself where they are many."""
    count = parts_of(block)
    known = {hash(buffer) for buffer in kernel.buffers}
    if count == 1 or not all(hash(load.source) in known for load in _loads(block)):
        return block
    partial = tirx.decl_buffer((count, block.size), str(block.target.dtype), f"{block.name}_parts", layout=None)
    kernel.space(partial)
    writer, chunk = _writer(kernel, MOST_SHARES), -(-block.depth // count)
    position = tirx.Var("i", "int32")
    writer.range(position, block.size, "i")
    writer.unravel(block.spatial, position)
    writer.bounds = f"blockIdx.y * {chunk}", f"min((int32_t)(blockIdx.y + 1) * {chunk}, {block.depth})"
    name, target = writer.accumulated(block, [(a, None) for a in block.reduced]), writer.buffers[hash(partial)]
    writer.written.add(target)
    whole = "" if block.size % LANES == 0 else f" && blockIdx.x * {LANES} + threadIdx.x < {block.size}"
    writer.emit(f"if (share == 0{whole}) {target}[blockIdx.y * {block.size} + i] = {name};")
    kernel.add(writer, (-(-block.size // LANES), count, 1), (LANES, MOST_SHARES, 1), _opening(block.size))
    part, flat = tirx.Var("part", "int32"), tirx.const(0, "int32")
    for axis in block.spatial:
        flat = flat * axis.extent + axis.variable
    own = tirx.BufferLoad(block.target, list(block.index))
    value = combiner(block)(own, tirx.BufferLoad(partial, [part, flat]))
    return Block(block.name, block.spatial, (Axis(part, count),), block.target, block.index, value, block.initial)


def _writer(kernel: KernelText, shares: int) -> ColumnWriter:
    writer = kernel.writer(ColumnWriter)
    assert isinstance(writer, ColumnWriter)
    writer.name("share")
    writer.shares = shares
    return writer


def _opening(size: int) -> list[str]:
    """What a function begins with: threads beyond the last result compute that one, so that all meet at barriers."""
    index = f"(int32_t)(blockIdx.x * {LANES} + threadIdx.x)"
    return ["  const int32_t share = threadIdx.y;", f"  const int32_t i = {index if size % LANES == 0 else f'min({index}, {size - 1})'};"]


def _loads(block: Block) -> list[Any]:
    """What a reduction reads, without its own result."""
    found, pending = [], [block.value]
    while pending:
        node = pending.pop()
        if isinstance(node, TensorLoad):
            pending += list(node.indices)
            if hash(node.source) != hash(block.target):
                found.append(node)
        else:
            pending += parts(node)
    return found
