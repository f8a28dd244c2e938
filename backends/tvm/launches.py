"""How a kernel for a GPU is started: what the driver is told beside its arguments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Extent = tuple[int, int, int]


@dataclass(frozen=True)
class Launch:
    """One start of a `__global__` function, whose parameters are pointers.

    Attributes:
        symbol: its name.
        grid: number of blocks along x, y and z.
        block: threads of a block along x, y and z.
        arguments: which of the kernel's parameters it takes, in order.
        shared_bytes: dynamic shared memory of a block.
        together: whether blocks wait for each other: all of them must be there at the same time.
        cleared: which of the kernel's parameters are set to zero before.
        before: code for this compute capability, as 90, and later ones does without the launch; 0 where none does.
    """

    symbol: str
    grid: Extent
    block: Extent
    arguments: tuple[int, ...]
    shared_bytes: int = 0
    together: bool = False
    cleared: tuple[int, ...] = ()
    before: int = 0

    def is_needed(self, capability: tuple[int, int]) -> bool:
        """Whether code for this compute capability needs it."""
        return not self.before or capability[0] * 10 + capability[1] < self.before

    def to_json(self) -> list[Any]:
        """As a row of JSON."""
        extents = [list(self.grid), list(self.block)]
        return [self.symbol, *extents, list(self.arguments), self.shared_bytes, self.together, list(self.cleared), self.before]

    @staticmethod
    def from_json(row: list[Any]) -> Launch:
        """The inverse of `to_json`."""
        symbol, (gx, gy, gz), (bx, by, bz), arguments, shared, together, cleared, before = row
        return Launch(symbol, (gx, gy, gz), (bx, by, bz), tuple(arguments), shared, together, tuple(cleared), before)
