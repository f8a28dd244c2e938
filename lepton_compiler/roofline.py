"""What this machine can do at most, measured: float32 and int8 operations, and bytes from each level of memory, per second.

A small C program, compiled here for the vector width of the target, runs multiply-adds on registers only, and reads and combines arrays that
fit a level of memory (the triad of STREAM, McCalpin 1995). With these a kernel's time has a lower bound, that of the roofline model (Williams,
Waterman and Patterson, 2009).
"""

from __future__ import annotations

import ctypes
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lepton_compiler.errors import UnsupportedError
from lepton_compiler.target import Target
from lepton_compiler.toolchain import find_toolchain

SAMPLES = 12
SAMPLE_SECONDS = 0.01
"""How often each rate is measured, the best counting, and for about how long."""

LARGEST = 512 << 20
"""Bytes that arrays may take altogether."""

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")

FEATURES = {512: "avx512f,fma", 256: "avx2,fma", 128: "sse4.2"}
"""By vector width, what the compiler must be told on x86."""

SOURCE = """
typedef float vec __attribute__((vector_size({width})));
#define LANES ({width} / 4)

{attribute} float multiply_add(long n)
{{
    vec b = (vec){{0}} + 0.999f, c = (vec){{0}} + 1e-5f, {accumulators};
    for (long i = 0; i < n; i++) {{ {updates} }}
    vec s = {total};
    return s[0];
}}

{attribute} float read(const float *data, long n, long rounds)
{{
    vec s0 = {{0}}, s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0, s6 = s0, s7 = s0;
    for (long r = 0; r < rounds; r++) {{
        const vec *p = (const vec *)data;
        for (long i = 0; i + 8 * LANES <= n; i += 8 * LANES, p += 8) {{
            s0 += p[0]; s1 += p[1]; s2 += p[2]; s3 += p[3]; s4 += p[4]; s5 += p[5]; s6 += p[6]; s7 += p[7];
        }}
    }}
    s0 += s1 + s2 + s3 + s4 + s5 + s6 + s7;
    return s0[0];
}}

{attribute} float triad(float *data, long n, long rounds)
{{
    n = n / 3 / LANES;
    vec *a = (vec *)data, *b = a + n, *c = b + n;
    for (long r = 0; r < rounds; r++)
        for (long i = 0; i < n; i++) a[i] = b[i] + 0.5f * c[i];
    return data[0];
}}
"""

SOURCE_INT8 = """
typedef int ivec __attribute__((vector_size({width})));
__attribute__((target("avx512f,avx512vnni"))) int dot_products(long n)
{{
    ivec b = (ivec){{0}} + 0x01010101, {accumulators};
    for (long i = 0; i < n; i++) {{ {updates} }}
    ivec s = {total};
    return s[0];
}}
"""


@dataclass(frozen=True)
class Level:
    """A level of memory.

    Attributes:
        name: `L1`, `L2`, `L3`, `memory`.
        holds: bytes that one thread finds there; None for memory.
        read: bytes per second of reading alone, all threads together.
        triad: bytes per second of reading two arrays and writing one.
    """

    name: str
    holds: int | None
    read: float
    triad: float

    @property
    def rate(self) -> float:
        """The higher one, in bytes per second."""
        return max(self.read, self.triad)

    def as_json(self) -> dict[str, Any]:
        """JSON values, rates in GB/s."""
        return {
            "name": self.name,
            "holds": self.holds,
            "read_gbytes": round(self.read * 1e-9, 2),
            "triad_gbytes": round(self.triad * 1e-9, 2),
        }


