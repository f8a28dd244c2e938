"""GPUs of NVIDIA, by architecture: what kernels and the compiler must know of them.

Plain tables, from the CUDA C++ Programming Guide ("Compute Capabilities") and the data sheets of the products named. Speeds are those of
one product of the architecture and only serve to choose between kernels.
"""

from __future__ import annotations

from dataclasses import dataclass

OLDEST_BFLOAT16 = (8, 0)
"""Compute capability from which on tensor cores multiply bfloat16, and float32 in tf32."""


@dataclass(frozen=True)
class Gpu:
    """One architecture.

    Attributes:
        name: as the compiler calls it: `sm_80`.
        help: products that have it.
        processors: streaming multiprocessors of the product that speeds are of.
        fewest: multiprocessors of the smallest product of the architecture: as many blocks are sure to be there at the same time.
        shared_per_block: bytes of shared memory that a block may ask for.
        registers: 32-bit registers of a multiprocessor.
        threads: that a multiprocessor holds at the same time.
        machine: architecture that machine code is compiled for, where that is not `name`: `sm_90a` has instructions that neither PTX for later
            GPUs nor their machine code has, and its code runs on all GPUs of the capability (CUDA C++ Programming Guide,
            "Architecture-Specific Features"). It is the only one of its major version.
    """

    name: str
    help: str
    processors: int
    fewest: int
    shared_per_block: int
    registers: int = 65536
    threads: int = 2048
    machine: str = ""

    @property
    def architecture(self) -> str:
        """What its machine code is compiled for, as the compiler calls it."""
        return self.machine or self.name

    @property
    def virtual(self) -> str:
        """What PTX for it and for all later GPUs is compiled for, as the compiler calls it."""
        return self.name.replace("sm", "compute")

    @property
    def capability(self) -> tuple[int, int]:
        """Compute capability: major, minor."""
        number = int(self.name.removeprefix("sm_"))
        return number // 10, number % 10

    @property
    def multiplied(self) -> frozenset[str]:
        """Element types of products that kernels of tensor cores, or in float32 those of ordinary ones, take; `int8` is codes, signed or not."""
        return frozenset({"float32", "float16", "int8", *(("bfloat16",) if self.capability >= OLDEST_BFLOAT16 else ())})


GPUS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        Gpu("sm_75", "T4, GeForce RTX 20", 40, 6, 64 << 10, threads=1024),
        Gpu("sm_80", "A100, A30", 108, 56, 163 << 10),
        Gpu("sm_86", "A10, A40, GeForce RTX 30", 84, 6, 99 << 10, threads=1536),
        Gpu("sm_87", "Jetson Orin", 16, 4, 163 << 10, threads=1536),
        Gpu("sm_89", "L4, L40, GeForce RTX 40", 142, 16, 99 << 10, threads=1536),
        Gpu("sm_90", "H100, H200", 132, 78, 227 << 10, machine="sm_90a"),
        Gpu("sm_100", "B200", 148, 132, 227 << 10),
        Gpu("sm_120", "GeForce RTX 50", 170, 14, 99 << 10, threads=1536),
    )
}
"""By name, oldest first."""

DEFAULT = ("sm_80", "sm_90")
"""Architectures of a plain `--target cuda`; the code for the newest one runs, as PTX, on all that come after it."""
