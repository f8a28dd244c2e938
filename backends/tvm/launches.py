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
    """

    symbol: str
    grid: Extent
    block: Extent
    arguments: tuple[int, ...]
    shared_bytes: int = 0
    together: bool = False
    cleared: tuple[int, ...] = ()

    def to_json(self) -> list[Any]:
        """As a row of JSON."""
        return [self.symbol, list(self.grid), list(self.block), list(self.arguments), self.shared_bytes, self.together, list(self.cleared)]

    @staticmethod
    def from_json(row: list[Any]) -> Launch:
        """The inverse of `to_json`."""
        symbol, (gx, gy, gz), (bx, by, bz), arguments, shared, together, cleared = row
        return Launch(symbol, (gx, gy, gz), (bx, by, bz), tuple(arguments), shared, together, tuple(cleared))