@dataclass(frozen=True)
class Limits:
    """The most that some threads of this machine do.

    Attributes:
        threads: that were measured together.
        flops: float32 operations per second, two per multiply-add.
        int8_ops: 8-bit operations per second, two per multiply-add; None where there is no instruction for it.
        levels: the nearest first; the last one holds everything.
    """

    threads: int
    flops: float
    int8_ops: float | None
    levels: tuple[Level, ...]

    def level(self, size: int) -> Level:
        """The nearest level that holds `size` bytes."""
        return next((level for level in self.levels[:-1] if level.holds is not None and size <= level.holds), self.levels[-1])

    def seconds(self, macs: int, moved: int, constant: int, footprint: int) -> float:
        """The least time for some work: that of its arithmetic or that of its traffic, whichever is more.

        Args:
            macs: float32 multiply-accumulates.
            moved: bytes read and written that other work has just written or will read at once; they come from the level that holds them.
            constant: bytes of weights.
            footprint: bytes that are touched before the same weights are read again; they come from the level that holds that much.
        """
        return max(2 * macs / self.flops, moved / self.level(moved).rate + constant / self.level(footprint).rate)

    def as_json(self) -> dict[str, Any]:
        """JSON values, rates in thousand millions per second."""
        return {
            "threads": self.threads,
            "gflops": round(self.flops * 1e-9, 2),
            "int8_gops": None if self.int8_ops is None else round(self.int8_ops * 1e-9, 2),
            "levels": [level.as_json() for level in self.levels],
        }

    def __str__(self) -> str:
        parts = [f"{self.flops * 1e-9:.0f} GFLOP/s"]
        if self.int8_ops is not None:
            parts.append(f"{self.int8_ops * 1e-9:.0f} GOP/s in int8")
        parts += [f"{level.name} {level.rate * 1e-9:.0f} GB/s" for level in self.levels]
        return f"{', '.join(parts)} ({self.threads} thread{'s' if self.threads > 1 else ''})"


def measure_limits(target: Target, threads: int = 1) -> Limits:
    """Compile the program and measure; about two seconds.

    Args:
        target: this machine; its vector width counts.
        threads: that work at the same time, each on data of its own.

    Raises:
        UnsupportedError: the target is another machine.
        MissingDependency: there is no C compiler.
    """
    if not target.host:
        raise UnsupportedError(f"target '{target.name}' cannot be measured here", hint="limits are those of the native target")
    with tempfile.TemporaryDirectory(prefix="lepton-") as folder:
        library = _compiled(target, Path(folder))
    chains = _chains(target)
    lanes = target.vector_bits // 32
    flops = _rate(lambda: lambda n: library.multiply_add(n), 2 * lanes * chains, threads)
    int8 = _rate(lambda: lambda n: library.dot_products(n), 8 * lanes * chains, threads) if _has_dot_products(target) else None
    levels = tuple(_level(library, name, size, holds, threads) for name, size, holds in _working_sets(target, threads))
    return Limits(threads, flops, int8, levels)


def _chains(target: Target) -> int:
    """Independent accumulators: enough to hide the latency of a multiply-add, few enough for the registers."""
    return 24 if target.vector_registers >= 32 else 12


def _has_dot_products(target: Target) -> bool:
    return target.vector_bits == 512 and "+avx512vnni" in target.features


def _compiled(target: Target, folder: Path) -> ctypes.CDLL:
    """The program as a loaded library."""
    x86 = target.arch == "x86_64"
    names = [f"a{k}" for k in range(_chains(target))]
    words = {
        "width": target.vector_bits // 8,
        "attribute": f'__attribute__((target("{FEATURES[target.vector_bits]}")))' if x86 else "",
        "total": " + ".join(names),
    }
    has_fma = x86 and target.vector_bits > 128
    step = 'asm volatile("vfmadd231ps %1, %2, %0" : "+v"({a}) : "v"(b), "v"(c));' if has_fma else "{a} = {a} * b + c;"
    text = SOURCE.format(
        **words,
        accumulators=", ".join(f"{a} = c * {k}" for k, a in enumerate(names)),
        updates=" ".join(step.format(a=a) for a in names),
    )
    if _has_dot_products(target):
        updates = " ".join(f'asm volatile("vpdpbusd %1, %1, %0" : "+v"({a}) : "v"(b));' for a in names)
        text += SOURCE_INT8.format(**words, accumulators=", ".join(f"{a} = {{0}}" for a in names), updates=updates)
    (folder / "limits.c").write_text(text, encoding="utf-8")
    tools = find_toolchain()
    tools.run(folder, [*tools.compiler, "-O2", "-w", "-ffp-contract=fast", "-fPIC", "-shared", "-o", "limits.so", "limits.c"])
    library = ctypes.CDLL(str(folder / "limits.so"))
    library.multiply_add.argtypes, library.multiply_add.restype = [ctypes.c_long], ctypes.c_float
    for function in (library.read, library.triad):
        function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_long, ctypes.c_long], ctypes.c_float
    if _has_dot_products(target):
        library.dot_products.argtypes, library.dot_products.restype = [ctypes.c_long], ctypes.c_int
    return library


