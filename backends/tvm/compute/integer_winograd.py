"""Winograd's F(m x m, 3 x 3) in integers, without rounding: which tile pays, the transforms, and what has to hold.

The fractions of the filter's transform are taken out: its rows become whole numbers (`winograd_packing.FILTER`), and the products sum up to
`SCALE[m]` times the result. Transformed data and weights fit 16 bits, and are multiplied and added modulo 2^32. With m = 4 the scale is
576 = 9 * 64: a multiplication by the inverse of 9 modulo 2^32 and a shift to the right by 6 bits give the result, whatever overflowed before,
if the result itself has no more than 26 bits. That is known from the weights (`sum_bits`). With m = 2 the scale is 4, so 30 bits will do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lepton_compiler.backends.tvm.choice import ANALYTIC, Choice
from lepton_compiler.backends.tvm.dot import Dot
from lepton_compiler.backends.tvm.schedules.tiling import pixel_tile, vectors_per_block
from lepton_compiler.target import Target

Element = Any
"""What the transforms add and multiply: numbers, arrays, or TVM's expressions."""

SUM_BITS = {2: 30, 4: 26}
"""Bits, with the sign, that hold every result, by m."""
SHIFT = {2: 2, 4: 6}
"""By how many bits a scaled result is shifted to the right, by m."""
INVERSE = {2: 1, 4: 954437177}
"""What a scaled result is multiplied by before, modulo 2^32, by m: the inverse of the odd part of the scale."""
ONES = {2: 2, 4: -6}
"""The second element of B^T times a column of ones, by m; the others are zero."""

SMALLEST = 16
"""Channels from which the transforms can pay."""
GAIN = 0.9
"""Largest share of the direct kernel's estimated time at which this one is taken."""
TRANSFORM_CYCLES = {2: (60, 50), 4: (135, 105)}
"""Estimated cycles per tile and vector of channels, by m, on three ports: input transform of 16-bit numbers, output transform of 32-bit numbers."""
WIDEST_BITS, SLOWER = 512, 1.5
"""Vectors for which there are two ports only, and by how much that slows the transforms down."""
DOTS, FUSED_DOTS, PAIRED_DOTS, STREAM_BYTES = 1.4, 1.6, 0.9, 9.0
"""Dot products of vectors per cycle that kernels reach, in two instructions, in one, and in three; bytes from beyond level 2."""
SCRATCH_SHARE = 2
"""The part of the level-2 cache that transformed tiles may take is one in so many."""
FEW = 8
"""Chunks below which an odd number of them would leave one of two threads idle for long."""


@dataclass(frozen=True)
class Plan:
    """How a convolution is done: tiles of `m` x `m` outputs, in chunks.

    Attributes:
        m: width of a tile of outputs.
        rows: tiles in a register tile.
        vectors: vectors of output channels in it.
        lines: rows of tiles in a chunk, of all images one after the other.
        across: tiles of each of these rows in a chunk; all of them where a chunk has several rows.
        parts: chunks per row, or group of rows.
        chunks: chunks in all.
    """

    m: int
    rows: int
    vectors: int
    lines: int
    across: int
    parts: int
    chunks: int

    @property
    def alpha(self) -> int:
        """Width of an input tile."""
        return self.m + 2

    @property
    def room(self) -> int:
        """Tiles that there is room for in a chunk: whole register tiles."""
        return -(-self.lines * self.across // self.rows) * self.rows


def input_transform(m: int, d: Sequence[Element]) -> list[Element]:
    """B^T d: at most 10 times as large as the data with m = 4, twice with m = 2."""
    if m == 2:
        return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]
    even, odd, outer, twice = d[4] - d[2] * 4, d[3] - d[1] * 4, d[4] - d[2], (d[3] - d[1]) * 2
    return [(d[0] - d[2]) * 4 + outer, even + odd, even - odd, outer + twice, outer - twice, (d[5] - d[3]) - twice * 2]


def output_transform(m: int) -> Sequence[Callable[..., Element]]:
    """The rows of A^T, with m = 4 for weights of whose last point only half is stored."""
    if m == 2:
        return (lambda a, b, c, d: a + b + c, lambda a, b, c, d: (b - c) - d)
    return (
        lambda a, b, c, d, e, f: a + (b + c) + (d + e),
        lambda a, b, c, d, e, f: (b - c) + (d - e) * 2,
        lambda a, b, c, d, e, f: (b + c) + (d + e) * 4,
        lambda a, b, c, d, e, f: (b - c) + (d - e) * 8 + f * 2,
    )


