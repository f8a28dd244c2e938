"""One model measured: compile, verify, time beside other runtimes; everything that a table about it may want to show."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lepton_compiler as lc
from bench.random_weights import with_random_weights
from lepton_compiler import peers, zoo
from lepton_compiler.feeds import feeds_from_recipes
from lepton_compiler.measure import interleaved, load_peers, native_call, speedup
from lepton_compiler.verification import Verification, compare, reference_outputs, tolerance_of

TABLE_WIDTH, PEER_WIDTH = 145, 36
"""Columns that the table needs, and how many more for each further runtime."""

QUANTIZED = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"}
"""A model with one of these operators counts as an int8 one."""


@dataclass(frozen=True)
class Row:
    """What was found about one model; `error` says why there is nothing else.

    Attributes:
        model: its id in the list.
        threads: that each runtime was allowed.
        kind: `float` or `int8`.
        nodes_before: nodes of the ONNX graph as imported.
        nodes_after: nodes after the level's passes.
        kernels: native kernel calls.
        arena_bytes: scratch memory.
        weights_bytes: constants in the library.
        compile_seconds: from graph to library.
        max_rel: largest error against the reference, relative to the output's range; None where NaN or infinities differ.
        ok: whether that is within the tolerance of `--verify`.
        reference: what `max_rel` is taken from: ONNX Runtime, or the evaluator where ONNX Runtime's own rounding is beyond the tolerance.
        ms: median time of one call, by runtime; `lepton` is one.
        speedup: by other runtime, its time divided by lepton's, median over interleaved rounds; above 1 lepton is faster.
        failures: by other runtime that cannot run the model, why.
        error: why the model could not be measured at all.
    """

    model: str
    threads: int
    kind: str = "float"
    nodes_before: int = 0
    nodes_after: int = 0
    kernels: int = 0
    arena_bytes: int = 0
    weights_bytes: int = 0
    compile_seconds: float = 0.0
    max_rel: float | None = None
    ok: bool = False
    reference: str = ""
    ms: Mapping[str, float] = field(default_factory=dict)
    speedup: Mapping[str, float] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    error: str = ""

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    def line(self) -> str:
        """The row in one line."""
        if self.error:
            return f"{self.model}, threads {self.threads}: {self.error}"
        others = [f"{name} {self.ms[name]:.3f} ms (x {ratio:.2f})" for name, ratio in self.speedup.items()]
        others += [f"{name} failed" for name in self.failures]
        wrong = "" if self.ok else " WRONG RESULT"
        return f"{self.model}, threads {self.threads}: lepton {self.ms['lepton']:.3f} ms{wrong}, {', '.join(others)}"


def measure(
    name: str,
    level: int | str = 3,
    threads: int = 1,
    seconds: float = 3.0,
    against: Sequence[str] = ("onnxruntime",),
    stage: Callable[[str], None] = lambda text: None,
) -> Row:
    """Fetch, compile, verify and time one model; failures of lepton and of the others go into the row."""
    entry = zoo.find(name)
    try:
        stage(f"{entry.id}: fetch")
        path = with_random_weights(zoo.fetch(entry))
        stage(f"{entry.id}: compile")
        graph = lc.import_model(path, inputs=entry.shapes)
        nodes_after = len(lc.optimize(graph, level))
        start = time.perf_counter()
        model = lc.compile(graph, level=level, threads=threads)
        compile_seconds = time.perf_counter() - start
        stage(f"{entry.id}: load in others")
        feeds = feeds_from_recipes(entry.inputs)
        loaded, failures = load_peers(against, path, feeds, threads)
        check = _checked(path, graph, feeds, model.run({v.name: feeds[v.name] for v in graph.inputs}))
        stage(f"{entry.id}: measure")
        times = interleaved({"lepton": native_call(model, feeds), **loaded}, seconds, threads)
    except (lc.MissingDependency, lc.UsageError):
        raise
    except lc.LeptonError as error:
        return Row(entry.id, threads, error=str(error.diagnostics[0]).split("\n")[0])
    facts = model.manifest
    return Row(
        model=entry.id,
        threads=threads,
        kind="int8" if any(node.op.name in QUANTIZED for node in graph.walk()) else "float",
        nodes_before=len(graph),
        nodes_after=nodes_after,
        kernels=facts["kernels"],
        arena_bytes=facts["arena_bytes"],
        weights_bytes=facts["weights_bytes"],
        compile_seconds=round(compile_seconds, 2),
        max_rel=check.as_json()["max_rel"],
        ok=check.ok,
        reference=check.reference,
        ms={runtime: round(timing.median * 1e3, 4) for runtime, timing in times.items()},
        speedup={other: round(speedup(times, "lepton", other), 4) for other in loaded},
        failures=failures,
    )


def _checked(path: Path, graph: lc.Graph, feeds: Mapping[str, Any], outputs: Mapping[str, Any]) -> Verification:
    """The comparison with ONNX Runtime, or if that fails and the evaluator agrees with `outputs`, the one with the evaluator."""
    reference, expected = reference_outputs(path, graph, feeds)
    check = compare(expected, outputs, reference, tolerance_of(graph))
    if check.ok or reference == "evaluator":
        return check
    own = compare(lc.evaluate(graph, {v.name: feeds[v.name] for v in graph.inputs}), outputs, "evaluator", tolerance_of(graph))
    return own if own.ok else check


def label(runtime: str) -> str:
    """How tables call a runtime."""
    return runtime if runtime == "lepton" else str(peers.registry.get(runtime).label)


def shown_error(row: Mapping[str, Any]) -> str:
    """The error of a row as tables show it: with a sign where it is too large, and with its reference where that is the evaluator."""
    error = "differs" if row["max_rel"] is None else f"{row['max_rel']:.1e}"
    return f"{error} (!)" if not row["ok"] else f"{error} (evaluator)" if row.get("reference") == "evaluator" else error


def table(rows: Sequence[Row], title: str) -> Any:
    """The rows that were measured as a `rich` table."""
    from rich.table import Table

    others = list(dict.fromkeys(name for row in rows for name in (*row.speedup, *row.failures)))
    result = Table(title=title)
    result.add_column("model", no_wrap=True)
    headings = ["threads", "nodes", "kernels", "arena KiB", "weights KiB", "compile s", "max error", "lepton ms"]
    for heading in [*headings, *(f"{label(other)} {what}" for other in others for what in ("ms", "x"))]:
        result.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        if row.error:
            continue
        error = shown_error(row.as_json())
        times = [f(row) for other in others for f in (_ms(other), _speedup(other))]
        result.add_row(
            row.model,
            str(row.threads),
            f"{row.nodes_before} > {row.nodes_after}",
            str(row.kernels),
            f"{row.arena_bytes / 1024:,.0f}",
            f"{row.weights_bytes / 1024:,.0f}",
            f"{row.compile_seconds:.1f}",
            error,
            f"{row.ms['lepton']:.3f}",
            *times,
        )
    return result


def _ms(other: str) -> Callable[[Row], str]:
    return lambda row: f"{row.ms[other]:.3f}" if other in row.ms else "fails"


def _speedup(other: str) -> Callable[[Row], str]:
    return lambda row: f"{row.speedup[other]:.2f}" if other in row.speedup else ""


def show(rows: Sequence[Row], title: str) -> None:
    """Print the table, whole even where the output is no terminal."""
    from rich.console import Console

    others = {name for row in rows for name in (*row.speedup, *row.failures)}
    width = max(Console().width, TABLE_WIDTH + PEER_WIDTH * len(others))
    console = Console(highlight=False, width=width, markup=False)
    console.print(table(rows, title))
    for row in rows:
        if row.error:
            console.print(f"{row.model}: {row.error}")
