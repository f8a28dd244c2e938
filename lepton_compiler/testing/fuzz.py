"""Random graphs against the evaluator: through every pass, and natively at every optimisation level.

    python -m lepton_compiler.testing.fuzz --seeds 0:1000
    python -m lepton_compiler.testing.fuzz --replay failure/1234.lir

A difference that rounding does not explain (see `rounding`) is shrunk, printed, and written down as `SEED.lir` with its inputs in
`SEED.npz`, which the second command runs again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lepton_compiler.backend import Level
from lepton_compiler.errors import LeptonError, UnsupportedError
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.text import print_graph, read_lir, write_lir
from lepton_compiler.ir.verify import verify
from lepton_compiler.ops.evaluator import evaluate
from lepton_compiler.passes import TABLE
from lepton_compiler.passes.levels import LEVELS, passes_for_level
from lepton_compiler.pipeline import PassContext, Pipeline, parse_pipeline
from lepton_compiler.testing import native
from lepton_compiler.testing.generate import Case, random_case
from lepton_compiler.testing.rounding import Ensemble, ensemble, explained
from lepton_compiler.testing.shrink import shrink

ALONE = {name: parse_pipeline(name) for name in TABLE}
"""Each pass as a pipeline."""
PIPELINES = {
    **{level: Pipeline(passes_for_level(level)) for level in LEVELS},
    **{name: pipeline for name, pipeline in ALONE.items() if not any(step.approximate for step in pipeline)},
    "kernels": Pipeline((*passes_for_level("O2"), *parse_pipeline("legalize-native,layout,simplify-transposes,fuse"))),
}
"""What is compared with the graph as it is: the levels, each pass alone that changes nothing but roundings, and what the native backend makes of level 2."""

NATIVE: dict[str, Level] = {f"native {level}": level for level in native.LEVELS}
"""The checks of native code, with their levels."""

SHOWN = 32
"""Elements up to which the inputs of a failure are printed."""
BATCH = 25
"""Cases that share a library."""


UNTRIED: frozenset[str] = frozenset()
"""Operators that are not compiled here: some of their kernels take minutes, or drop NaN."""


@dataclass(frozen=True)
class Failure:
    """A graph on which `check`, a pipeline or a level of the native backend, gives something else than the evaluator."""

    seed: int
    check: str
    reason: str
    graph: Graph
    feeds: Mapping[str, np.ndarray]

    def __str__(self) -> str:
        feeds = "".join(f"{name} = {np.array2string(a) if a.size <= SHOWN else '...'}\n" for name, a in self.feeds.items())
        return f"case {self.seed}, {self.check}: {self.reason}\n{print_graph(self.graph)}{feeds}"

    def write(self, folder: Path) -> Path:
        """Write graph and inputs down; gives the graph's file."""
        folder.mkdir(parents=True, exist_ok=True)
        path = write_lir(self.graph, folder / f"{self.seed}.lir")
        np.savez(path.with_suffix(".npz"), allow_pickle=False, **dict(self.feeds))
        return path


@dataclass
class Report:
    """What was tried: cases, programs run natively, what the backend refused by reason, the share of elements that may be anything."""

    cases: int = 0
    native: int = 0
    programs: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    opens: list[float] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def __str__(self) -> str:
        refused = "".join(f"\n  {count} {reason}" for reason, count in self.refused.most_common())
        return (
            f"{self.cases} graphs, {self.native} natively as {self.programs} programs, {len(self.failures)} failures; "
            f"{100 * float(np.mean(self.opens or [0])):.1f} % of elements undetermined; refused by the native backend:{refused or ' none'}"
        )


def run(seeds: Iterable[int], passes: bool = True, natively: bool = True, steps: int = 8) -> Report:
    """Try the cases of these numbers; failures come shrunk."""
    report, numbers = Report(), list(seeds)
    for start in range(0, len(numbers), BATCH):
        batch = {seed: random_case(seed, steps) for seed in numbers[start : start + BATCH]}
        known = {seed: ensemble(case.graph, case.feeds) for seed, case in batch.items()}
        report.cases += len(batch)
        report.opens += [e.open for e in known.values()]
        found = [f for seed, case in batch.items() if passes and (f := _first_failure(seed, case, known[seed]))]
        found += _native_failures(batch, known, report) if natively else []
        report.failures += [smaller(f) for f in found]
    return report


def pass_difference(name: str, graph: Graph, feeds: Mapping[str, Any], known: Ensemble) -> str:
    """What the pipeline of that name changes on a graph, in words, or an empty string."""
    changed = graph.copy()
    before = changed.edits
    try:
        changed = PIPELINES[name].run(changed, PassContext())
        verify(changed)
        return "" if changed.edits == before else explained(graph, feeds, known, evaluate(changed, feeds))
    except Exception as error:  # whatever a pass raises on a valid graph is its fault
        return f"{type(error).__name__}: {error}"


def native_difference(graph: Graph, feeds: Mapping[str, Any], known: Ensemble, level: Level) -> str:
    """What the native backend does differently at a level, in words, or an empty string."""
    try:
        (program,) = native.programs(graph, feeds, (level,))
    except UnsupportedError:
        return ""
    native.run_all([program])
    return _judged(program, graph, feeds, known)


