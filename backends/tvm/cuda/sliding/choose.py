"""How many channels and pixels a thread has, and a block: an estimate of cycles from shape and device, no measurements, no tables of shapes.

A thread that has more pixels reads each vector of the image for more windows, needs more registers, and leaves fewer threads to hide latencies;
what is best follows from the size of the result and the device. The figures are those of NVIDIA's guides for instructions and memories, and
published measurements of latencies and of the level-2 cache; they only serve to choose between kernels that are all right.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lepton_compiler.backends.tvm.choice import Choice
from lepton_compiler.backends.tvm.cuda.sliding.problem import Share, Windows
from lepton_compiler.backends.tvm.cuda.tensor_cores import Device, device_of
from lepton_compiler.errors import UsageError
from lepton_compiler.gpus import Gpu

WIDEST = 16
"""Bytes of the widest load."""
MOST_COLUMNS, MOST_ROWS = 8, 4
"""Pixels of a thread along a row, and rows."""
THREADS = (64, 128, 256)
"""Of a block, about."""
LINE = 128
"""Bytes of neighbouring channels that a block reads of a pixel, where there are as many: a line of the cache."""
HELD = 100
"""Registers for weights up to which a thread keeps those of all taps; above that it reads them row by row."""
TEXT = 1600
"""Multiplications that are written one after the other, about; more are a loop over the rows of the kernel."""
REGISTERS = 200
"""Of a thread, most: the compiler needs some of the 255 for itself."""
SCHEDULERS = 4
"""Of a multiprocessor; each starts an instruction of a warp per cycle."""
ACCESS = 4
"""Cycles in which the units for loads and stores that belong to a scheduler, eight of them, take one of a warp."""
TOGETHER = 2
"""Warps of a scheduler from which on one of them is always ready."""
LATENCY = 700
"""Cycles from a load to its data."""
CACHE = 32
"""Bytes per cycle that a multiprocessor gets from the level-2 cache, of 64, where all of them read."""
APART = 0.25
"""Part of the time of instructions, cache and memory that is not hidden behind the longest of them."""
OPENING, ENDING = 40, {True: 25, False: 5}
"""Instructions at the beginning of a thread, and for each element of the result at its end, by whether codes are made of it."""


@dataclass(frozen=True)
class Work:
    """What a thread does.

    Attributes:
        instructions: cycles in which a scheduler starts them.
        accesses: loads and stores among them.
        registers: that it needs.
        ahead: bytes of an image that it has asked for at the same time.
        waits: how often it waits for memory, for weights too.
    """

    instructions: float
    accesses: float
    registers: int
    ahead: int
    waits: int


def holds(windows: Windows, vector: int) -> bool:
    """Whether a thread with so many channels keeps the weights of all taps, and reads a row of the image for several rows of windows."""
    return windows.taps * (vector * windows.multiplier if windows.taken == "products" else 1) <= HELD


def unrolled(windows: Windows, share: Share) -> int:
    """Rows of the kernel that are written one after the other, where they are a loop."""
    row = windows.kernel[1] * share.columns * share.vector * windows.multiplier
    return max(1, min(windows.kernel[0], TEXT // row))


def work_of(windows: Windows, share: Share) -> Work:
    """What a thread of a share does."""
    outs, pixels = share.vector * windows.multiplier, share.columns * share.rows
    wide, held = len(share.columns_read(windows)), holds(windows, share.vector)
    vectors = wide * (len(share.rows_read(windows)) if held else windows.kernel[0])
    decoded = 0 if windows.element == "float32" else 1
    weighted = windows.taken == "products"
    codes = windows.element in ("int8", "uint8")
    step = 2 if codes and weighted else 1  # integers are multiplied at half the rate
    instructions: float = vectors * (2 + decoded * share.vector) + step * windows.taps * pixels * outs
    accesses = vectors + pixels + (windows.taps * max(1.0, outs / 4) if weighted else 0)
    instructions += OPENING + ENDING[codes and weighted] * pixels * outs + accesses
    weights = (windows.taps if held else windows.kernel[1]) * outs if weighted else 0
    row = -(-wide * share.vector * windows.bytes // 4)
    registers = pixels * outs + weights + row + share.vector + 36
    loops = 1 if held else -(-windows.kernel[0] // unrolled(windows, share))
    ahead = min(vectors // wide // loops, 1 + max(0, REGISTERS - registers) // row)
    return Work(instructions, accesses, registers, 4 * row * ahead, -(-vectors // (wide * ahead)) + 1)


def cycles(windows: Windows, share: Share, device: Device) -> float:
    """Estimated cycles of a kernel."""
    work, warps = work_of(windows, share), -(-share.threads // 32)
    blocks = windows.images * share.blocks(windows)
    own = -(-blocks // device.processors)
    resident = min(own, max(1, min(device.threads // share.threads, device.registers // (-(-work.registers // 8) * 8 * warps * 32), 32)))
    issue = own * warps * work.instructions / SCHEDULERS / min(1.0, resident * warps / (SCHEDULERS * TOGETHER))
    high, wide = (
        (groups * pixels - 1) * stride + (taps - 1) * dilation + 1
        for groups, pixels, stride, taps, dilation in zip(
            (share.down, share.across), (share.rows, share.columns), windows.strides, windows.kernel, windows.dilations, strict=True
        )
    )
    tile = min(high, windows.height) * min(wide, windows.width) * min(share.lanes * share.vector, windows.channels) * windows.bytes
    rate = min(float(CACHE), resident * share.threads * work.ahead / LATENCY)
    once = windows.images * windows.height * windows.width * windows.channels + windows.results
    memory = once * windows.bytes / device.bandwidth * device.clock
    parts = issue, own * warps * work.accesses * ACCESS / SCHEDULERS, own * tile / rate, memory
    return work.waits * LATENCY + max(parts) + APART * (sum(parts) - max(parts))


def shares(windows: Windows) -> Iterator[Share]:
    """All shares that are worth a thought."""
    for vector in vectors(windows):
        most_rows = MOST_ROWS if holds(windows, vector) else 1
        for columns in range(1, min(MOST_COLUMNS, windows.out_width) + 1):
            for rows in range(1, min(most_rows, windows.out_height) + 1):
                yield from blocks_of(windows, vector, columns, rows)


def vectors(windows: Windows) -> list[int]:
    """Channels that a thread may have, widest first: powers of two, whose elements are one load, and whose results are not too many."""
    widest = min(WIDEST // windows.bytes, 8)
    options = [v for v in (8, 4, 2, 1) if v <= widest and windows.channels % v == 0]
    return [v for v in options if v * windows.multiplier <= 8] or [1]


def blocks_of(windows: Windows, vector: int, columns: int, rows: int) -> Iterator[Share]:
    """Blocks of threads that have so many channels and pixels."""
    lanes = _lanes(windows.channels // vector, vector * windows.bytes)
    wide, high = -(-windows.out_width // columns), -(-windows.out_height // rows)
    for threads in THREADS:
        left = max(1, threads // lanes)
        for across in dict.fromkeys(min(wide, 1 << k) for k in range(left.bit_length())):
            found = Share(vector, columns, rows, lanes, across, min(high, max(1, left // across), 64))
            if work_of(windows, found).registers <= REGISTERS or columns * rows == 1:
                yield found


def _lanes(channels: int, size: int) -> int:
    """Threads of a block along the channels, of `channels` vectors of `size` bytes: a divisor that fills a line, or nearly so."""
    most = min(channels, max(1, 2 * LINE // size))
    best = max(d for d in range(1, most + 1) if channels % d == 0)
    return best if best * 2 >= min(most, LINE // size) else min(channels, max(1, LINE // size))


def fits(windows: Windows) -> bool:
    """Whether a thread has registers for a row of the image under the windows of some share."""
    return any(work_of(windows, share).registers <= REGISTERS for share in shares(windows))


def choose(windows: Windows, gpus: Sequence[Gpu]) -> Share:
    """The share with the fewest estimated cycles on the smallest GPU of a list."""
    device = device_of(min(gpus, key=lambda gpu: gpu.processors).name)
    return min(shares(windows), key=lambda share: cycles(windows, share, device))


def choice_of(share: Share) -> Choice:
    """A share as tuning chooses it."""
    return Choice(neighbours=share.vector, pixels=share.columns, rows=share.rows)


def alternatives(windows: Windows, gpus: Sequence[Gpu], count: int) -> list[Choice]:
    """The best shares by the estimate, as tuning chooses them."""
    device = device_of(min(gpus, key=lambda gpu: gpu.processors).name)
    best: dict[Choice, float] = {}
    for share in shares(windows):
        choice, time = choice_of(share), cycles(windows, share, device)
        best[choice] = min(time, best.get(choice, math.inf))
    return sorted(best, key=lambda choice: best[choice])[:count]


def share_of(windows: Windows, choice: Choice, gpus: Sequence[Gpu]) -> Share:
    """The share that is chosen, in the block that is estimated best, or the analytic one.

    Raises:
        UsageError: there is none with these parameters.
    """
    if not choice:
        return choose(windows, gpus)
    device = device_of(min(gpus, key=lambda gpu: gpu.processors).name)
    found = [share for share in shares(windows) if choice_of(share) == choice]
    if not found:
        given = ", ".join(f"{name} {value}" for name, value in choice.to_json().items())
        raise UsageError(
            f"no windows with {given} fit the kernel", hint="the tuning database is of another kernel; docs/tuning.md describes it"
        )
    return min(found, key=lambda share: cycles(windows, share, device))
