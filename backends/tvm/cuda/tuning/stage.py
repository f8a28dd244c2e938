"""Tuning one model on a GPU: the kernels that take longest first, then the whole model with the winners beside the one without."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lepton_compiler.backend import Artifact, BuildOptions
from lepton_compiler.backends.tvm import kernel_nodes
from lepton_compiler.backends.tvm.cuda.tuning.device import GpuDevice, code_for
from lepton_compiler.backends.tvm.cuda.tuning.search import Found, Search
from lepton_compiler.backends.tvm.cuda.version import schedule_version
from lepton_compiler.backends.tvm.spec import KernelSpec, kernel_operands
from lepton_compiler.backends.tvm.tuning.process import MeasureError
from lepton_compiler.backends.tvm.tuning.statistics import compare
from lepton_compiler.backends.tvm.tuning.tuned import NEGLIGIBLE, SEARCH_SHARE, Tuned
from lepton_compiler.errors import LeptonError
from lepton_compiler.feeds import random_feeds
from lepton_compiler.ir.graph import Graph
from lepton_compiler.tuning import Database, Row, TuningReport, describe

MODEL_SECONDS = (0.5, 8.0)
"""Least and most time for the comparison of whole models."""
MODEL_LEVEL = 0.01
"""How surely the tuned model is faster."""
NAME = "lepton_tuned"

Build = Callable[[Graph, BuildOptions], Artifact]
Detail = Callable[[str], None]


@dataclass(frozen=True)
class Tuning:
    """One run over a graph.

    Attributes:
        options: of the artefact that is wanted.
        database: what is known and where to add to.
        device: what measures.
        seconds: how long all may take.
        folder: of compiled kernels.
        build: the backend.
        detail: told what is going on.
    """

    options: BuildOptions
    database: Database
    device: GpuDevice
    seconds: float
    folder: Path
    build: Build
    detail: Detail

    def run(self, graph: Graph, every: Sequence[KernelSpec]) -> Tuned:
        """Tune the kernels of a graph of static shapes, legal for the backend; `every` has one spec for each node."""
        start, result = time.monotonic(), Tuned()
        specs, calls = {spec.structure: spec for spec in every}, Counter(spec.structure for spec in every)
        result.kernels = len(specs)
        if not specs:
            return result
        known = self.database.find(schedule_version(), self.options.target, self.device.name, self.options.threads)
        deadline = start + SEARCH_SHARE * self.seconds
        search = Search(
            self.options.target, code_for(self.options.target, self.device.facts), self.device,
            self.options.jobs or os.cpu_count() or 1, self.folder, touched_bytes(graph), deadline,
        )  # fmt: skip
        fresh, result.skipped = self.search(search, specs, calls, known)
        rows = {**{name: row for name, row in known.items() if name in specs}, **fresh}
        result.finished, result.measured = len(rows), len(fresh)
        choices = {name: row.choice for name, row in rows.items() if row.choice}
        result.ratio = self.ratio(graph, choices) if choices else 1.0
        if result.ratio < 1.0:
            result.choices = choices
            return result
        for name in choices.keys() & fresh.keys():
            self.database.add(replace(fresh[name], choice={}, ratio=1.0))
        return result

    def search(
        self, search: Search, specs: Mapping[str, KernelSpec], calls: Mapping[str, int], known: Mapping[str, Row]
    ) -> tuple[dict[str, Row], int]:
        """Search the kernels that are not known yet, those that take longest first, until the deadline; each is stored when it is done.

        Returns the new rows, and how many candidates were left out.
        """
        found, skipped = dict[str, Row](), 0
        if not specs.keys() - known.keys():
            return found, skipped
        self.detail(f"{len(specs)} kernels without choices")
        shares = {n: s * calls[n] for n, s in zip(specs, search.analytic(list(specs.values())), strict=True)}
        total = sum(shares.values())
        pending = [n for n in sorted(shares, key=lambda n: (-shares[n], n)) if shares[n] >= NEGLIGIBLE * total and shares[n] > 0]
        for position, name in enumerate(pending, 1):
            if name in known:
                continue
            if search.is_late:
                break
            left = max(0.0, search.deadline - time.monotonic())
            prefix = f"kernel {position} of {len(pending)}, {shares[name] / total:.0%} of the time, {left:.0f} s left"
            outcome = search.run(specs[name], lambda text, prefix=prefix: self.detail(f"{prefix}: {text}"))  # type: ignore[misc]
            if outcome is not None:
                found[name] = self._row(name, specs[name], outcome)
                self.database.add(found[name])
                skipped += outcome.skipped
        return found, skipped

    def _row(self, name: str, spec: KernelSpec, found: Found) -> Row:
        numbers = [*range(spec.inputs), *spec.outputs]
        return Row(
            name, spec.label, " ".join(str(spec.types[k]) for k in numbers), schedule_version(), describe(self.options.target),
            self.device.name, self.options.threads, found.choice.to_json(), round(found.ratio, 4), found.candidates,
        )  # fmt: skip

    def ratio(self, graph: Graph, choices: Mapping[str, Mapping[str, int]]) -> float:
        """Time of the model with choices over the time without; 1 where it is not surely faster.

        Raises:
            LeptonError: the model cannot be measured.
        """
        self.detail(f"the model with {len(choices)} choices")
        seconds = min(MODEL_SECONDS[1], max(MODEL_SECONDS[0], (1 - SEARCH_SHARE) * self.seconds))
        feeds = random_feeds(graph.inputs)
        try:
            for name, given in (("analytic", {}), ("tuned", choices)):
                artifact = self.build(graph.copy(), replace(self.options, name=f"{NAME}_{name}", emit="lib", choices=given))
                code = artifact.files[f"lib{NAME}_{name}.so"]
                facts = {"name": f"{NAME}_{name}", "inputs": artifact.manifest["inputs"], "outputs": artifact.manifest["outputs"]}
                self.device.model(name, code, facts, feeds)
            times = self.device.times(("analytic", "tuned"), seconds)
        except MeasureError as error:
            raise LeptonError(
                f"the tuned model cannot be measured: {error.diagnostics[0].message}", hint="compile without --tune"
            ) from error
        found = compare(times[:, 1], times[:, 0])
        return found.ratio if found.faster(0.0, MODEL_LEVEL) else 1.0


def touched_bytes(graph: Graph) -> int:
    """Bytes of all that the kernels of a graph read and write, each value once: what a run goes through."""
    values = {v for node in kernel_nodes(graph) for v in (*kernel_operands(node), *node.outputs)}
    return sum(v.type.nbytes for v in values if v.type.is_static)


def report(results: Sequence[Tuned], seconds: float) -> TuningReport:
    """What tuning all graphs of a model came to: the geometric mean of their ratios."""
    ratio = float(np.exp(np.mean([np.log(r.ratio) for r in results]))) if results else 1.0
    tuned = len({name for r in results for name in r.choices})
    return TuningReport(
        sum(r.kernels for r in results), sum(r.finished for r in results), sum(r.measured for r in results), tuned, ratio, seconds,
        sum(r.skipped for r in results),
    )  # fmt: skip
