"""A thread for each element, or for a few neighbours that are read and written at once."""

from __future__ import annotations

import math
from typing import Any

from tvm import tirx

from lepton_compiler.backends.tvm.c99.expressions import bare
from lepton_compiler.backends.tvm.cuda.generate.function import KernelText
from lepton_compiler.backends.tvm.cuda.text.support import DeviceSupport
from lepton_compiler.backends.tvm.cuda.text.writer import Block, DeviceWriter
from lepton_compiler.backends.tvm.schedules.loops import bits_of

WIDE_FROM = 1 << 16
"""Elements from which a thread computes several: below that all threads there are do not fill a GPU."""
WIDEST = 16
"""Bytes of the widest load and store."""


class WideWriter(DeviceWriter):
    """Elements at the thread's own positions are kept in arrays, which are loaded and stored as a whole."""

    def __init__(self, support: DeviceSupport, where: str) -> None:
        super().__init__(support, where)
        self.position: Any = None
        self.count, self.size = 1, 0
        self.wide: dict[str, tuple[str, str]] = {}

    def element(self, buffer: Any, indices: Any) -> str:
        """An element of an array, where the buffer has one."""
        name = self.buffers.get(hash(buffer), "")
        if self.position is None or not name or hash(buffer) in self.registers or not self.is_wide(buffer, indices):
            return super().element(buffer, indices)
        array, _ = self.wide.setdefault(name, (f"{name}_wide", self.element_type(buffer)))
        return f"{array}.each[lane]"

    def is_wide(self, buffer: Any, indices: Any) -> bool:
        """Whether the element is the one at the thread's position, of a buffer as large as the result."""
        if math.prod(int(e) for e in buffer.shape) != self.size or self.bytes_of(buffer) < 4:
            return False
        return bool(self.flat(buffer, indices).same_as(self.position))

    def bytes_of(self, buffer: Any) -> int:
        """Bytes of a whole array."""
        return self.count * bits_of(buffer.dtype) // 8


def element_stage(kernel: KernelText, block: Block, virtual: dict[int, Block]) -> None:
    """Add the function of a block without reduction; `virtual` reductions are computed where it reads them."""
    count = _neighbours(kernel, block, virtual)
    writer = kernel.writer(WideWriter)
    assert isinstance(writer, WideWriter)
    writer.virtual = virtual
    position = tirx.Var("i", "int32")
    threads = -(-block.size // count)
    width = kernel.threads
    index = f"blockIdx.x * {width} + threadIdx.x"
    if count == 1:
        writer.range(position, block.size, "i")
        writer.unravel(block.spatial, position)
        _store(writer, block)
        opening = [f"  const int32_t i = {index};", *([f"  if (i >= {block.size}) return;"] if block.size % width else [])]
    else:
        opening = _wide_body(writer, block, position, count, width)
    kernel.add(writer, (-(-threads // width), 1, 1), (width, 1, 1), opening)


def _neighbours(kernel: KernelText, block: Block, virtual: dict[int, Block]) -> int:
    """How many neighbouring elements a thread computes."""
    chosen = kernel.choice.neighbours
    if virtual or chosen == 1 or (chosen is None and block.size < WIDE_FROM):
        return 1
    probe = kernel.writer(WideWriter)
    assert isinstance(probe, WideWriter)
    probe.position, probe.size, probe.count = tirx.Var("i", "int32"), block.size, WIDEST
    probe.range(probe.position, block.size, "i")
    probe.unravel(block.spatial, probe.position)
    _store(probe, block)
    if not any(array in line for array, _ in probe.wide.values() for line in probe.lines if line.lstrip().startswith(array)):
        return 1
    kinds = [bits_of(b.dtype) for b in kernel.buffers if probe.buffers[hash(b)] in probe.wide]
    count = min(chosen or 8, WIDEST * 8 // max(kinds))
    return count if block.size % count == 0 else 1


def _wide_body(writer: WideWriter, block: Block, position: Any, count: int, width: int) -> list[str]:
    """Write the loop over the elements of a thread, of which a block has `width`; returns what comes before it."""
    writer.position, writer.size, writer.count = position, block.size, count
    writer.range(position, block.size, "i")
    writer.unravel(block.spatial, position)
    writer.emit("#pragma unroll")
    writer.emit(f"for (int32_t lane = 0; lane < {count}; ++lane) {{")
    lines, _ = writer.block(lambda: _store(writer, block))
    writer.lines += ["    const int32_t i = first + lane;", *lines, "  }"]
    opening = [f"  const int32_t first = (blockIdx.x * {width} + threadIdx.x) * {count};"]
    if block.size // count % width:
        opening.append(f"  if (first >= {block.size}) return;")
    for name, (array, kind) in writer.wide.items():
        size = count * _size(kind)
        opening.append(f"  union {{ lepton_{size}bytes whole; {kind} each[{count}]; }} {array};")
        if name not in writer.written or any(f"{array}.each[lane]" in line.partition(" = ")[2] for line in lines):
            opening.append(f"  {array}.whole = *(const lepton_{size}bytes *)({name} + first);")
        if name in writer.written:
            writer.emit(f"*(lepton_{size}bytes *)({name} + first) = {array}.whole;")
    return opening


def _size(kind: str) -> int:
    """Bytes of one of C's types."""
    known = {"float": 4, "double": 8, "bool": 1}
    return known[kind] if kind in known else int("".join(filter(str.isdigit, kind))) // 8


def _store(writer: DeviceWriter, block: Block) -> None:
    """Emit the assignment of a block whose spatial variables are known."""
    value = bare(writer.value(block.value))
    name = writer.buffers[hash(block.target)]
    writer.written.add(name)
    writer.emit(f"{writer.element(block.target, block.index)} = {value};")


def reduction_stage(kernel: KernelText, block: Block, virtual: dict[int, Block]) -> None:
    """Add the function of a reduction whose result is stored: a thread for each of its elements."""
    writer = kernel.writer()
    writer.virtual = virtual
    position = tirx.Var("i", "int32")
    writer.range(position, block.size, "i")
    writer.unravel(block.spatial, position)
    result = writer.accumulated(block, [(a, None) for a in block.reduced])
    name = writer.buffers[hash(block.target)]
    writer.written.add(name)
    writer.emit(f"{writer.element(block.target, block.index)} = {result};")
    width = kernel.threads
    opening = [f"  const int32_t i = blockIdx.x * {width} + threadIdx.x;", f"  if (i >= {block.size}) return;"]
    kernel.add(writer, (-(-block.size // width), 1, 1), (width, 1, 1), opening)
