"""The text of a kernel in the making: functions for the device, what they call, and how they are launched."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from lepton_compiler.backends.tvm.c99.expressions import pruned
from lepton_compiler.backends.tvm.choice import ANALYTIC, Choice
from lepton_compiler.backends.tvm.cuda.text.order import AFTER_PREVIOUS, pointer
from lepton_compiler.backends.tvm.cuda.text.support import DeviceSupport
from lepton_compiler.backends.tvm.cuda.text.writer import DeviceWriter
from lepton_compiler.backends.tvm.kernels import KernelParameter
from lepton_compiler.backends.tvm.launches import Extent, Launch
from lepton_compiler.ir.types import TensorType, dtype

THREADS = 256
"""Threads of a block, where nothing asks for another number."""


def weights_among(parameters: Sequence[KernelParameter], constants: Collection[int]) -> frozenset[int]:
    """Positions of the parameters that nothing writes while a session is open; `constants` are the operands that are."""
    return frozenset(k for k, p in enumerate(parameters) if p.kind in ("packed", "table") or (p.kind == "input" and p.index in constants))


@dataclass
class KernelText:
    """The functions of one kernel.

    Attributes:
        symbol: what their names begin with.
        where: the kernel, for messages.
        buffers: the parameters of the kernel; buffers between its stages are added to them.
        alone: whether no two parameters overlap.
        choice: what tuning chose.
        weights: which parameters nothing writes while a session is open.
    """

    symbol: str
    where: str
    buffers: list[Any]
    alone: bool
    choice: Choice = ANALYTIC
    weights: frozenset[int] = frozenset()
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
        """Finish a function: `opening` and the writer's lines are its body.

        The opening begins with where the thread is, which is worked out while the kernel before runs.
        """
        lines = [line for line in pruned([*opening, *writer.lines]) if line]
        places = len(list(takewhile(lambda line: line in opening and line.startswith("  const int32_t "), lines)))
        words = set(re.findall(r"\w+", " ".join(lines)))
        used = [k for k in range(len(self.buffers)) if f"p{k}" in words]
        formals = [self._formal(writer, k) for k in used]
        name = f"{self.symbol}_{len(self.launches)}"
        threads = block[0] * block[1] * block[2]
        head = f'extern "C" __global__ void __launch_bounds__({threads}) {name}({", ".join(formals)}) {{'
        self.functions.append("\n".join([head, *lines[:places], f"  {AFTER_PREVIOUS}", *lines[places:], "}", ""]))
        self.launches.append(Launch(name, grid, block, tuple(used)))

    def _formal(self, writer: DeviceWriter, k: int) -> str:
        written, kind = f"p{k}" in writer.written, writer.element_type(self.buffers[k])
        return pointer(kind, f"p{k}", written=written, weight=k in self.weights, alone=self.alone)

    @property
    def text(self) -> str:
        """Chunks with empty lines between them."""
        return self.support.text(self.functions)
