"""Tuning one model: the kernels that take longest first, then the whole model with the winners beside the one without.

A choice has to prove itself twice: in the kernel alone, and in the model, where other kernels fill the caches. What does not
make the model faster is dropped, so that a tuned model is not slower than an untuned one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lepton_compiler.backend import BuildOptions
from lepton_compiler.backends.tvm.kernels import KernelCache
from lepton_compiler.backends.tvm.spec import KernelSpec, schedule_version
from lepton_compiler.backends.tvm.tuning.device import Device
from lepton_compiler.backends.tvm.tuning.model_bench import Build, ModelBench, ModelTimes
from lepton_compiler.backends.tvm.tuning.process import MeasureError
from lepton_compiler.backends.tvm.tuning.search import Found, Search, tunable
from lepton_compiler.backends.tvm.tuning.statistics import Comparison, compare
from lepton_compiler.backends.tvm.tuning.tuned import NEGLIGIBLE, SEARCH_SHARE, Tuned
from lepton_compiler.errors import LeptonError
from lepton_compiler.ir.graph import Graph
from lepton_compiler.tuning import Database, Row, TuningReport, describe, this_cpu

MOST_EVICTED = 32 << 20
"""Bytes that are read between calls at most: more than the part of a shared cache that one core can count on."""
MODEL_SECONDS = (2.0, 8.0)
"""Least and most time for one comparison of whole models."""
MODEL_LEVEL, KERNEL_LEVEL = 0.01, 0.05
"""How surely the tuned kernels are faster within the model: all together, and each."""

ANALYTIC, TUNED = ("analytic", "analytic again"), ("tuned", "tuned again")
INSTANCES = (ANALYTIC[0], TUNED[0], TUNED[1], ANALYTIC[1])
"""Libraries that run in turns: each model twice, at different places in memory."""

Detail = Callable[[str], None]


@dataclass(frozen=True)
class Tuning:
    """One run over a graph.

    Attributes:
        options: of the artefact that is wanted.
        database: what is known and where to add to.
        device: what measures.
        seconds: how long all may take.
        cache: of compiled kernels.
        build: the backend.
        detail: told what is going on.
    """

    options: BuildOptions
    database: Database
    device: Device
    seconds: float
    cache: KernelCache
    build: Build
    detail: Detail

    def run(self, graph: Graph, specs: Mapping[str, KernelSpec], symbols: Callable[[str], str]) -> Tuned:
        """Tune the kernels of a graph.

        Args:
            graph: of static shapes, legal for the backend.
            specs: its distinct kernels, by structure.
            symbols: from a structure to the symbol of its analytic kernel.
        """
        start, result = time.monotonic(), Tuned()
        wanted = {name: spec for name, spec in specs.items() if tunable(spec, self.options.target)}
        result.kernels = len(wanted)
        if not wanted:
            return result
        model = ModelBench(self.device, graph, self.options, self.build)
        self.detail("the model without choices")
        called = model.load(ANALYTIC, {})
        cpu = self.device.cpu(ANALYTIC[0]) if self.device.tracker else this_cpu()
        owners = {symbols(name): name for name in wanted}
        profile = _by_kernel(model.times(ANALYTIC[:1], MODEL_SECONDS[0])[0], called, owners)
        shares = {name: float(np.median(profile[name])) for name in wanted if name in profile}
        known = self.database.find(schedule_version(), self.options.target, cpu, self.options.threads)
        fresh = self.search(wanted, shares, known, cpu, min(model.touched, MOST_EVICTED), start + SEARCH_SHARE * self.seconds)
        rows = {**{name: row for name, row in known.items() if name in wanted}, **fresh}
        result.finished, result.measured = len(rows), len(fresh)
        result.choices = {name: row.choice for name, row in rows.items() if row.choice}
        before = dict(result.choices)
        result.choices, result.ratio = self.prove(model, result.choices, owners, called)
        for name in before.keys() - result.choices.keys():
            if name in fresh:
                self.database.add(replace(fresh[name], choice={}, ratio=1.0))
        return result

    def search(
        self,
        wanted: Mapping[str, KernelSpec],
        shares: Mapping[str, float],
        known: Mapping[str, Row],
        cpu: str,
        evicted: int,
        deadline: float,
    ) -> dict[str, Row]:
        """Search the kernels that are not known yet, those that take longest first, until the deadline; each is stored when it is done."""
        jobs = self.options.jobs or os.cpu_count() or 1
        search = Search(self.options.target, self.device, jobs, self.cache, evicted, deadline)
        total, found = sum(shares.values()), dict[str, Row]()
        pending = [name for name in sorted(shares, key=lambda n: (-shares[n], n)) if shares[name] >= NEGLIGIBLE * total]
        for position, name in enumerate(pending, 1):
            if name in known:
                continue
            if time.monotonic() > deadline:
                break
            left = max(0.0, deadline - time.monotonic())
            prefix = f"kernel {position} of {len(pending)}, {shares[name] / (total or 1.0):.0%} of the time, {left:.0f} s left"
            outcome = search.run(wanted[name], lambda text, prefix=prefix: self.detail(f"{prefix}: {text}"))  # type: ignore[misc]
            if outcome is not None:
                found[name] = self._row(name, wanted[name], cpu, outcome)
                self.database.add(found[name])
        return found

    def _row(self, name: str, spec: KernelSpec, cpu: str, found: Found) -> Row:
        numbers = [*range(spec.inputs), *spec.outputs]
        return Row(
            name, spec.label, " ".join(str(spec.types[k]) for k in numbers), schedule_version(), describe(self.options.target), cpu,
            self.options.threads, found.choice.to_json(), round(found.ratio, 4), found.candidates,
        )  # fmt: skip

    def prove(
        self,
        model: ModelBench,
        choices: dict[str, Mapping[str, int]],
        owners: Mapping[str, str],
        called: list[str],
    ) -> tuple[dict[str, Mapping[str, int]], float]:
        """The choices that make their kernels, and together the model, faster; and the model's ratio of times."""
        while choices:
            self.detail(f"the model with {len(choices)} choices")
            times = self.beside(model, choices)
            kernels = [_by_kernel(t, called, owners) for t in times]
            results = {n: across([k[n] for k in kernels]) for n in choices if n in kernels[0]}
            kept = {n: choices[n] for n, result in results.items() if result.faster(0.0, KERNEL_LEVEL)}
            if len(kept) == len(choices):
                whole = across([t.whole for t in times])
                together = across([np.sum([k[n] for n in kept], axis=0) for k in kernels])
                faster = whole.ratio < 1.0 and together.faster(0.0, MODEL_LEVEL)
                return (choices, whole.ratio) if faster else ({}, 1.0)
            choices = kept
        return {}, 1.0

    def beside(self, model: ModelBench, choices: Mapping[str, Mapping[str, int]]) -> list[ModelTimes]:
        """Times of the `INSTANCES`, in turns.

        Raises:
            LeptonError: the tuned model crashed or hung.
        """
        seconds = min(MODEL_SECONDS[1], max(MODEL_SECONDS[0], (1 - SEARCH_SHARE) * self.seconds))
        try:
            if not self.device.loaded.issuperset(ANALYTIC):
                model.load(ANALYTIC, {})
            model.load(TUNED, choices)
            return model.times(INSTANCES, seconds)
        except MeasureError as error:
            raise LeptonError(
                f"the tuned model cannot be measured: {error.diagnostics[0].message}", hint="compile without --tune"
            ) from error


