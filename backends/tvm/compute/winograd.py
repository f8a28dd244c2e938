"""Winograd's minimal filtering F(m x m, 3 x 3): which tile pays, and the transforms.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015. A tile of m x m outputs takes (m + 2)^2 products per
pair of channels instead of 9 m^2. With m = 4 the result is less accurate than the direct sum: about ten times its rounding error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lepton_compiler.backends.tvm.choice import ANALYTIC, Choice
from lepton_compiler.backends.tvm.schedules.tiling import pixel_tile, vectors_per_block
from lepton_compiler.target import Target

Matrix = Sequence[Sequence[float]]

INPUT: dict[int, Matrix] = {
    2: ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
    4: (
        (4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0), (0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0), (0, 4, 0, -5, 0, 1),
    ),
}  # fmt: skip
"""B transposed, by m."""
OUTPUT: dict[int, Matrix] = {
    2: ((1, 1, 1, 0), (0, 1, -1, -1)),
    4: ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)),
}
"""A transposed, by m."""

SMALLEST = 16
"""Channels from which the transforms can pay."""
GAIN = 0.85
"""Largest share of the direct kernel's estimated time at which Winograd is taken."""
TRANSFORM_CYCLES = {2: (40, 34), 4: (130, 100)}
"""Estimated cycles per tile and vector of channels: input and output transform, by m."""
FMAS, STREAM_BYTES = 1.6, 5.0
"""Fused multiply-adds of vectors, and bytes from beyond level 2, per cycle, that kernels reach."""
FEW = 8
"""Chunks below which an odd number of them would leave one of two threads idle for long."""


@dataclass(frozen=True)
class Plan:
    """How a convolution is done: tiles of `m` outputs, `tiles` of them in all, worked on in `chunks` of `chunk` tiles.

    Register tiles have `rows` image tiles and `vectors` vectors of output channels.
    """

    m: int
    size: tuple[int, int]
    rows: int
    vectors: int
    chunk: int
    chunks: int

    @property
    def alpha(self) -> int:
        """Width of an input tile."""
        return self.m + 2


def plan(images: int, size: tuple[int, int], channels: int, out_channels: int, target: Target, choice: Choice = ANALYTIC) -> Plan | None:
    """The best way to compute a 3 x 3 convolution with these output sizes, or None where the direct kernel is as good.

    Firmware has neither the memory for the tiles nor the flash for several times the weights.
    """
    if choice.winograd is not None:
        return _chosen(choice.winograd, images, size, out_channels, target, choice) if choice.winograd else None
    lanes = target.lanes(32)
    if min(channels, out_channels) < SMALLEST or target.is_firmware:
        return None
    block = vectors_per_block(out_channels, target) * lanes
    computed = -(-out_channels // block) * block
    products, weights = channels * computed / lanes / FMAS, channels * computed * 4
    best = GAIN * max(9 * images * size[0] * size[1] * products, _streamed(9 * weights, target))
    found: Plan | None = None
    for m, whole in ((2, False), (2, True), (4, False), (4, True)):
        candidate = _candidate(m, images, size, channels, out_channels, target, whole)
        points, (before, after) = candidate.alpha**2, TRANSFORM_CYCLES[m]
        rows = candidate.chunk * candidate.chunks
        passes = candidate.chunks if points * weights > target.l2_bytes // 4 else 1
        scratch = 4 * points * candidate.chunk * (channels + computed)
        cycles = max(points * rows * products, _streamed(passes * points * weights, target))
        cycles += 2 * candidate.chunks * _streamed(scratch, target) + rows * (
            before * -(-channels // lanes) + after * -(-out_channels // lanes)
        )
        if cycles < best:
            best, found = cycles, candidate
    return found


def _streamed(size: int, target: Target) -> float:
    """Cycles to read so many bytes, of which level 2 can hold a quarter of its size."""
    return size / STREAM_BYTES if size > target.l2_bytes // 4 else 0.0


def _chosen(m: int, images: int, size: tuple[int, int], out_channels: int, target: Target, choice: Choice) -> Plan:
    """The plan that tuning chose; it works on all tiles at once where no number of them is chosen."""
    tiles = images * -(-size[0] // m) * -(-size[1] // m)
    vectors = choice.vectors or vectors_per_block(out_channels, target)
    rows = min(tiles, choice.pixels) if choice.pixels else pixel_tile(tiles, vectors, target)
    chunk = -(-min(choice.rows or tiles, tiles) // rows) * rows
    return Plan(m, size, rows, vectors, chunk, -(-tiles // chunk))


def _candidate(m: int, images: int, size: tuple[int, int], channels: int, out_channels: int, target: Target, whole: bool) -> Plan:
    """A plan whose chunks fit a quarter of level 2, or that works on all tiles at once."""
    tiles = images * -(-size[0] // m) * -(-size[1] // m)
    vectors = vectors_per_block(out_channels, target)
    rows = pixel_tile(tiles, vectors, target)
    room = tiles if whole else target.l2_bytes // 4 // ((m + 2) ** 2 * (channels + out_channels) * 4)
    most = max(rows, -(-min(tiles, room) // rows) * rows if whole else min(tiles, room) // rows * rows)
    chunks = -(-tiles // most)
    chunks += chunks % 2 if 1 < chunks < FEW else 0
    even = -(-tiles // chunks)
    chunk = -(-even // rows) * rows
    return Plan(m, size, rows, vectors, chunk, -(-tiles // chunk))
