"""Where the time of a compiled model goes, kernel by kernel."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_compiler.errors import UsageError
from lepton_compiler.measure import native_call
from lepton_compiler.roofline import Limits


@dataclass(frozen=True)
class KernelTime:
    """One kernel call of a model.

    Attributes:
        symbol: of the kernel.
        sources: the nodes of the model that it computes.
        outputs: types of its results.
        seconds: mean time of the call in one run.
        macs: multiply-accumulates as its operators define them.
        bytes: of what it reads and writes.
        least: the seconds that the machine needs at least, by its limits; None where they were not measured.
    """

    symbol: str
    sources: tuple[str, ...]
    outputs: tuple[str, ...]
    seconds: float
    macs: int
    bytes: int
    least: float | None = None

    @property
    def gflops(self) -> float:
        """Billions of operations per second, two per multiply-accumulate."""
        return 2e-9 * self.macs / self.seconds if self.seconds else 0.0

    @property
    def gbytes(self) -> float:
        """Billions of bytes per second."""
        return 1e-9 * self.bytes / self.seconds if self.seconds else 0.0

    @property
    def share(self) -> float | None:
        """How much of the machine's limit the kernel reaches, 1 being all of it.

        More than 1 is possible: Winograd's algorithm multiplies less than the operator defines, which is what counts here.
        """
        return self.least / self.seconds if self.least is not None and self.seconds else None

    def as_json(self) -> dict[str, Any]:
        """JSON values, times in milliseconds."""
        return {
            "symbol": self.symbol,
            "sources": list(self.sources),
            "outputs": list(self.outputs),
            "ms": round(self.seconds * 1e3, 6),
            "gflops": round(self.gflops, 3),
            "gbytes": round(self.gbytes, 3),
            "limit_share": None if self.share is None else round(self.share, 4),
        }


def profile(model: Any, feeds: Mapping[str, np.ndarray], seconds: float = 1.0, limits: Limits | None = None) -> list[KernelTime]:
    """Run a model that was compiled with `profile=True` and say how long each kernel call takes, in order of execution.

    Looking at the clock takes some 50 ns per call, which very small kernels show.

    Args:
        model: compiled with `profile=True`.
        feeds: its inputs.
        seconds: how long to measure.
        limits: of this machine and the model's number of threads, for the share of them that each kernel reaches.

    Raises:
        UsageError: the model was compiled without `profile=True`.
    """
    library = model.library
    rows = model.manifest["calls"]
    try:
        spent = (ctypes.c_double * len(rows)).in_dll(library.handle, f"{model.manifest['name']}_profile")
    except ValueError as error:
        raise UsageError("the model does not measure its kernels", hint="compile it with profile=True") from error
    call = native_call(model, feeds)
    call()
    before, runs, end = list(spent), 0, time.perf_counter() + seconds
    while runs < 3 or time.perf_counter() < end:
        call()
        runs += 1
    footprint = model.manifest["weights_bytes"] + model.manifest["arena_bytes"]
    return [
        KernelTime(
            row["symbol"], tuple(row["sources"]), tuple(row["outputs"]), (after - start) / runs, row["macs"], row["bytes"],
            _least(row, footprint, limits) if limits else None,
        )
        for row, start, after in zip(rows, before, spent, strict=True)
    ]  # fmt: skip


def _least(row: Mapping[str, Any], footprint: int, limits: Limits) -> float:
    """Seconds that a call needs at least; weights come from where `footprint` bytes fit, since the whole model ran in between."""
    return limits.seconds(row["macs"], row["bytes"] - row["constant_bytes"], row["constant_bytes"], footprint)