def across(times: Sequence[np.ndarray]) -> Comparison:
    """The tuned instances against the analytic ones, given the seconds `[rounds]` of each of `INSTANCES`.

    Where a library's memory happens to lie makes a difference of some percent to a kernel. So the ratio is the worst one over all
    pairs of instances, and the sign test is about their sums.
    """
    plain, tuned = ([t for t, name in zip(times, INSTANCES, strict=True) if name in group] for group in (ANALYTIC, TUNED))
    worst = max(compare(t, p).ratio for t in tuned for p in plain)
    return replace(compare(np.sum(tuned, axis=0), np.sum(plain, axis=0)), ratio=worst)


def _by_kernel(times: ModelTimes, called: list[str], owners: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Seconds `[rounds]` of each kernel, all its calls in the model together; `called` are the symbols of the model without choices."""
    found: dict[str, np.ndarray] = {}
    for k, symbol in enumerate(called):
        if (owner := owners.get(symbol)) is not None:
            found[owner] = found.get(owner, 0.0) + times.calls[:, k]
    return found


def report(results: list[Tuned], seconds: float) -> TuningReport:
    """What tuning all graphs of a model came to: the geometric mean of their ratios."""
    ratio = float(np.exp(np.mean([np.log(r.ratio) for r in results]))) if results else 1.0
    tuned = len({name for r in results for name in r.choices})
    return TuningReport(
        sum(r.kernels for r in results), sum(r.finished for r in results), sum(r.measured for r in results), tuned, ratio, seconds
    )
