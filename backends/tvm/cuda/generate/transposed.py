"""Transpositions: squares of elements go through shared memory, so that both reads and writes are of neighbours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.ir.expr import TensorLoad

from lepton_compiler.backends.tvm.c99.expressions import bare
from lepton_compiler.backends.tvm.cuda.generate.function import KernelText
from lepton_compiler.backends.tvm.cuda.text.writer import Axis, Block
from lepton_compiler.backends.tvm.schedules.epilogue import parts

SIDE, ROWS = 32, 8
"""Elements along a side of a square, and rows of it that a block of threads moves at a time."""
LEAST = 16
"""Elements along an axis that a square is not mostly empty for."""
MOST_BLOCKS = 65535
"""Along the second axis of a grid."""


@dataclass(frozen=True)
class Run:
    """Neighbouring axes of the result that are neighbours in the source, too: how far apart their elements are there."""

    axes: tuple[Axis, ...]
    stride: int

    @property
    def extent(self) -> int:
        """Elements of all axes."""
        return math.prod(a.extent for a in self.axes)


@dataclass(frozen=True)
class Transposition:
    """A block whose result has other neighbours than the one operand that it reads along another axis: which load that is, and the runs."""

    source: Any
    first: int
    runs: tuple[Run, ...]
    across: int

    @property
    def rest(self) -> list[Run]:
        """The runs that are neither the innermost one of the result nor that of the source."""
        return [run for k, run in enumerate(self.runs) if k not in (self.across, len(self.runs) - 1)]


def find_transposition(block: Block) -> Transposition | None:
    """How a block transposes, if it does so along axes that are long enough, and stores its elements in order."""
    if len(block.index) != len(block.spatial) or not all(i.same_as(a.variable) for i, a in zip(block.index, block.spatial, strict=True)):
        return None
    for load in _loads(block.value):
        found = _runs(block.spatial, load)
        if found is None:
            continue
        runs, first = found
        across = next((k for k, run in enumerate(runs[:-1]) if run.stride == 1), None)
        if (
            across is None
            or min(runs[across].extent, runs[-1].extent) < LEAST
            or sum(x.source.same_as(load.source) for x in _loads(block.value)) > 1
        ):
            continue
        made = Transposition(load.source, first, tuple(runs), across)
        return made if math.prod(run.extent for run in made.rest) <= MOST_BLOCKS else None
    return None


def _loads(value: Any) -> list[Any]:
    found, pending = [], [value]
    while pending:
        node = pending.pop()
        if isinstance(node, TensorLoad):
            found.append(node)
        else:
            pending += parts(node)
    return found


def _runs(axes: Sequence[Axis], load: Any) -> tuple[list[Run], int] | None:
    """The axes in runs, and the position of the first element; None where an index is no axis, or an axis is not an index just once."""
    extents = [int(e) for e in load.source.shape]
    strides: dict[int, int] = {}
    first = 0
    for k, index in enumerate(load.indices):
        step = math.prod(extents[k + 1 :])
        axis = next((n for n, a in enumerate(axes) if a.variable.same_as(index)), None)
        if isinstance(index, tirx.IntImm):
            first += int(index.value) * step
        elif axis is None or axis in strides:
            return None
        else:
            strides[axis] = step
    kept = [n for n, a in enumerate(axes) if a.extent > 1]
    if any(n not in strides for n in kept):
        return None
    runs: list[Run] = []
    for n in kept:
        if runs and runs[-1].stride == strides[n] * axes[n].extent:
            runs[-1] = Run((*runs[-1].axes, axes[n]), strides[n])
        else:
            runs.append(Run((axes[n],), strides[n]))
    return (runs, first) if len(runs) > 1 else None


def transposed_stage(kernel: KernelText, block: Block, how: Transposition) -> None:
    """Add the function of a transposition, and of what is computed with each element on the way."""
    across, along, rest = how.runs[how.across], how.runs[-1], how.rest
    w = kernel.writer()
    source, target = w.buffers[hash(how.source)], w.buffers[hash(block.target)]
    squares = -(-across.extent // SIDE)
    names = ("r", "p", "l")
    r, p, at = (tirx.Var(n, "int32") for n in names)
    for variable, name, extent in zip((r, p, at), names, (math.prod(x.extent for x in rest), across.extent, along.extent), strict=True):
        w.range(variable, extent, w.name(name))
    for axis in block.spatial:
        w.equate(axis.variable, tirx.const(0, "int32"))
    w.unravel([a for run in rest for a in run.axes], r)
    base: Any = tirx.const(how.first, "int32")
    for run in rest:
        for k, axis in enumerate(run.axes):
            base = base + axis.variable * (run.stride * math.prod(a.extent for a in run.axes[k + 1 :]))
    w.unravel(across.axes, p)
    w.unravel(along.axes, at)
    w.emit(f"__shared__ {w.element_type(how.source)} square[{SIDE}][{SIDE + 1}];")
    w.emit("const int32_t r = blockIdx.y;")
    w.emit(f"const int32_t first_p = blockIdx.x % {squares} * {SIDE};")
    w.emit(f"const int32_t first_l = blockIdx.x / {squares} * {SIDE};")
    inside = f"p < {across.extent} && l < {along.extent}"
    w.emit("#pragma unroll")
    w.emit(f"for (int32_t j = threadIdx.y; j < {SIDE}; j += {ROWS}) {{")
    w.emit("  const int32_t p = first_p + threadIdx.x;")
    w.emit("  const int32_t l = first_l + j;")
    w.emit(f"  if ({inside}) square[j][threadIdx.x] = {source}[{w.index(w.simplified(base + p + at * along.stride))}];")
    w.emit("}")
    w.emit("__syncthreads();")
    w.emit("#pragma unroll")
    w.emit(f"for (int32_t j = threadIdx.y; j < {SIDE}; j += {ROWS}) {{")
    w.emit("  const int32_t p = first_p + j;")
    w.emit("  const int32_t l = first_l + threadIdx.x;")
    w.emit(f"  if ({inside}) {{")
    w.registers[hash(how.source)] = "square[threadIdx.x][j]"
    w.depth += 1

    def store() -> None:
        value = bare(w.value(block.value))
        w.emit(f"{target}[{w.index(w.flat(block.target, block.index))}] = {value};")

    lines, _ = w.block(store)
    w.depth -= 1
    w.lines += lines
    w.emit("  }")
    w.emit("}")
    w.written.add(target)
    grid = (squares * -(-along.extent // SIDE), math.prod(run.extent for run in rest), 1)
    kernel.add(w, grid, (SIDE, ROWS, 1))
