"""Which tile suits a product: an estimate of cycles from the sizes and the GPU, no measurements, no tables of shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lepton_compiler.backends.tvm.cuda.products.product import Product
from lepton_compiler.gpus import Gpu


@dataclass(frozen=True)
class Tile:
    """Sizes of the parts that a product is computed in.

    Attributes:
        rows, columns: of the result, per block of threads.
        depth: steps of the sum that are in shared memory at a time.
        high, wide: rows and columns per thread.
        parts: into how many the sum is split, which different blocks compute and a second launch adds up.
    """

    rows: int
    columns: int
    depth: int
    high: int
    wide: int
    parts: int = 1

    @property
    def threads(self) -> int:
        """Of a block."""
        return self.rows // self.high * (self.columns // self.wide)

    def blocks(self, product: Product) -> int:
        """Blocks of the whole product."""
        return product.batch * -(-product.rows // self.rows) * -(-product.columns // self.columns) * self.parts


TILES = (
    Tile(128, 128, 8, 8, 8),
    Tile(128, 64, 8, 8, 4),
    Tile(64, 128, 8, 4, 8),
    Tile(64, 64, 16, 4, 4),
    Tile(64, 32, 16, 4, 2),
    Tile(32, 64, 16, 2, 4),
    Tile(32, 32, 16, 2, 2),
    Tile(16, 64, 16, 1, 4),
    Tile(64, 16, 16, 4, 1),
)
SPLITS = (1, 2, 4, 8, 16)
LANES = 128
"""Multiplications that a multiprocessor does per cycle."""
WARPS = 12
"""Warps that hide latencies."""
ADDING = 3000
"""Cycles that a second launch takes at least."""
BYTES_PER_CYCLE = 1000
"""From memory, for the whole GPU."""


def choose_tile(product: Product, gpus: Sequence[Gpu]) -> Tile:
    """The tile with the fewest estimated cycles on the smallest GPU of a list."""
    processors = min(gpu.processors for gpu in gpus)
    options = [Tile(t.rows, t.columns, t.depth, t.high, t.wide, parts) for t in TILES for parts in SPLITS]
    return min((t for t in options if fits(t, product)), key=lambda t: cycles(product, t, processors))


def fits(tile: Tile, product: Product) -> bool:
    """Whether a sum is long enough for its parts, and of a type that a second launch adds up."""
    return tile.parts == 1 or (product.depth >= 4 * tile.parts * tile.depth and product.kind == "float32")


def cycles(product: Product, tile: Tile, processors: int) -> float:
    """Cycles of a product with a tile."""
    blocks = tile.blocks(product)
    steps = -(-product.depth // (tile.parts * tile.depth)) * tile.depth
    per_block = tile.rows * tile.columns * steps / LANES
    loads = (tile.high + tile.wide) / (tile.high * tile.wide)  # numbers from shared memory per multiplication
    together = -(-blocks // processors)
    warps = min(together, max(1, 48 * 32 // tile.threads)) * tile.threads / 32
    busy = min(1.0, warps / WARPS)
    time = together * per_block * (1.0 + 1.5 * loads) / busy
    if tile.parts > 1:
        moved = 8 * tile.parts * product.batch * product.rows * product.columns
        time += ADDING + moved / BYTES_PER_CYCLE
    return time + math.log2(1 + blocks)
