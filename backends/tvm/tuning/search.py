"""The search for one kernel's best choice: stage by stage, each candidate checked and timed beside the best one so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from lepton_compiler.backends.tvm import workers
from lepton_compiler.backends.tvm.choice import ANALYTIC, Choice
from lepton_compiler.backends.tvm.kernels import Kernel, KernelCache
from lepton_compiler.backends.tvm.spec import KernelSpec
from lepton_compiler.backends.tvm.tuning.candidates import STAGES, candidates, form_of
from lepton_compiler.backends.tvm.tuning.device import Device
from lepton_compiler.backends.tvm.tuning.kernel_bench import KernelBench
from lepton_compiler.backends.tvm.tuning.process import MeasureError
from lepton_compiler.backends.tvm.tuning.statistics import Comparison, compare
from lepton_compiler.target import Target

MARGIN, LEVEL = 0.02, 0.01
"""By how much, and how surely, a candidate must be faster."""
ROUNDS, FINAL_ROUNDS, KEPT = 11, 41, 3
"""Rounds with all candidates of a stage, rounds with the best ones, and how many those are."""


@dataclass(frozen=True)
class Found:
    """The end of a search: the choice, its time over the analytic one's, and how many candidates were measured."""

    choice: Choice
    ratio: float
    candidates: int


@dataclass(frozen=True)
class Search:
    """What searches of all kernels have in common.

    Attributes:
        target: the machine.
        device: what measures.
        jobs: compiler processes at once.
        cache: of compiled kernels.
        evicted: bytes of other memory that the model goes through between two calls of a kernel.
        deadline: `time.monotonic` at which no new stage begins.
    """

    target: Target
    device: Device
    jobs: int
    cache: KernelCache
    evicted: int
    deadline: float

    def run(self, spec: KernelSpec, detail: Callable[[str], None]) -> Found | None:
        """The best choice for a kernel; None where time ran out before all stages were done."""
        form, best, measured = form_of(spec), ANALYTIC, 0
        assert form is not None
        for stage in STAGES:
            tried = candidates(form, stage, best, self.target)
            if not tried:
                continue
            if time.monotonic() > self.deadline:
                return None
            detail(f"{spec.label}: {stage}, {len(tried)} candidates")
            kernels = self.compile([replace(spec, choice=choice) for choice in (best, *tried)])
            if kernels is None:
                return None
            chosen = self.fastest(spec, best, dict(zip((best, *tried), kernels, strict=True)))
            measured += sum(k is not None for k in kernels[1:])
            best = chosen
        if best == ANALYTIC:
            return Found(ANALYTIC, 1.0, measured)
        final = self.confirm(spec, best)
        return Found(best, final.ratio, measured) if final.faster(MARGIN, LEVEL) else Found(ANALYTIC, 1.0, measured)

    def compile(self, specs: Sequence[KernelSpec]) -> list[Kernel | None] | None:
        """Kernels; None for those that cannot be compiled, and None altogether where time ran out."""

        def one(spec: KernelSpec) -> Kernel | bool | None:
            key = spec.key(self.target)
            if (hit := self.cache.get(key)) is not None:
                return hit
            if time.monotonic() > self.deadline:
                return False
            with workers.lend() as worker:
                answer = worker.ask((key, spec, self.target))
            if not isinstance(answer, Kernel):
                return None
            self.cache.put(key, answer)
            return answer

        with ThreadPoolExecutor(self.jobs) as pool:
            results = list(pool.map(one, specs))
        return None if any(r is False for r in results) else [r if isinstance(r, Kernel) else None for r in results]

    def fastest(self, spec: KernelSpec, best: Choice, kernels: dict[Choice, Kernel | None]) -> Choice:
        """The fastest of some choices; the best one so far unless another is clearly faster. Wrong results disqualify."""
        distinct: dict[bytes, Choice] = {}
        for choice, kernel in kernels.items():
            if kernel is not None:
                distinct.setdefault(kernel.object.replace(kernel.symbol.encode(), b""), choice)
        order = list(distinct.values())
        if len(order) < 2 or order[0] != best:
            return best
        bench = KernelBench(self.device, spec, self.target, [k for c in order if (k := kernels[c]) is not None], self.evicted)
        try:
            right = bench.load_and_check()
            samples = bench.samples(right, ROUNDS)
            ratios = {k: compare(samples[:, k], samples[:, 0]).ratio for k in right if k != 0}
            finalists = sorted(ratios, key=lambda k: ratios[k])[:KEPT]
            finalists = [k for k in finalists if ratios[k] < 1.0]
            if not finalists:
                return best
            samples = bench.samples([0, *finalists], FINAL_ROUNDS)
        except MeasureError:
            return best
        results = {k: compare(samples[:, k], samples[:, 0]) for k in finalists}
        faster = [k for k, result in results.items() if result.faster(MARGIN / 2, LEVEL / KEPT)]
        return order[min(faster, key=lambda k: results[k].ratio)] if faster else best

    def confirm(self, spec: KernelSpec, best: Choice) -> Comparison:
        """The best choice against the analytic one, measured afresh."""
        kernels = self.compile([spec, replace(spec, choice=best)])
        never = Comparison(1.0, 1.0)
        if kernels is None or kernels[0] is None or kernels[1] is None:
            return never
        bench = KernelBench(self.device, spec, self.target, [kernels[0], kernels[1]], self.evicted)
        try:
            if len(bench.load_and_check()) < 2:
                return never
            samples = bench.samples([0, 1], FINAL_ROUNDS)
        except MeasureError:
            return never
        return compare(samples[:, 1], samples[:, 0])


def tunable(spec: KernelSpec, target: Target) -> bool:
    """Whether a kernel has anything to choose."""
    form = form_of(spec)
    return form is not None and any(candidates(form, stage, ANALYTIC, target) for stage in STAGES)
