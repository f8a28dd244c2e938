"""How the steps of a layer are spread over blocks and threads: what fits, and an estimate of the time it takes; no measurements."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from lepton_compiler.backends.tvm.cuda.recurrent.problem import Problem
from lepton_compiler.backends.tvm.cuda.tensor_cores.device import Device, device_of
from lepton_compiler.gpus import Gpu

WARP = 32
SCHEDULERS = 4
"""Of a multiprocessor; the warps of each share its part of the registers."""
MOST_THREADS, MOST_REGISTERS = 1024, 255
"""Of a block, and of a thread."""
OTHER_REGISTERS = 56
"""What a thread needs beside weights, sums and the elements that it multiplies: addresses, indices, the activations."""
WARPS_FOR_SPEED = 8
"""Warps with which a multiprocessor is busy."""
NEAR = 1.08
"""Times the shortest time: what a few blocks less may cost, which leave multiprocessors to others."""
EXTREMES = 2 * WARP
"""Numbers in shared memory, the least and the largest one that each warp has found, where the state is rounded by its range."""
COUNTER_BYTES = 128
"""Of the barrier's counter, which has a line of memory for itself."""


@dataclass(frozen=True)
class Arrangement:
    """Who computes what.

    Attributes:
        parts: blocks that share the hidden units of a direction; more than one wait for each other between steps.
        units: hidden units of a block.
        slices: neighbouring lanes that share the sums of a unit, a power of two.
        rows: of the batch, that a block computes; other rows have blocks and copies of the weights of their own.
        tile: rows at a time.
        threads: of a block.
        chunks: of four elements of the state, that a lane multiplies.
        held: chunks whose weights are in registers; those of the others are in shared memory.
    """

    parts: int
    units: int
    slices: int
    rows: int
    tile: int
    threads: int
    chunks: int
    held: int

    def blocks(self, problem: Problem) -> int:
        """Of the whole grid."""
        return problem.directions * -(-problem.batch // self.rows) * self.parts

    def waits(self, problem: Problem) -> bool:
        """Whether blocks wait for each other, so that all of them must be there at the same time."""
        return self.parts > 1 and problem.meetings > 0

    def shared_bytes(self, problem: Problem) -> int:
        """Dynamic shared memory of a block: states, weights, what each unit keeps, as `device/layer.cuh` lays them out."""
        rows, width = -(-self.rows // self.tile) * self.tile, self.chunks * 4 * self.slices
        states = (2 if self.parts == 1 else 1) + (problem.cell == "gru")
        weights = (self.chunks - self.held) * problem.gates * 4 * self.threads
        return 4 * (states * rows * width + weights + problem.kept * rows * self.units + EXTREMES * problem.rounded)


def arrange(problem: Problem, gpus: Sequence[Gpu]) -> Arrangement | None:
    """Of the arrangements that run on every GPU of all architectures the one with the fewest blocks whose estimated time is near the shortest;
    None if none runs.
    """
    timed = [(time_of(problem, a, gpus), a) for a in candidates(problem, gpus)]
    if not timed:
        return None
    limit = NEAR * min(time for time, _ in timed)
    return min((a.blocks(problem), time, k, a) for k, (time, a) in enumerate(timed) if time <= limit)[3]


def candidates(problem: Problem, gpus: Sequence[Gpu]) -> Iterator[Arrangement]:
    """All arrangements that fit: registers and shared memory of a multiprocessor, and, where blocks wait for each other, the fewest
    multiprocessors of each architecture, with one block on each.
    """
    room = min(gpu.shared_per_block for gpu in gpus)
    registers = min(gpu.registers for gpu in gpus)
    fewest, most = min(gpu.fewest for gpu in gpus), min(gpu.processors for gpu in gpus)
    for rows in [problem.batch] if problem.rounded else _halves(problem.batch):
        groups = problem.directions * -(-problem.batch // rows)
        meet = problem.meetings > 0
        for parts in range(1, max(1, (fewest if meet else most) // groups) + 1):
            units = -(-problem.hidden // parts)
            if parts > 1 and -(-problem.hidden // units) < parts:
                continue  # fewer parts have as many units
            for slices in (1, 2, 4, 8, 16, 32):
                made = _arranged(problem, parts, units, slices, rows, registers)
                if made is not None and made.shared_bytes(problem) <= room:
                    yield made


def _halves(batch: int) -> list[int]:
    """Rows per block: all, a half, a quarter, ..."""
    return list(dict.fromkeys(-(-batch // (1 << k)) for k in range(batch.bit_length())))


def _arranged(problem: Problem, parts: int, units: int, slices: int, rows: int, registers: int) -> Arrangement | None:
    """With as many weights in registers as there is room for; None if there are too many threads."""
    threads = -(-units * slices // WARP) * WARP
    if threads > MOST_THREADS or (slices > 1 and 4 * slices >= 2 * (problem.hidden + 3)):
        return None
    chunks, tile = -(-problem.hidden // (4 * slices)), min(rows, slices, 4)
    free = registers_of(threads, registers) - OTHER_REGISTERS - tile * (problem.gates + 4) - 2 * problem.gates
    held = max(0, min(chunks, free // (4 * problem.gates)))
    return Arrangement(parts, units, slices, rows, tile, threads, chunks, held)


def registers_of(threads: int, registers: int) -> int:
    """Registers that each thread may have for a block to be there: they are given to warps, in steps of eight per lane."""
    warps = -(-threads // (WARP * SCHEDULERS))
    return min(MOST_REGISTERS, registers // SCHEDULERS // (warps * WARP) // 8 * 8)


# -- time

LAUNCH = 2.5e-6
"""Seconds from the start of a recorded launch to the start of the next one."""
MEETING = 1.1e-6
"""Seconds of a barrier of the grid: an atomic addition and a load, there and back through the level-2 cache, and the barriers of the blocks."""
LAUNCHES_PER_STEP = {"rnn": 3, "gru_linear": 4, "gru": 6, "lstm": 5}
"""Launches and copies of a step, where each step has its own."""
SYNC = 60
"""Cycles of a barrier of a block, with what waits for it."""
LATENCY = 180
"""Cycles of a step's chain of operations: the last sum, activations, the new state."""
SHUFFLE = 26
"""Cycles until a shuffled number has been added."""
FETCH = 700
"""Cycles until the first number of the other blocks' states comes from the level-2 cache."""
CACHE_BYTES = 32
"""Bytes per cycle that a multiprocessor loads from the level-2 cache."""
SHARED_BYTES = 128
"""Bytes per cycle of shared memory."""
ROUNDING = 40
"""Cycles in which a thread compares a number with others and rounds it."""
ACTIVATION = 25
"""Instructions of an activation and what belongs to it."""


def time_of(problem: Problem, a: Arrangement, gpus: Sequence[Gpu]) -> float:
    """Estimated seconds, summed over the architectures."""
    return sum(seconds(problem, a, device_of(gpu.name)) for gpu in gpus)


@cache
def seconds(problem: Problem, a: Arrangement, device: Device) -> float:
    """Estimated seconds of all steps on a GPU."""
    waves = -(-a.blocks(problem) // device.processors)
    own = problem.weights_bytes / problem.hidden * a.units
    start = LAUNCH + max(own / CACHE_BYTES / device.clock, problem.directions * problem.weights_bytes / device.bandwidth)
    step = _product_cycles(problem, a, device) + problem.products * (SYNC + LATENCY)
    if problem.rounded:
        step += 2 * (SYNC + LATENCY) + a.rows * problem.hidden / a.threads * ROUNDING
    if a.waits(problem):
        start += LAUNCH  # the counter is cleared
        step += problem.products * (FETCH + 4 * a.rows * problem.hidden / CACHE_BYTES + MEETING * device.clock)
    return start + waves * problem.time * step / device.clock


def _product_cycles(problem: Problem, a: Arrangement, device: Device) -> float:
    """Cycles of the products of a step, and of the activations: what limits them is arithmetic, or shared memory."""
    warps, tiles = a.threads / WARP, -(-a.rows // a.tile)
    rows = tiles * a.tile
    arithmetic = a.threads * problem.gates * 4 * a.chunks * rows / device.fp32
    states = warps * problem.products * a.chunks * rows * 4  # a load of 16 bytes takes four cycles, by quarters of a warp
    weights = (a.chunks - a.held) * problem.gates * a.threads * 16 * tiles / SHARED_BYTES
    steps = math.log2(a.slices)
    sums = problem.products * steps * SHUFFLE + 2 * warps * steps * problem.gates * rows
    cells = warps * tiles * (problem.gates + 1) * ACTIVATION / SCHEDULERS
    busy = min(1.0, warps / WARPS_FOR_SPEED)
    return max(arithmetic / busy, states + weights) + sums + cells


def seconds_apart(problem: Problem, device: Device) -> float:
    """Estimated seconds with launches of their own for each step: weights come from the level-2 cache, or from memory, each time."""
    step = LAUNCHES_PER_STEP[problem.cell] * LAUNCH
    work = problem.batch * problem.gates * problem.hidden**2 / (device.processors * device.fp32 * device.clock)
    moved = problem.weights_bytes / (2 * device.bandwidth)
    return problem.directions * problem.time * (step + max(work, moved))