def plan(
    images: int,
    size: tuple[int, int],
    channels: int,
    out_channels: int,
    bits: int,
    direct: Dot,
    wide: Dot,
    target: Target,
    choice: Choice = ANALYTIC,
) -> Plan | None:
    """The best way to compute a 3 x 3 convolution with these output sizes, or None where the direct kernel is as good.

    Args:
        images: how many there are.
        size: of the result, in pixels.
        channels: of the data.
        out_channels: of the result.
        bits: what holds every sum, with the sign.
        direct: the dot product of the direct kernel.
        wide: that of 16-bit numbers.
        target: the machine.
        choice: what tuning chose.
    """
    allowed = [m for m in (2, 4) if bits <= SUM_BITS[m] and choice.winograd in (None, m)]
    if not allowed or min(channels, out_channels) < SMALLEST or target.is_firmware:
        return None
    lanes = wide.lanes
    vectors = choice.vectors or _vectors(out_channels, wide, target)
    computed = -(-out_channels // (vectors * lanes)) * vectors
    pairs, short, long = -(-channels // 2), -(-channels // (2 * lanes)), -(-out_channels // lanes)
    groups = -(-channels // direct.group)
    best = GAIN * 9 * images * size[0] * size[1] * groups * computed / _rate(direct)
    if choice.winograd:
        best = float("inf")
    found: Plan | None = None
    for m, whole in ((m, whole) for m in allowed for whole in (False, True)):
        candidate = _candidate(m, images, size, channels, computed * lanes, vectors, wide, target, whole, choice)
        points, (before, after) = candidate.alpha**2, TRANSFORM_CYCLES[m]
        transforms = (before * short + after * long) * (SLOWER if target.vector_bits == WIDEST_BITS else 1.0)
        tiles, weights = candidate.room * candidate.chunks, points * pairs * computed * lanes * 4
        passes = candidate.chunks if weights > target.l2_bytes // 4 else 1
        scratch = points * candidate.room * (2 * channels + 4 * computed * lanes)
        cycles = max(points * tiles * pairs * computed / _rate(wide), _streamed(passes * weights, target))
        cycles += 2 * candidate.chunks * _streamed(scratch, target) + tiles * transforms
        if cycles < best:
            best, found = cycles, candidate
    return found


def _rate(dot: Dot) -> float:
    return PAIRED_DOTS if dot.pairs else FUSED_DOTS if dot.accumulates else DOTS


def _streamed(size: int, target: Target) -> float:
    """Cycles to read so many bytes, of which level 2 can hold half of its size."""
    return size / STREAM_BYTES if size > target.l2_bytes // 2 else 0.0


def _candidate(
    m: int,
    images: int,
    size: tuple[int, int],
    channels: int,
    computed: int,
    vectors: int,
    wide: Dot,
    target: Target,
    whole: bool,
    choice: Choice,
) -> Plan:
    """A plan whose chunks fit a part of level 2, or that works on all tiles at once."""
    lines, across = images * -(-size[0] // m), -(-size[1] // m)
    tiles = lines * across
    room = target.l2_bytes // SCRATCH_SHARE // ((m + 2) ** 2 * (2 * channels + 4 * computed))
    most = max(1, min(tiles, tiles if whole else choice.rows or room))
    if most < across:
        parts = -(-across // most)
        chunk_lines, chunk_across, chunks = 1, -(-across // parts), parts * lines
    else:
        groups = -(-lines // (most // across))
        groups += groups % 2 if 1 < groups < FEW else 0
        parts, chunk_lines, chunk_across = 1, -(-lines // groups), across
        chunks = -(-lines // chunk_lines)
    rows = choice.pixels or _rows(chunk_lines * chunk_across, vectors, wide, target)
    return Plan(m, min(rows, chunk_lines * chunk_across), vectors, chunk_lines, chunk_across, parts, chunks)


def _vectors(out_channels: int, wide: Dot, target: Target) -> int:
    """Vectors of output channels in a register tile: as little padding at the end as possible, then as few loads."""
    if wide.accumulates:
        return vectors_per_block(out_channels, target)
    vectors = -(-out_channels // wide.lanes)
    return min((1, 2, 3), key=lambda v: -(-vectors // v) * _step(_most_rows(v, target), v) / _most_rows(v, target))


def _most_rows(vectors: int, target: Target) -> int:
    """Tiles beside some vectors of weights so that sums, weights, a broadcast and a product fit the registers."""
    return (target.vector_registers - vectors - 2) // vectors


def _step(rows: int, vectors: int) -> float:
    """Cycles for a pair of channels: products and additions on three ports, or all instructions, four at a time."""
    return max(2 * rows * vectors / 3, (2 * rows * vectors + rows + vectors + 2) / 4.5)


def _rows(tiles: int, vectors: int, wide: Dot, target: Target) -> int:
    """Tiles in a register tile: the fewest cycles for all of a chunk, the last register tile as long as the others."""
    if wide.accumulates:
        return pixel_tile(tiles, vectors, target)
    return min(range(1, _most_rows(vectors, target) + 1), key=lambda rows: (-(-tiles // rows) * _step(rows, vectors), -rows))
