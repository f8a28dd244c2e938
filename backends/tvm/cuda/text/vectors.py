"""Elements that neighbouring iterations of a loop read or write side by side, as vectors: loaded before the loop, stored after it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import tvm
from tvm import tirx
from tvm.ir import Range

from lepton_compiler.backends.tvm.cuda.text.support import DeviceSupport
from lepton_compiler.backends.tvm.cuda.text.writer import DeviceWriter, Expr
from lepton_compiler.backends.tvm.schedules.loops import bits_of

WIDEST = 16
"""Bytes of the widest load and store."""


def start_of_vector(flat: Expr, facts: Mapping[int, tuple[Any, Any]], lane: Any, count: int, size: int) -> Expr | None:
    """Where the vector begins of which `flat` is the position of element `lane`; None where the elements are not `count` aligned neighbours.

    Args:
        facts: what is known of variables, in order: their ranges or values, as of `DeviceWriter`.
        size: elements of the buffer, all of which the vector must be among.
    """
    every, first = tvm.sym.Analyzer(), tvm.sym.Analyzer()
    for variable, fact in facts.values():
        every.bind(variable, fact)
        first.bind(
            variable, tirx.const(0, "int32") if variable.same_as(lane) else first.simplify(fact) if not isinstance(fact, Range) else fact
        )
    start: Expr = first.simplify(flat)
    fits = (
        every.can_prove_equal(flat, start + lane)
        and first.can_prove_equal(tirx.floormod(start, count), 0)
        and first.can_prove(tirx.all(start >= 0, start + count <= size))
    )
    return start if fits else None


class VectorWriter(DeviceWriter):
    """Within `vectors`, elements that lie side by side for all values of a variable are those of arrays, which are loaded and stored as a whole."""

    def __init__(self, support: DeviceSupport, where: str) -> None:
        super().__init__(support, where)
        self.lane: Any = None
        self.count = 1
        self.arrays: dict[tuple[str, str], tuple[str, Any]] = {}

    def begin(self, lane: Any, count: int) -> None:
        """From here on, `lane` is a variable from 0 to `count` whose elements are put together."""
        self.lane, self.count, self.arrays = lane, count, {}

    def end(self) -> None:
        """No longer."""
        self.lane = None

    def element(self, buffer: Any, indices: Any) -> str:
        """An element, of an array where it is of one."""
        key = hash(buffer)
        if self.lane is None or key in self.registers or key not in self.buffers:
            return super().element(buffer, indices)
        flat = self.flat(buffer, indices)
        start = start_of_vector(flat, self.facts, self.lane, self.count, math.prod(int(e) for e in buffer.shape))
        if start is None:
            return super().element(buffer, indices)
        place = self.buffers[key], self.index(start)
        if place not in self.arrays:
            self.arrays[place] = self.name(f"{place[0]}_wide"), buffer
        return f"{self.arrays[place][0]}[{self.names[hash(self.lane)]}]"

    @property
    def widest(self) -> int:
        """Bytes of the largest array."""
        return max((self.count * bits_of(buffer.dtype) // 8 for _, buffer in self.arrays.values()), default=0)

    def transfers(self, lines: list[str]) -> tuple[list[str], list[str]]:
        """What comes before and after a loop of these lines: arrays, their loads and their stores."""
        before, after = [], []
        for (name, start), (array, buffer) in self.arrays.items():
            size = self.count * bits_of(buffer.dtype) // 8
            written = any(line.lstrip().startswith(f"{array}[") for line in lines)
            read = any(f"{array}[" in line.partition(" = ")[2] for line in lines)
            before.append(f"__align__({size}) {self.element_type(buffer)} {array}[{self.count}];")
            if read or not written:
                before.append(f"*(lepton_{size}bytes *){array} = *(const lepton_{size}bytes *)({name} + {start});")
            if written:
                after.append(f"*(lepton_{size}bytes *)({name} + {start}) = *(const lepton_{size}bytes *){array};")
        return before, after