def smaller(failure: Failure) -> Failure:
    """The failure on a graph that was shrunk as long as the same check fails in the same way."""
    kind = _kind(failure.reason)

    def fails(graph: Graph, feeds: dict[str, np.ndarray]) -> bool:
        return _kind(_reason(failure.check, graph, feeds)) == kind

    graph, feeds = shrink(failure.graph, failure.feeds, fails)
    return Failure(failure.seed, failure.check, _reason(failure.check, graph, feeds) or failure.reason, graph, feeds)


def _first_failure(seed: int, case: Case, known: Ensemble) -> Failure | None:
    for name in PIPELINES:
        if reason := pass_difference(name, case.graph, case.feeds, known):
            return Failure(seed, name, reason, case.graph, case.feeds)
    return None


def _native_failures(batch: Mapping[int, Case], known: Mapping[int, Ensemble], report: Report) -> list[Failure]:
    programs: list[tuple[int, native.Program]] = []
    for seed, case in batch.items():
        if any(node.op.name in UNTRIED for node in case.graph.walk()):
            continue
        try:
            programs += [(seed, p) for p in native.programs(case.graph, case.feeds)]
            report.native += 1
        except UnsupportedError as error:
            report.refused[f"{error.diagnostics[0].where.partition('(')[2].partition(':')[0]}: {error.diagnostics[0].message}"] += 1
    native.run_all([p for _, p in programs])
    report.programs += len(programs)
    found: dict[int, Failure] = {}
    for seed, program in programs:
        case = batch[seed]
        reason = "" if seed in found else _judged(program, case.graph, case.feeds, known[seed])
        if reason:
            found[seed] = Failure(seed, f"native {program.levels[0]}", reason, case.graph, case.feeds)
    return list(found.values())


def _judged(program: native.Program, graph: Graph, feeds: Mapping[str, Any], known: Ensemble) -> str:
    assert program.outcome is not None
    return program.outcome if isinstance(program.outcome, str) else explained(graph, feeds, known, program.outcome)


def _reason(check: str, graph: Graph, feeds: Mapping[str, Any]) -> str:
    """Why `check` fails on a graph; nothing if it does not, or if the graph makes no sense."""
    try:
        verify(graph)
        known = ensemble(graph, feeds)
    except (LeptonError, ArithmeticError, ValueError):
        return ""
    if check in NATIVE:
        return native_difference(graph, feeds, known, NATIVE[check])
    return pass_difference(check, graph, feeds, known)


def _kind(reason: str) -> str:
    """What must stay the same while a failure is shrunk: that results differ, or the text of an error without its particulars."""
    return "differs" if reason.startswith("output") else "".join(c for c in reason[-80:] if not c.isdigit())


def replay(path: Path) -> str:
    """Run all checks on a graph in text form, with the inputs beside it; gives the first difference."""
    graph = read_lir(path)
    with np.load(path.with_suffix(".npz")) as stored:
        feeds = {name: stored[name] for name in stored.files}
    for check in (*PIPELINES, *NATIVE):
        if reason := _reason(check, graph, feeds):
            return f"{check}: {reason}"
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; the exit status is 1 if a check failed."""
    parser = argparse.ArgumentParser(prog="python -m lepton_compiler.testing.fuzz", description="Random graphs against the evaluator.")
    parser.add_argument("--seeds", metavar="FROM:TO", default="0:100", help="numbers of the cases")
    parser.add_argument("--steps", type=int, default=8, help="most constructions per graph")
    parser.add_argument("--kind", choices=("all", "passes", "native"), default="all", help="what to check")
    parser.add_argument("--out", type=Path, help="where failures are written")
    parser.add_argument("--replay", metavar="FILE.lir", type=Path, help="run a failure again")
    options = parser.parse_args(arguments)
    if options.replay is not None:
        difference = replay(options.replay)
        print(difference or "no difference")
        return int(bool(difference))
    low, _, high = options.seeds.partition(":")
    return _report(range(int(low), int(high)), options)


def _report(seeds: range, options: Any) -> int:
    out = options.out or Path(tempfile.gettempdir()) / "lepton-fuzz"
    total, begin = Report(), time.perf_counter()
    for start in range(seeds.start, seeds.stop, BATCH):
        part = run(range(start, min(seeds.stop, start + BATCH)), options.kind != "native", options.kind != "passes", options.steps)
        _add(total, part)
        for failure in part.failures:
            path = failure.write(out)
            print(f"{failure}replay it with: python -m lepton_compiler.testing.fuzz --replay {path}\n", flush=True)
    print(f"{total}\n{time.perf_counter() - begin:.0f} seconds")
    return int(bool(total.failures))


def _add(total: Report, part: Report) -> None:
    total.cases, total.native, total.programs = total.cases + part.cases, total.native + part.native, total.programs + part.programs
    total.refused.update(part.refused)
    total.opens += part.opens
    total.failures += part.failures


if __name__ == "__main__":
    sys.exit(main())
