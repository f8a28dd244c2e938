"""The choice of tiles: the least time by a model of what a block computes, loads and waits for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from lepton_compiler.backends.tvm.cuda.tensor_cores.device import Device
from lepton_compiler.backends.tvm.cuda.tensor_cores.problem import Arithmetic

STAGES = 4
LEAST_STAGES, MOST_STAGES = 2, 6
"""Numbers of stages that tuning may choose."""
L2_BYTES_PER_CLOCK = 48
"""What the L2 cache gives one multiprocessor."""
LATENCY = 700
"""Clocks from a load to its data, out of the L2 cache or memory."""
LAUNCH = 2e-6
"""Seconds that one more kernel costs within a graph of kernels."""
CLUSTER = 8
"""Blocks of a cluster, at most, on every GPU that has clusters (CUDA C++ Programming Guide, "Thread Block Clusters")."""
CLUSTER_BARRIER = 400
"""Clocks of a barrier of a cluster, with the fence of the whole GPU that it begins with: a guess."""
CLUSTER_LATENCY = 180
"""Clocks until another block's shared memory answers: an estimate, in the order of what others measured (arXiv:2402.13499)."""
CLUSTER_BYTES_PER_CLOCK = 12
"""What a multiprocessor reads from others: an estimate likewise, 2.8 TB/s for all of them together."""
SPLITS = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32)
ISSUE = 128
"""Instructions of threads that a multiprocessor starts in a clock."""
COPY = 5
"""Instructions for a copy of 16 bytes to shared memory, with its address and its conditions, as `python -m bench.cuda_sass` counts them."""
REGISTERS = 40
"""Of a thread, for addresses."""
BEST = 0.9
"""Part of the peak that a full pipeline reaches."""

HIDDEN = 0.9
"""Part of the shorter one of computing and memory traffic that the longer one hides."""

TENSOR_TILES = (
    (256, 128, 64, 64),
    (128, 256, 64, 64),
    (128, 128, 64, 64),
    (128, 128, 64, 32),
    (128, 64, 64, 32),
    (64, 128, 32, 64),
    (64, 64, 32, 32),
    (32, 128, 32, 32),
    (128, 32, 32, 32),
    (64, 32, 32, 16),
    (32, 64, 16, 32),
    (32, 32, 16, 16),
    (16, 128, 16, 32),
    (16, 64, 16, 16),
    (128, 16, 32, 16),
    (64, 16, 16, 16),
)
"""Rows and columns of a block, rows and columns of a warp."""
GROUP_TILES = (
    (128, 256, 64, 64),
    (256, 128, 64, 64),
    (128, 192, 64, 48),
    (128, 128, 64, 32),
    (256, 64, 64, 32),
    (128, 96, 32, 48),
    (128, 64, 32, 32),
    (64, 256, 64, 64),
    (64, 192, 64, 48),
    (64, 128, 32, 64),
    (64, 96, 32, 48),
    (64, 64, 32, 32),
)
"""Blocks whose warps multiply in groups of four where the device can; the tile of a warp is for devices that cannot. The columns are `library.WIDTHS`."""
GROUP_STAGES = (4, 3, 6)
"""Numbers of tiles in shared memory for these: loads run two less ahead, and one is being multiplied when the next is begun."""
GROUP_LOOP = 40
"""Instructions of a warp for each tile along k beside copies: barrier, fences, addresses, the products."""
SIMT_TILES = (
    (128, 128, 64, 32),
    (128, 64, 64, 32),
    (64, 128, 64, 32),
    (64, 64, 32, 32),
    (64, 32, 32, 16),
    (32, 128, 32, 32),
    (32, 64, 32, 16),
    (32, 32, 32, 16),
    (16, 64, 16, 16),
    (8, 64, 8, 16),
)
"""The same for the ordinary cores: a warp is 8 x 4 lanes."""


@dataclass(frozen=True)
class Tiling:
    """How a product is cut.

    Attributes:
        block_m, block_n: tile of a block.
        warp_m, warp_n: tile of a warp.
        depth: elements along k of a stage.
        stages: tiles in shared memory.
        splits: blocks that share a sum; each takes `split_depth` of it.
        groups: whether four warps multiply together.
        clustered: whether the blocks that share a sum are a cluster where the architecture has such, and finish the sum among themselves.
    """

    block_m: int
    block_n: int
    warp_m: int
    warp_n: int
    depth: int
    stages: int
    splits: int
    split_depth: int
    groups: bool = False
    clustered: bool = False

    @property
    def threads(self) -> int:
        """Of a block."""
        return self.block_m // self.warp_m * (self.block_n // self.warp_n) * 32


