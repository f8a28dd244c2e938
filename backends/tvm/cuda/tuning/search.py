"""The search for one kernel's best choice on a GPU: each candidate checked, and timed beside the analytic kernel."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lepton_compiler.backends.tvm import workers
from lepton_compiler.backends.tvm.choice import ANALYTIC, Choice
from lepton_compiler.backends.tvm.cuda.compilers import compile_cubin
from lepton_compiler.backends.tvm.cuda.tuning.candidates import candidates
from lepton_compiler.backends.tvm.cuda.tuning.device import Contest, GpuDevice
from lepton_compiler.backends.tvm.cuda.tuning.fastest import ROUNDS, fastest
from lepton_compiler.backends.tvm.cuda.unit import unit
from lepton_compiler.backends.tvm.kernels import Kernel, KernelCache
from lepton_compiler.backends.tvm.spec import KernelSpec
from lepton_compiler.backends.tvm.tuning.process import MeasureError
from lepton_compiler.errors import LeptonError
from lepton_compiler.gpus import Gpu
from lepton_compiler.target import Target

Code = tuple[Kernel, bytes]


@dataclass(frozen=True)
class Found:
    """The end of a search.

    Attributes:
        choice: the best one.
        ratio: its time over the analytic one's.
        candidates: how many were measured.
        skipped: how many could not be compiled or started, or gave other results.
    """

    choice: Choice
    ratio: float
    candidates: int
    skipped: int


@dataclass(frozen=True)
class Search:
    """What searches of all kernels have in common.

    Attributes:
        target: the machine.
        gpu: the architecture whose code is measured.
        device: what measures.
        jobs: compiler processes at once.
        folder: where code is kept by content.
        touched: bytes that the model goes through in a run.
        deadline: `time.monotonic` after which nothing new begins.
    """

    target: Target
    gpu: Gpu
    device: GpuDevice
    jobs: int
    folder: Path
    touched: int
    deadline: float

    def analytic(self, specs: Sequence[KernelSpec]) -> list[float]:
        """Seconds of kernels without choices; zero for those that are not compiled before the deadline, or cannot be measured."""
        found = []
        for spec, code in zip(specs, self.compile(specs), strict=True):
            contest = Contest(self.device, spec, self.touched)
            if code is None or self.is_late or contest.add(*code):
                found.append(0.0)
                continue
            try:
                found.append(float(np.median(contest.samples([0], ROUNDS))))
            except MeasureError:
                found.append(0.0)
        return found

    def run(self, spec: KernelSpec, detail: Callable[[str], None]) -> Found | None:
        """The best choice for a kernel; None where time ran out before it was found."""
        tried = candidates(spec, self.target)
        detail(f"{spec.label}: {len(tried)} candidates")
        codes = self.compile([spec, *(replace(spec, choice=choice) for choice in tried)])
        if self.is_late:
            return None
        contest, skipped = Contest(self.device, spec, self.touched), 0
        if codes[0] is None or contest.add(*codes[0]):
            return Found(ANALYTIC, 1.0, 0, 1)
        choices, texts = [ANALYTIC], {_text(codes[0])}
        for choice, code in zip(tried, codes[1:], strict=True):
            if self.is_late:
                return None
            if code is None:
                skipped += 1
            elif _text(code) not in texts:
                texts.add(_text(code))
                if problem := contest.add(*code):
                    detail(f"{spec.label}: {choice.to_json()} is left out: {problem}")
                    skipped += 1
                else:
                    choices.append(choice)
        try:
            best, ratio = fastest(contest.samples, len(choices))
        except MeasureError:
            return Found(ANALYTIC, 1.0, len(choices) - 1, skipped)
        return Found(choices[best], ratio, len(choices) - 1, skipped)

    @property
    def is_late(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() > self.deadline

    def compile(self, specs: Sequence[KernelSpec]) -> list[Code | None]:
        """Kernels with their machine code; None for those that cannot be compiled, and for those that there was no time for."""
        with ThreadPoolExecutor(self.jobs) as pool:
            return list(pool.map(self._compiled, specs))

    def _compiled(self, spec: KernelSpec) -> Code | None:
        if self.is_late:
            return None
        key, cache = spec.key(self.target), KernelCache(self.folder)
        kernel = cache.get(key)
        if kernel is None:
            with workers.lend() as worker:
                answer = worker.ask((key, spec, self.target))
            if not isinstance(answer, Kernel):
                return None
            kernel = answer
            cache.put(key, kernel)
        try:
            return kernel, compile_cubin(unit([kernel]), self.gpu, self.folder)
        except LeptonError:
            return None


def _text(code: Code) -> bytes:
    """What tells kernels apart: their text without their names, and how they are started."""
    kernel, _ = code
    symbol = kernel.symbol.encode()
    launches = [(launch.grid, launch.block, launch.shared_bytes) for launch in kernel.launches]
    return kernel.object.replace(symbol, b"") + repr(launches).encode()
