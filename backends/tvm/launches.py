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
    """

    symbol: str
    grid: Extent
    block: Extent
    arguments: tuple[int, ...]
    shared_bytes: int = 0

    def to_json(self) -> list[Any]:
        """As a row of JSON."""
        return [self.symbol, list(self.grid), list(self.block), list(self.arguments), self.shared_bytes]

    @staticmethod
    def from_json(row: list[Any]) -> Launch:
        """The inverse of `to_json`."""
        symbol, (gx, gy, gz), (bx, by, bz), arguments, shared = row
        return Launch(symbol, (gx, gy, gz), (bx, by, bz), tuple(arguments), shared)
