"""What is worth trying for a kernel on a GPU."""

from __future__ import annotations

from lepton_compiler.backends.tvm.choice import ANALYTIC, Choice
from lepton_compiler.backends.tvm.cuda.products.anchors import Anchor, find_anchor
from lepton_compiler.backends.tvm.cuda.products.choose import cycles
from lepton_compiler.backends.tvm.cuda.products.chosen import choice_of_tile, choice_of_tiling, possible_tiles
from lepton_compiler.backends.tvm.cuda.products.generated import arithmetic_of, devices_of, generated_types, problem_of, smallest
from lepton_compiler.backends.tvm.cuda.sliding.choose import alternatives as alternatives_of_windows
from lepton_compiler.backends.tvm.cuda.sliding.layer import find_layer
from lepton_compiler.backends.tvm.cuda.tensor_cores import alternatives, shape_of
from lepton_compiler.backends.tvm.lower.procedure import parallel_from
from lepton_compiler.backends.tvm.lower.scalar import native_functions
from lepton_compiler.backends.tvm.spec import KernelSpec
from lepton_compiler.target import Target

TILINGS = 16
"""Tilings of a product that are tried, beside other numbers of stages for the best one."""
SHARES = 16
"""Shares of sliding windows that are tried."""
TILES = 12
"""The same of simple tiled kernels."""
THREADS = (64, 128, 512)
NEIGHBOURS = (1, 2, 4, 8)
LANES = (32, 64, 128, 256, 512, 1024)


def candidates(spec: KernelSpec, target: Target) -> list[Choice]:
    """The choices for a kernel, most promising first; some of them may give the same kernel, also the analytic one."""
    with native_functions(), parallel_from(1):
        layer = find_layer(spec)
        anchor = None if layer is not None else find_anchor(spec, generated_types(target.gpus))
    if layer is not None:
        return alternatives_of_windows(layer.windows, target.gpus, SHARES)
    found = _threads() if anchor is None else _tilings(anchor, target) if anchor.product.problem is not None else _tiles(anchor, target)
    return [choice for choice in dict.fromkeys(found) if choice != ANALYTIC]


def _tilings(anchor: Anchor, target: Target) -> list[Choice]:
    """Tilings by the model of the device."""
    shape = shape_of("candidate", problem_of(anchor, arithmetic_of(anchor, target.extensions, target.gpus)))
    return [choice_of_tiling(tiling) for tiling in alternatives(shape, smallest(target.gpus), devices_of(target.gpus), TILINGS)]


def _tiles(anchor: Anchor, target: Target) -> list[Choice]:
    processors = min(gpu.processors for gpu in target.gpus)
    tiles = sorted(possible_tiles(anchor.product), key=lambda tile: cycles(anchor.product, tile, processors))
    return [choice_of_tile(tile) for tile in tiles[:TILES]]


def _threads() -> list[Choice]:
    """Blocks of other sizes, threads with more or fewer elements, rows with more or fewer threads: whichever the kernel has."""
    return [
        *(Choice(threads=n) for n in THREADS),
        *(Choice(neighbours=n) for n in NEIGHBOURS),
        *(Choice(lanes=n) for n in LANES),
    ]
