"""Convolutions and matrix products of 8-bit integers: geometry, tiles, and the arrangement of the weights.

A filter of KH x KW taps over channels-last data sees, in each of KH rows, KW * C numbers that lie side by side. Such a run is multiplied in
groups of as many numbers as the target's dot product takes (`dot.Dot.group`), the last group filled up with weights that count as zero. So neither
the number of channels nor that of taps needs to be a multiple of anything. A matrix product is a convolution of one row by one tap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from lepton_compiler.backends.tvm.dot import Dot
from lepton_compiler.backends.tvm.phases import SHARE
from lepton_compiler.backends.tvm.schedules.tiling import pixel_tile, vectors_per_block
from lepton_compiler.backends.tvm.schedules.work import PER_NANOSECOND
from lepton_compiler.target import Target

Array = npt.NDArray[Any]

SLOTS = 4
"""Parts of the result that there are at least where it can be divided so, for threads to share."""
SCRATCH_SHARE = 8
"""The part of the level-2 cache that a copy of the input may take is one in so many."""
LONGEST_LINE = 128
"""Rows of a matrix that are worked on together, where they can be divided so."""
CHAINS = 8
"""Vectors of sums for a single row: they hide the latency of the dot product."""


@dataclass(frozen=True)
class Geometry:
    """A convolution over `images` of [height, width, channels] whose results are [lines, pixels, outputs]; pads as (before, after)."""

    images: int
    size: tuple[int, int]
    channels: int
    outputs: int
    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)

    @staticmethod
    def of_matrix(rows: int, depth: int, columns: int) -> Geometry:
        """A product of [rows, depth] and [depth, columns]."""
        fitting = [d for d in range(1, min(rows, LONGEST_LINE) + 1) if rows % d == 0]
        line = fitting[-1] if fitting and 8 * fitting[-1] >= min(rows, LONGEST_LINE) else rows
        return Geometry(1, (rows // max(1, line), line), depth, columns)

    @property
    def lines(self) -> int:
        """Rows of the result."""
        return (self.size[0] + self.pads[0] + self.pads[2] - self.dilations[0] * (self.kernel[0] - 1) - 1) // self.strides[0] + 1

    @property
    def pixels(self) -> int:
        """Columns of the result."""
        return (self.size[1] + self.pads[1] + self.pads[3] - self.dilations[1] * (self.kernel[1] - 1) - 1) // self.strides[1] + 1

    @property
    def taps(self) -> int:
        """Runs per row of the filter."""
        return 1 if self.dilations[1] == 1 else self.kernel[1]

    @property
    def run(self) -> int:
        """Numbers that lie side by side."""
        return self.kernel[1] * self.channels // self.taps

    @property
    def padded_row(self) -> int:
        """Numbers in a row of the input with its padding."""
        return (self.pads[1] + self.size[1] + self.pads[3]) * self.channels


@dataclass(frozen=True)
class Plan:
    """Tiles of a product.

    Attributes:
        vectors: vectors of output channels in a register tile.
        pixels: pixels in it.
        rows: lines of the result per unit of work.
        ranges: parts into which the blocks of channels are divided, each a unit of work for the same lines.
        copies: whether each unit makes a padded copy of the input rows that it reads.
    """

    vectors: int
    pixels: int
    rows: int
    ranges: int
    copies: bool


def plan(shape: Geometry, dot: Dot, target: Target, *, copies: bool) -> Plan:
    """Tile sizes, from the registers and caches of the target."""
    single = shape.pixels == 1
    vectors = _single_vectors(shape.outputs, dot) if single else vectors_per_block(shape.outputs, target)
    width = 2 if dot.data == "int16" else 1
    room = target.l2_bytes // SCRATCH_SHARE // max(1, width * shape.padded_row)
    reach = (shape.kernel[0] - 1) * shape.dilations[0] + 1
    most = max(1, min(shape.lines, (room - reach) // shape.strides[0] + 1))
    rows = -(-shape.lines // -(-shape.lines // most))
    units, blocks = shape.images * -(-shape.lines // rows), -(-shape.outputs // (vectors * dot.lanes))
    slots = min(blocks, -(-SLOTS // units))
    if copies:  # each range makes its own
        slots = max(1, min(slots, _nanoseconds(shape, dot) // SHARE))
    ranges = -(-blocks // -(-blocks // slots))
    return Plan(vectors, 1 if single else pixel_tile(shape.pixels, vectors, target), rows, ranges, copies)


def _nanoseconds(shape: Geometry, dot: Dot) -> int:
    """Time for the dot products on one thread, estimated as `schedules.work` does."""
    sums = shape.images * shape.lines * shape.pixels * -(-shape.outputs // dot.lanes)
    dots = sums * shape.kernel[0] * shape.taps * -(-shape.run // dot.group)
    return dots * (1 if dot.accumulates else 3 if dot.pairs else 2) // PER_NANOSECOND


def _single_vectors(outputs: int, dot: Dot) -> int:
    vectors = -(-outputs // dot.lanes)
    return min(range(1, CHAINS + 1), key=lambda v: (-(-vectors // v) * max(v, CHAINS // 2), -v))


def spans(extent: int, lanes: int) -> Sequence[tuple[int, int, int]]:
    """Vectors that cover `extent` numbers: (first, width, how many), whole ones and then ever smaller powers of two."""
    found, first, width = [], 0, lanes
    while first < extent:
        count = (extent - first) // width
        if count:
            found.append((first, width, count))
            first += count * width
        width //= 2
    return found
