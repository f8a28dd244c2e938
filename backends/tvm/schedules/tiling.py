"""Tile sizes, computed from the target's registers and caches: no tables of shapes, no measurements."""

from __future__ import annotations

from functools import cache

from lepton_compiler.backends.tvm.choice import ANALYTIC, Choice
from lepton_compiler.target import Target

ACC_BITS = 32
SMALL_TILE = 4
"""Accumulators where code is to be small."""
LATENCY_CHAINS = 8
"""Independent accumulators that hide the latency of a fused multiply-add: 4 cycles on 2 ports."""


def oc_block(out_channels: int, target: Target, choice: Choice = ANALYTIC) -> int:
    """Output channels per block of packed convolution weights; for a grouped convolution pass the channels of one group."""
    return (choice.vectors or vectors_per_block(out_channels, target)) * target.lanes(ACC_BITS)


def n_block(n: int, target: Target, choice: Choice = ANALYTIC, rows: int = 0) -> int:
    """Columns per block of a packed right-hand matrix with `n` columns, for so many rows on the left if they are known."""
    if rows == 1 and target.lanes(ACC_BITS) == 1 and not choice.vectors:
        return columns_of_row(n, target)
    return oc_block(n, target, choice)


def columns_of_row(n: int, target: Target) -> int:
    """Columns per block for a single row on a core without vectors: each number of the row is loaded once for all of them.

    Accumulators, products and the number itself fit the registers.
    """
    most = max(1, min(n, (target.vector_registers - 2) // 2, LATENCY_CHAINS))
    return min(range(1, most + 1), key=lambda v: (-(-n // v) * (1 + v), v))


def vectors_per_block(extent: int, target: Target) -> int:
    """Vectors in a block: few enough to leave registers for several pixels, with little padding at the end."""
    vectors = -(-extent // target.lanes(ACC_BITS))
    if vectors == 1:
        return 1
    choices = (2, 3, 4, 5) if target.vector_registers >= 32 else (2, 3)
    padded = {v: -(-vectors // v) * v for v in choices}
    return min(choices, key=lambda v: (padded[v] * _load_cost(v, target), v))


def _load_cost(vectors: int, target: Target) -> float:
    """Cycles per multiply-add: a tile of P x V wants P + V loads for P * V of them, on two load ports."""
    pixels = max_pixels(vectors, target)
    return max(1.0, (pixels + vectors) / (pixels * vectors), LATENCY_CHAINS / (pixels * vectors))


def narrow_vectors(channels: int, pixels: int, target: Target) -> int:
    """Vectors of a row of `pixels` beside so many broadcast channels: accumulators, loaded vectors and one broadcast fit the registers."""
    most = max(1, min(LATENCY_CHAINS, (target.vector_registers - 2) // (channels + 1)))
    return min(most, -(-pixels // target.lanes(ACC_BITS)))


def max_pixels(vectors: int, target: Target) -> int:
    """Pixels beside `vectors` vectors of weights so that accumulators, weights and one broadcast fit the registers.

    Helium multiplies vectors by numbers in core registers, so that nothing is broadcast.
    """
    if target.small:
        return max(1, SMALL_TILE // vectors)
    spare = 0 if target.has_helium else 1 if vectors < 4 or target.vector_registers < 32 else 0
    return max(1, (target.vector_registers - vectors - spare) // vectors)


@cache
def pixel_tile(extent: int, vectors: int, target: Target) -> int:
    """Pixels per register tile for a row of `extent` pixels: the fewest instructions, tail included."""
    most = min(max_pixels(vectors, target), extent)

    def cost(pixels: int) -> tuple[float, int]:
        full, tail = divmod(extent, pixels)
        body = max(pixels * vectors, LATENCY_CHAINS) + 0.6 * (pixels + vectors) / 2
        last = (max(tail * vectors, LATENCY_CHAINS) + 0.6 * (tail + vectors) / 2) * 1.1 if tail else 0.0
        return full * body + last, -pixels

    return min(range(1, most + 1), key=cost)


def row_block(rows: int, row_bytes: int, weight_bytes: int, target: Target) -> int:
    """Rows per cache block.

    Where all weights stay in the level-2 cache, few rows at a time keep the input in level 1 and finish whole
    lines of output; where they do not, each block of weights is read once, over as many rows as level 2 holds.
    """
    budget = target.l1_bytes // 2 if weight_bytes <= target.l2_bytes // 2 else target.l2_bytes // 2
    return max(1, min(rows, budget // max(1, row_bytes)))


def blocked_pixel_tile(extent: int, most: int, vectors: int, target: Target, chosen: int | None = None) -> tuple[int, int]:
    """(pixels per register tile, tiles per cache block) for rows of `extent` pixels of which `most` fit the cache.

    Blocks divide the extent, or there is only one: a partial tile in the last of several blocks would put a condition in all.
    With `chosen` pixels in a tile, only the number of tiles is worked out.
    """
    pixels = min(chosen, extent) if chosen else pixel_tile(extent, vectors, target)
    if not chosen and most < extent and extent % pixels:
        exact = max(p for p in range(1, max_pixels(vectors, target) + 1) if extent % p == 0)
        pixels = exact if exact * vectors >= LATENCY_CHAINS else pixels
    tiles = -(-extent // pixels)
    if most >= extent or extent % pixels:
        return pixels, tiles
    return pixels, max(d for d in range(1, max(1, most // pixels) + 1) if tiles % d == 0)


def even_blocks(extent: int, most: int) -> int:
    """Block size of at most `most`: a divisor of `extent` if that costs less than half of the size, else evenly filled blocks."""
    most = max(1, min(extent, most))
    divisor = max(d for d in range(1, most + 1) if extent % d == 0)
    return divisor if 2 * divisor >= most else -(-extent // -(-extent // most))