def _working_sets(target: Target, threads: int) -> list[tuple[str, int, int | None]]:
    """Per level its name, the bytes of the array of one thread, and the bytes that it holds for one thread."""
    (l1, l2), l3 = target.caches, last_level_bytes() // threads
    sets: list[tuple[str, int, int | None]] = [("L1", l1 // 2, l1), ("L2", (l1 + l2) // 2, l2)]
    if l3 > 4 * l2:
        sets.append(("L3", min(4 * l2, LARGEST // threads), l3))
    return [*sets, ("memory", min(2 * max(l3, 16 << 20), _spare() // threads), None)]


def _spare() -> int:
    """Bytes that may be used: a quarter of the memory that is free, and not too much."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(min(LARGEST, free // 4), 1 << 20)


def last_level_bytes() -> int:
    """Bytes of the level-3 cache, as Linux tells them; 0 where there is none, or Linux does not."""
    for folder in sorted(CACHES.glob("index*")):
        try:
            level, size = ((folder / name).read_text().strip() for name in ("level", "size"))
        except OSError:
            continue
        if level == "3" and size.endswith("K"):
            return int(size[:-1]) << 10
    return 0


def _level(library: ctypes.CDLL, name: str, size: int, holds: int | None, threads: int) -> Level:
    count = size // 4 // 384 * 384  # whole vectors in each of three arrays
    arrays = iter([_aligned(count) for _ in range(threads)] * 2)

    def bound(function: Callable[[int, int, int], float]) -> Callable[[int], Any]:
        array = next(arrays)
        return lambda rounds: function(array.ctypes.data, count, rounds)

    read = _rate(lambda: bound(library.read), 4 * count, threads)
    triad = _rate(lambda: bound(library.triad), 4 * count, threads)
    return Level(name, holds, read, triad)


def _aligned(count: int) -> np.ndarray:
    """Floats that begin a cache line."""
    raw = np.ones(count + 16, np.float32)
    return raw[(-raw.ctypes.data % 64) // 4 :][:count]


def _rate(make: Callable[[], Callable[[int], Any]], work: float, threads: int) -> float:
    """Units of work per second that `threads` threads do, the best of some samples.

    Args:
        make: gives each thread its function of a number of rounds; ctypes lets the functions run at the same time.
        work: of one round of one thread.
        threads: how many.
    """
    calls = [make() for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        rounds = 1
        while (seconds := min(_together(pool, calls, rounds) for _ in range(3))) < SAMPLE_SECONDS / 2:
            rounds = max(2 * rounds, int(rounds * SAMPLE_SECONDS / max(seconds, 1e-6) / 2))
        best = min(_together(pool, calls, rounds) for _ in range(SAMPLES))
    return threads * rounds * work / best


def _together(pool: ThreadPoolExecutor, calls: Sequence[Callable[[int], Any]], rounds: int) -> float:
    start = time.perf_counter()
    for done in [pool.submit(call, rounds) for call in calls]:
        done.result()
    return time.perf_counter() - start
