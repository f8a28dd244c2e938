"""Tiles of products as tuning chooses them: from parameters to tiles, and back."""

from __future__ import annotations

from collections.abc import Sequence

from lepton_compiler.backends.tvm.choice import Choice
from lepton_compiler.backends.tvm.cuda.products.choose import SPLITS, TILES, Tile, choose_tile, fits
from lepton_compiler.backends.tvm.cuda.products.product import Product
from lepton_compiler.backends.tvm.cuda.tensor_cores import Device, Shape, Tiling, possible
from lepton_compiler.errors import UsageError
from lepton_compiler.gpus import Gpu


def choice_of_tiling(tiling: Tiling) -> Choice:
    """The parameters of a kernel by the generator of tensor cores."""
    return Choice(
        block_rows=tiling.block_m, block_columns=tiling.block_n, warp_rows=tiling.warp_m, warp_columns=tiling.warp_n, depth=tiling.depth,
        stages=tiling.stages, splits=tiling.splits, groups=int(tiling.groups),
    )  # fmt: skip


def tiling_of(choice: Choice, shape: Shape, device: Device) -> Tiling | None:
    """The tiling that is chosen; None where the analysis decides.

    Raises:
        UsageError: there is none with these parameters that fits product and device.
    """
    if choice.block_rows is None:
        return None
    found = next((tiling for tiling in possible(shape, device) if choice_of_tiling(tiling) == choice), None)
    if found is None:
        raise _unknown(choice)
    return found


def choice_of_tile(tile: Tile) -> Choice:
    """The parameters of a simple tiled kernel."""
    return Choice(block_rows=tile.rows, block_columns=tile.columns, splits=tile.parts)


def possible_tiles(product: Product) -> list[Tile]:
    """The tiles of a simple tiled kernel."""
    every = [Tile(t.rows, t.columns, t.depth, t.high, t.wide, parts) for t in TILES for parts in SPLITS]
    return [tile for tile in every if fits(tile, product)]


def tile_of(choice: Choice, product: Product, gpus: Sequence[Gpu]) -> Tile:
    """The tile that is chosen, or the analytic one.

    Raises:
        UsageError: there is none with these parameters that fits the product.
    """
    if choice.block_rows is None:
        return choose_tile(product, gpus)
    found = next((tile for tile in possible_tiles(product) if choice_of_tile(tile) == choice), None)
    if found is None:
        raise _unknown(choice)
    return found


def _unknown(choice: Choice) -> UsageError:
    given = ", ".join(f"{name} {value}" for name, value in choice.to_json().items())
    return UsageError(
        f"no tiles with {given} fit the product", hint="the tuning database is of another kernel; docs/tuning.md describes it"
    )
