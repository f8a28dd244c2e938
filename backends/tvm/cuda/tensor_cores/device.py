"""What the choice of tiles must know of a GPU: sizes of a multiprocessor and its speeds.

Sizes are from the CUDA C++ Programming Guide ("Compute Capabilities"), speeds from the data sheets of one product of each architecture. They
only serve to choose between kernels that are all right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lepton_compiler.errors import UnsupportedError


@dataclass(frozen=True)
class Device:
    """A GPU.

    Attributes:
        name: architecture, as nvcc calls it.
        processors: multiprocessors.
        clock: of the multiprocessors, in Hz.
        bandwidth: of its memory, in bytes per second.
        shared_per_block: bytes of shared memory that a block may ask for.
        fp32: multiply-adds of the ordinary cores per clock and multiprocessor.
        half: multiply-adds of fp16 through `mma.sync` per clock and multiprocessor; tf32 has half of them, int8 twice as many.
        threads: that a multiprocessor holds.
        registers: of a multiprocessor, 32 bits each.
        group: multiply-adds of fp16 through `wgmma` per clock and multiprocessor, int8 has twice as many; 0 where the architecture has none.
        gpcs: multiprocessors of its parts (GPCs), inside which the blocks of a cluster lie; none where it has no clusters.
        clusters: how many of the architectures that code is for have clusters of blocks.
    """

    name: str
    processors: int
    clock: float
    bandwidth: float
    shared_per_block: int
    fp32: int
    half: int
    threads: int
    registers: int = 65536
    group: int = 0
    gpcs: tuple[int, ...] = ()
    clusters: Literal["none", "some", "all"] = "none"

    @property
    def shared(self) -> int:
        """Bytes of shared memory of a multiprocessor; each block takes 1 KiB more than it asks for."""
        return self.shared_per_block + 1024

    def processors_of_clusters(self, blocks: int) -> int:
        """Multiprocessors that clusters of this many blocks can use at the same time, one block on each."""
        return sum(gpc // blocks * blocks for gpc in self.gpcs)


H100_GPCS = (14, *4 * (16,), *3 * (18,))
"""66 pairs in 8 parts of at most 9, of which 15 clusters of eight blocks ran at the same time (github.com/accel-sim/gpu-app-collection, no. 87)."""
B200_GPCS = (*6 * (18,), *2 * (20,))
RTX_5090_GPCS = (*11 * (14,), 16)
"""Not published: as many as there are, in parts of nearly the same size."""

DEVICES = {
    device.name: device
    for device in (
        Device("sm_75", 40, 1.59e9, 320e9, 64 << 10, 64, 512, 1024),  # T4
        Device("sm_80", 108, 1.41e9, 1555e9, 163 << 10, 64, 1024, 2048),  # A100
        Device("sm_86", 72, 1.70e9, 600e9, 99 << 10, 128, 512, 1536),  # A10
        Device("sm_87", 16, 1.30e9, 205e9, 163 << 10, 128, 512, 1536),  # Jetson Orin
        Device("sm_89", 142, 2.49e9, 864e9, 99 << 10, 128, 512, 1536),  # L40
        Device("sm_90", 132, 1.75e9, 3350e9, 227 << 10, 128, 1280, 2048, group=2048, gpcs=H100_GPCS, clusters="all"),  # H100
        Device("sm_100", 148, 1.85e9, 8000e9, 227 << 10, 128, 1280, 2048, gpcs=B200_GPCS, clusters="all"),  # B200
        Device("sm_120", 170, 2.41e9, 1792e9, 99 << 10, 128, 512, 1536, gpcs=RTX_5090_GPCS, clusters="all"),  # GeForce RTX 5090
    )
}
"""By architecture, oldest first."""


def device_of(name: str) -> Device:
    """The description of `sm_NN`, with or without the letter of its own features, or of the newest architecture known that is not newer.

    Raises:
        UnsupportedError: older than all that is known.
    """
    number = int(name.removeprefix("sm_").rstrip("af"))
    if f"sm_{number}" in DEVICES:
        return DEVICES[f"sm_{number}"]
    older = [d for d in DEVICES.values() if int(d.name.removeprefix("sm_")) <= number]
    if not older:
        raise UnsupportedError(f"no kernels for {name}", hint=f"known: {', '.join(DEVICES)}")
    return older[-1]
