"""A thread's share of a row: runs of neighbours, which are loaded at once, kept in registers from stage to stage, and stored at once."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from lepton_compiler.backends.tvm.c99.support import Support
from lepton_compiler.backends.tvm.cuda.text.support import DeviceSupport
from lepton_compiler.backends.tvm.cuda.text.vectors import WIDEST, VectorWriter
from lepton_compiler.backends.tvm.cuda.text.writer import DeviceWriter, Expr
from lepton_compiler.backends.tvm.schedules.loops import bits_of

ACCESSES = (4, 8, WIDEST)
"""Bytes of those that take several elements."""
UNROLLED = 64
"""Elements of a share up to which loops over it are unrolled."""
KEPT = 384
"""Bytes of registers that a thread may keep elements in."""


@dataclass(frozen=True)
class Share:
    """The elements of a row that a thread has: of each turn, `width` neighbours.

    Attributes:
        extent: elements of the row.
        lanes: threads that share it.
        width: a power of two.
    """

    extent: int
    lanes: int
    width: int

    @staticmethod
    def of(extent: int, lanes: int, most: int) -> Share:
        """As many neighbours as one load takes, `most`, if all threads have some; fewer where all have the same number then."""
        fitting = [n for n in (16, 8, 4, 2, 1) if n <= most and extent % n == 0 and extent // n >= lanes]
        return Share(extent, lanes, next((n for n in fitting if extent % (n * lanes) == 0), (*fitting, 1)[0]))

    @property
    def turns(self) -> int:
        """Runs of neighbours."""
        return -(-self.extent // (self.width * self.lanes))

    @property
    def elements(self) -> int:
        """Of the thread that has the most."""
        return self.turns * self.width

    def first(self, turn: str) -> str:
        """The index in the row of the first element of a turn."""
        return f"({turn} * {self.lanes} + lane) * {self.width}" if self.width > 1 else f"{turn} * {self.lanes} + lane"

    def loop(self, turn: str, lines: Sequence[str]) -> list[str]:
        """`lines` for each turn."""
        ends = self.extent % (self.width * self.lanes) != 0
        inside = f"if ({turn} < {self.turns - 1} || {self.first(turn)} < {self.extent}) " if ends else ""
        pragma = "#pragma unroll" if self.elements <= UNROLLED else "#pragma unroll 4"
        head = f"for (int32_t {turn} = 0; {turn} < {self.turns}; ++{turn}) {inside}{{"
        return [f"  {pragma}", f"  {head}", *(f"  {line}" for line in lines), "  }"]


@dataclass
class Kept:
    """Elements of a buffer in registers: those that lie from `base` on, a share of them."""

    name: str
    kind: str
    buffer: str
    base: str
    share: Share
    bytes: int

    @property
    def access(self) -> str:
        """The type of a load or store of neighbours; none where they are moved one by one."""
        size = self.bytes * self.share.width
        return f"lepton_{size}bytes" if size in ACCESSES and self.share.width > 1 else ""

    @property
    def declaration(self) -> str:
        """Both views of the registers: `each` element, and what is moved at once."""
        whole = f"{self.access} whole[{self.share.turns}]; " if self.access else ""
        return f"  union {{ {whole}{self.kind} each[{self.share.elements}]; }} {self.name};"

    def moves(self, store: bool = False) -> list[str]:
        """Load all elements, or store them."""
        turn = f"{self.name}_turn"
        place = f"{self.buffer} + {self.base} + {self.share.first(turn)}"
        if self.access:
            memory = f"*({'' if store else 'const '}{self.access} *)({place})"
            registers = f"{self.name}.whole[{turn}]"
        else:
            memory, registers = f"({place})[next]", f"{self.name}.each[{turn} * {self.share.width} + next]"
        move = f"{memory} = {registers};" if store else f"{registers} = {memory};"
        each = [f"  for (int32_t next = 0; next < {self.share.width}; ++next) {move}"]
        return self.share.loop(turn, [f"  {move}"] if self.access else ["  #pragma unroll", *each])


class RowWriter(VectorWriter):
    """Writes stages of rows whose elements are kept in registers, or, where they are too many, read in vectors.

    Attributes:
        share: that of the loop whose body is being written.
        at: its index variable.
        slot: the number of the element in the share.
        apart: buffers that some stage writes and another reads, which are not kept; None where nothing is.
        kept: what is kept, by buffer, place and share.
    """

    def __init__(self, support: DeviceSupport, where: str) -> None:
        super().__init__(support, where)
        self.share: Share | None = None
        self.at: Any = None
        self.slot = ""
        self.apart: Collection[int] | None = None
        self.kept: dict[tuple[str, str, Share], Kept] = {}

    @contextmanager
    def sharing(self, share: Share, at: Any, slot: str) -> Iterator[None]:
        """Write the body of a loop over a share."""
        self.share, self.at, self.slot = share, at, slot
        yield
        self.share = None

    def keeps(self, share: Share) -> bool:
        """Whether elements of such a share are kept."""
        return self.apart is not None and share.elements <= UNROLLED

    def kept_of(self, buffer: Any) -> list[Kept]:
        """What is kept of a buffer."""
        return [kept for kept in self.kept.values() if kept.buffer == self.buffers.get(hash(buffer))]

    def another(self, support: Support) -> DeviceWriter:
        """Functions of the device keep nothing."""
        return DeviceWriter(self.support, self.where)

    def element(self, buffer: Any, indices: Any) -> str:
        """An element of an array, where it is at the thread's own place in a row."""
        name, share = self.buffers.get(hash(buffer), ""), self.share
        if share is None or self.apart is None or not self.keeps(share) or hash(buffer) in (*self.registers, *self.apart):
            return super().element(buffer, indices)
        base, size = self.base(buffer, indices, share), bits_of(buffer.dtype) // 8
        if not name or base is None:
            return super().element(buffer, indices)
        key = name, base or "", share
        if key not in self.kept:
            if sum(k.bytes * k.share.elements for k in self.kept.values()) + size * share.elements > KEPT:
                return super().element(buffer, indices)
            self.kept[key] = Kept(self.name(f"{name}_row"), self.element_type(buffer), name, base, share, size)
        return f"{self.kept[key].name}.each[{self.slot}]"

    def base(self, buffer: Any, indices: Any, share: Share) -> str | None:
        """Elements of a buffer before the row, where the element is the thread's own and loads of several would be aligned."""
        base: Expr = self.simplified(self.flat(buffer, indices) - self.at)
        text = self.index(base)
        if re.search(rf"\b{self.names[hash(self.at)]}\b", text) or not self.analyzer.can_prove(tirx.floormod(base, share.width) == 0):
            return None
        return f"({text})"
