"""The text of a kernel in the making: functions for the device, what they call, and how they are launched."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lepton_compiler.backends.tvm.c99.expressions import pruned
from lepton_compiler.backends.tvm.choice import ANALYTIC, Choice
from lepton_compiler.backends.tvm.cuda.text.support import DeviceSupport
from lepton_compiler.backends.tvm.cuda.text.writer import DeviceWriter
from lepton_compiler.backends.tvm.launches import Extent, Launch
from lepton_compiler.ir.types import TensorType, dtype

THREADS = 256
"""Threads of a block, where nothing asks for another number."""


@dataclass
class KernelText:
    """The functions of one kernel.

    Attributes:
        symbol: what their names begin with.
        where: the kernel, for messages.
        buffers: the parameters of the kernel; buffers between its stages are added to them.
        alone: whether no two parameters overlap.
        choice: what tuning chose.
    """

    symbol: str
    where: str
    buffers: list[Any]
    alone: bool
    choice: Choice = ANALYTIC
    support: DeviceSupport = field(default_factory=DeviceSupport)
    functions: list[str] = field(default_factory=list)
    launches: list[Launch] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    spaces: list[TensorType] = field(default_factory=list)

    @property
    def threads(self) -> int:
        """Threads of a block whose threads each have elements of their own."""
        return self.choice.threads or THREADS

    def writer(self, kind: type[DeviceWriter] = DeviceWriter) -> DeviceWriter:
        """A writer of a function's body that knows the parameters as `p0`, `p1`, ..."""
        writer = kind(self.support, self.where)
        for k, buffer in enumerate(self.buffers):
            writer.buffers[hash(buffer)] = writer.name(f"p{k}")
        for reserved in ("blockIdx", "threadIdx", "lane", "row", "i"):
            writer.name(reserved)
        return writer

    def space(self, buffer: Any) -> None:
        """Let a buffer between stages be one more parameter, planned into the arena."""
        self.buffers.append(buffer)
        self.spaces.append(TensorType(dtype(str(buffer.dtype)), tuple(int(e) for e in buffer.shape)))

    def add(self, writer: DeviceWriter, grid: Extent, block: Extent, opening: Sequence[str] = ()) -> None:
        """Finish a function: `opening` and the writer's lines are its body."""
        lines = pruned([*opening, *writer.lines])
        words = set(re.findall(r"\w+", " ".join(lines)))
        used = [k for k in range(len(self.buffers)) if f"p{k}" in words]
        formals = [self._formal(writer, k) for k in used]
        name = f"{self.symbol}_{len(self.launches)}"
        threads = block[0] * block[1] * block[2]
        head = f'extern "C" __global__ void __launch_bounds__({threads}) {name}({", ".join(formals)}) {{'
        self.functions.append("\n".join([head, *(line for line in lines if line), "}", ""]))
        self.launches.append(Launch(name, grid, block, tuple(used)))

    def _formal(self, writer: DeviceWriter, k: int) -> str:
        writes = f"p{k}" in writer.written
        restrict = "__restrict__ " if self.alone else ""
        return f"{'' if writes else 'const '}{writer.element_type(self.buffers[k])} *{restrict}p{k}"

    @property
    def text(self) -> str:
        """Chunks with empty lines between them."""
        return self.support.text(self.functions)