@dataclass(frozen=True)
class Shape:
    """What the choice depends on.

    Attributes:
        batch: products of the same sizes.
        bytes_moved: that memory must give and take at least.
        size: bytes of an element of the operands.
        rows_free: whether a lane may have fewer than four rows (A lies along k).
        groupable: whether groups of warps can multiply the operands: 16-bit floats, or integers without zero points that the kernel takes off,
            both along k, and read in whole words.
    """

    batch: int
    m: int
    n: int
    k: int
    arithmetic: Arithmetic
    size: int
    bytes_moved: int
    rows_free: bool = True
    groupable: bool = False


def choose(shape: Shape, device: Device, split: bool = True) -> tuple[Tiling, float]:
    """The best tiling and its estimated seconds; `split`: whether sums may be shared by blocks."""
    best = min(candidates(shape, device, split), key=lambda t: seconds(shape, t, device))
    return best, seconds(shape, best, device)


def candidates(shape: Shape, device: Device, split: bool) -> Iterator[Tiling]:
    """All that fit the device; sums are cut where there are fewer tiles than multiprocessors."""
    simt = shape.arithmetic == "float32"
    for sizes in SIMT_TILES if simt else TENSOR_TILES:
        if not simt or sizes[2] >= 32 or shape.rows_free:
            for row_bytes in (64,) if simt else (64, 128):
                yield from _cut(shape, device, sizes, row_bytes, split)
    if device.group and shape.groupable:
        for sizes in GROUP_TILES:
            for stages in GROUP_STAGES:
                every = (replace(tiling, stages=stages, groups=True) for tiling in _cut(shape, device, sizes, 128, split))
                yield from (tiling for tiling in every if shared_bytes(shape, tiling) <= device.shared_per_block)


def ranked(shape: Shape, device: Device, devices: Sequence[Device]) -> list[Tiling]:
    """All tilings that fit `device`, best first: the one that takes the least time on `devices` together, each compared with the best for it."""
    every = list(candidates(shape, device, split=True))
    times = [[seconds(shape, tiling, d) for d in devices] for tiling in every]
    best = [min(column) for column in zip(*times, strict=True)]
    order = sorted(range(len(every)), key=lambda k: sum(t / b for t, b in zip(times[k], best, strict=True)))
    return [every[k] for k in order]


def possible(shape: Shape, device: Device) -> Iterator[Tiling]:
    """The candidates, and the same with fewer or more stages, as far as they fit: what may be worth measuring."""
    for tiling in dict.fromkeys(replace(tiling, stages=MOST_STAGES) for tiling in candidates(shape, device, split=True)):
        for stages in range(LEAST_STAGES + tiling.groups, MOST_STAGES + 1):
            other = replace(tiling, stages=stages)
            if shared_bytes(shape, other) <= device.shared_per_block:
                yield other


