"""What tuning may choose of one kernel in place of the analysis: sizes of tiles and blocks, and the algorithm.

An empty `Choice` leaves everything to the analysis. A choice is part of a `KernelSpec`, and so of the key under which the kernel's
object is cached; schedules get it as an argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from lepton_compiler.errors import UsageError


@dataclass(frozen=True)
class Choice:
    """Parameters of one kernel; None where the analysis decides.

    Attributes:
        pixels: rows of the register tile: output pixels, rows of a matrix, tiles of Winograd's algorithm.
        vectors: vectors of output channels, or columns, in a register tile; packed weights come in blocks of this size.
        rows: rows per block that is to stay in a cache: rows of the image, or of the matrix; tiles per chunk in Winograd's algorithm.
        winograd: width of Winograd's output tile, 2 or 4; 0 for the direct sum.
        unroll: steps of the innermost reduction in one iteration.
        prefetch: 0 to leave fetching packed weights to the hardware.

    On GPUs:
        block_rows, block_columns: of the part of a product that a block of threads computes.
        warp_rows, warp_columns: of the part of that which a warp computes.
        depth: steps of the sum in a stage.
        stages: parts of the operands in shared memory at the same time.
        splits: blocks that share a sum.
        groups: 1 where four warps multiply together.
        threads: of a block whose threads each have elements of their own.
        neighbours: elements of such a thread; channels of a thread of sliding windows, whose `pixels` and `rows` are those of the result.
        lanes: threads of a row, where a row has several.
    """

    pixels: int | None = None
    vectors: int | None = None
    rows: int | None = None
    winograd: int | None = None
    unroll: int | None = None
    prefetch: int | None = None
    block_rows: int | None = None
    block_columns: int | None = None
    warp_rows: int | None = None
    warp_columns: int | None = None
    depth: int | None = None
    stages: int | None = None
    splits: int | None = None
    groups: int | None = None
    threads: int | None = None
    neighbours: int | None = None
    lanes: int | None = None

    def __bool__(self) -> bool:
        return self != ANALYTIC

    def to_json(self) -> dict[str, int]:
        """The parameters that are chosen, by name."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    @staticmethod
    def from_json(data: Mapping[str, int]) -> Choice:
        """The inverse of `to_json`.

        Raises:
            UsageError: a parameter that there is not, or a value that it cannot have.
        """
        known = {f.name for f in fields(Choice)}
        bad = [name for name, value in data.items() if name not in known or type(value) is not int or not _possible(name, value)]
        if bad:
            raise UsageError(
                f"'{bad[0]}' = {data[bad[0]]!r} is no choice for a kernel",
                hint=f"there are {', '.join(sorted(known))}; docs/tuning.md says what they mean",
            )
        return Choice(**data)


LARGEST = {
    "pixels": 64,
    "vectors": 16,
    "rows": 1 << 24,
    "unroll": 64,
    **dict.fromkeys(("block_rows", "block_columns", "warp_rows", "warp_columns"), 256),
    "depth": 256,
    "stages": 8,
    "splits": 64,
}
"""Bounds that keep kernels compilable."""
LISTED = {
    "winograd": (0, 2, 4),
    "prefetch": (0,),
    "groups": (0, 1),
    "threads": (32, 64, 128, 256, 512, 1024),
    "neighbours": (1, 2, 4, 8),
    "lanes": (32, 64, 128, 256, 512, 1024),
}
"""All values that other parameters can have."""


def _possible(name: str, value: int) -> bool:
    return value in LISTED[name] if name in LISTED else 1 <= value <= LARGEST[name]


ANALYTIC = Choice()
"""Everything as the analysis decides."""
