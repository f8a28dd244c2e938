"""The GPU that measures, as the compiler sees it: a process with time limits, started anew where a kernel broke it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np

from lepton_compiler.backends.tvm.kernels import Kernel
from lepton_compiler.backends.tvm.spec import KernelSpec
from lepton_compiler.backends.tvm.tuning.process import MeasureError, MeasuringProcess
from lepton_compiler.cuda_driver import Driver, GpuFacts
from lepton_compiler.errors import UnsupportedError
from lepton_compiler.gpus import Gpu
from lepton_compiler.target import Target

RUNNER = "lepton_compiler.backends.tvm.cuda.tuning.runner"
LIMIT_SECONDS = 60.0
"""Time for an answer, beyond that of measuring: a kernel that hangs is given up."""


class GpuDevice:
    """GPU 0 of this machine; a context manager.

    Attributes:
        facts: what the driver says of it.

    Raises:
        MissingDependency: there is no driver.
        LeptonError: there is no GPU.
    """

    def __init__(self) -> None:
        self.facts: GpuFacts = Driver().facts()
        self.process = MeasuringProcess(RUNNER)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.stop()

    @property
    def name(self) -> str:
        """For the database."""
        return self.facts.identity

    def ask(self, seconds: float, request: str, *arguments: Any) -> Any:
        """A request of `runner.Runner` that takes about so long.

        Raises:
            MeasureError: it failed, and with it the process and all that it held.
        """
        return self.process.ask(LIMIT_SECONDS + 10 * seconds, request, *arguments)

    def model(self, name: str, code: bytes, manifest: Mapping[str, Any], feeds: Mapping[str, np.ndarray]) -> None:
        """Load a model's library under a name."""
        self.ask(0.0, "model", name, code, dict(manifest), dict(feeds))

    def times(self, names: Sequence[str], seconds: float) -> np.ndarray:
        """Seconds `[rounds, model]` of models, in turns."""
        return np.asarray(self.ask(seconds, "times", list(names), seconds))


def code_for(target: Target, facts: GpuFacts) -> Gpu:
    """The architecture of the target whose code a GPU runs.

    Raises:
        UnsupportedError: there is none.
    """
    fitting = [gpu for gpu in target.gpus if gpu.capability[0] == facts.capability[0] and gpu.capability <= facts.capability]
    if not fitting:
        raise UnsupportedError(
            f"'{facts.name}' is {facts.architecture}, and cannot measure code for {', '.join(gpu.name for gpu in target.gpus)}",
            hint=f"compile with --target cuda:{facts.architecture}",
        )
    return fitting[-1]


class Contest:
    """Kernels of one spec on the device. What is right stays; where one breaks the process, the others are loaded again."""

    def __init__(self, device: GpuDevice, spec: KernelSpec, touched: int) -> None:
        self.device, self.spec, self.touched = device, spec, touched
        self.right: list[tuple[Kernel, bytes]] = []
        self.begun = False

    def add(self, kernel: Kernel, image: bytes) -> str:
        """Load and check a kernel; returns why it is out, or nothing."""
        try:
            self._restore()
            problem = str(self.device.ask(0.0, "add", kernel, image))
        except MeasureError as error:
            self.begun = False
            return error.diagnostics[0].message
        if not problem:
            self.right.append((kernel, image))
        return problem

    def samples(self, active: Sequence[int], rounds: int) -> np.ndarray:
        """Seconds `[rounds, len(active)]` of those that are right, by their order.

        Raises:
            MeasureError: one of them broke the process.
        """
        self._restore()
        try:
            return np.asarray(self.device.ask(1.0, "samples", list(active), rounds))
        except MeasureError:
            self.begun = False
            raise

    def _restore(self) -> None:
        if self.begun:
            return
        self.device.ask(0.0, "begin", self.spec, self.touched)
        for kernel, image in self.right:
            self.device.ask(0.0, "add", kernel, image)
        self.begun = True