def _cut(shape: Shape, device: Device, sizes: tuple[int, int, int, int], row_bytes: int, split: bool) -> Iterator[Tiling]:
    """Tilings with these tiles, `row_bytes` deep, for different numbers of blocks per sum."""
    block_m, block_n, warp_m, warp_n = sizes
    depth = row_bytes // shape.size
    stages = min(STAGES, device.shared_per_block // ((block_m + block_n) * row_bytes))
    tiles = math.ceil(shape.m / block_m) * math.ceil(shape.n / block_n) * shape.batch
    for splits in SPLITS if split else (1,):
        part = math.ceil(math.ceil(shape.k / depth) / splits) * depth
        if stages < 2 or (splits > 1 and (part < 4 * depth or tiles * splits > 2 * device.processors)):
            return
        tiling = Tiling(block_m, block_n, warp_m, warp_n, depth, stages, math.ceil(shape.k / part), part)
        if device.clusters != "none" and 1 < tiling.splits <= CLUSTER:
            clustered = replace(tiling, clustered=True)
            tiling = clustered if shared_bytes(shape, clustered) <= device.shared_per_block else tiling
        if shared_bytes(shape, tiling) <= device.shared_per_block:
            yield tiling


def shared_bytes(shape: Shape, tiling: Tiling) -> int:
    """Dynamic shared memory of a block: its stages, or on tensor cores the rows on their way out, or its part of shared sums, whichever is most."""
    stages = tiling.stages * (tiling.block_m + tiling.block_n) * tiling.depth * shape.size
    width = tiling.block_n if tiling.groups else tiling.warp_n
    staging = 0 if shape.arithmetic == "float32" else tiling.threads // 32 * 16 * (width + 8) * 4
    gathered = tiling.block_m * (tiling.block_n + padding(shape)) * 4 if tiling.clustered else 0
    return max(stages, staging, gathered)


def padding(shape: Shape) -> int:
    """Elements between the rows of sums that a cluster shares: what keeps apart the lanes of a warp that write four neighbours each, or two."""
    return 4 if shape.arithmetic == "float32" else 8


def seconds(shape: Shape, tiling: Tiling, device: Device) -> float:
    """Estimated time: the longest of computing, shared memory and loads per block, in waves, and the last results; or what memory needs."""
    blocks = math.ceil(shape.m / tiling.block_m) * math.ceil(shape.n / tiling.block_n) * shape.batch * tiling.splits
    resident = _resident(shape, tiling, device)
    clustered = tiling.clustered and device.clusters == "all"
    per_processor = math.ceil(blocks / (device.processors_of_clusters(tiling.splits) if clustered else device.processors))
    together = min(resident, per_processor)
    clocks = per_processor * tiling.split_depth * _clocks_per_k(shape, tiling, device, together) / BEST
    waves = math.ceil(per_processor / resident)
    clocks += waves * (2 * LATENCY + tiling.block_m * tiling.block_n / 32)
    memory = shape.bytes_moved / device.bandwidth
    memory_per_clock = min(L2_BYTES_PER_CLOCK, device.bandwidth / device.processors / device.clock)
    last = together * tiling.block_m * tiling.block_n * shape.size / memory_per_clock  # results that nothing is computed beside
    extra = 0.0
    if clustered:
        read = together * tiling.block_m * tiling.block_n * 4 * (tiling.splits - 1) / tiling.splits
        extra = waves * (2 * CLUSTER_BARRIER + CLUSTER_LATENCY + read / CLUSTER_BYTES_PER_CLOCK) / device.clock
        last /= tiling.splits
    elif tiling.splits > 1:
        launches = 2 if device.clusters == "some" and not tiling.clustered else 1  # those that have clusters take two launches then, too
        extra = launches * LAUNCH + 2 * tiling.splits * shape.batch * shape.m * shape.n * 4 / (2 * device.bandwidth)
    shorter, longer = sorted(((clocks + last) / device.clock, memory))
    return longer + shorter * (1 - HIDDEN) + extra


def _clocks_per_k(shape: Shape, tiling: Tiling, device: Device, together: int) -> float:
    """Clocks of a multiprocessor for one block and one k."""
    edge = tiling.block_m + tiling.block_n
    warps = tiling.threads // 32
    issue = edge * shape.size / 16 * COPY / ISSUE
    grouped = tiling.groups and device.group > 0
    compute = tiling.block_m * tiling.block_n / _rate(shape.arithmetic, device, device.group if grouped else device.half)
    if shape.arithmetic == "float32":  # each lane reads its own rows and columns, in vectors of four that take two clocks
        rows, columns = tiling.warp_m / 8, tiling.warp_n / 4
        issue += warps * 32 * (rows * columns + (rows + columns) / 4) / ISSUE
        shared = warps * (rows + columns) / 2 + edge * shape.size / 128
    elif grouped:  # 64 rows and all columns are read for each product; both must pass through 128 bytes a clock
        issue += warps * 32 * GROUP_LOOP / tiling.depth / ISSUE
        shared = (tiling.block_m / 64 * (64 + tiling.block_n) + edge) * shape.size / 128
    else:
        shared = (warps * (tiling.warp_m + tiling.warp_n) + edge) * shape.size / 128
    under_way = together * (tiling.stages - (2 if grouped else 1)) * edge * tiling.depth * shape.size
    loads = edge * shape.size / min(L2_BYTES_PER_CLOCK, under_way / LATENCY)
    return max(compute, shared, loads, issue)


def _rate(arithmetic: Arithmetic, device: Device, half: int) -> float:
    """Multiply-adds per clock, where those of fp16 are `half`."""
    match arithmetic:
        case "float32":
            return device.fp32
        case "tf32":
            return half / 2
        case "int8":
            return half * 2
        case _:
            return half


def _resident(shape: Shape, tiling: Tiling, device: Device) -> int:
    """Blocks that a multiprocessor holds at once."""
    sums = tiling.warp_m * tiling.warp_n // 32
    edges = 0 if tiling.groups and device.group else (tiling.warp_m + tiling.warp_n) // 2
    two = shape.arithmetic == "float32" and tiling.threads == 256 and sums <= 64  # which are compiled to leave room for two
    registers = min(128 if two else 255, sums + edges + REGISTERS) * tiling.threads
    shared = shared_bytes(shape, tiling) + 1024
    return max(1, min(device.shared // shared, device.registers // registers, device.threads // tiling.threads))
