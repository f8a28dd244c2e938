"""One model measured: compile, verify, time; everything that a table about it may want to show."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import lepton_compiler as lc
from bench.random_weights import with_random_weights
from lepton_compiler import zoo
from lepton_compiler.feeds import feeds_from_recipes
from lepton_compiler.measure import interleaved, native_call, onnxruntime_call, ratio
from lepton_compiler.verification import compare, reference_outputs, tolerance_of

TABLE_WIDTH = 150
"""Columns that the table needs."""


@dataclass(frozen=True)
class Row:
    """What was found about one model; `error` says why there is nothing else.

    Attributes:
        model: its id in the list.
        threads: that each runtime was allowed.
        nodes_before: nodes of the ONNX graph as imported.
        nodes_after: nodes after the level's passes.
        kernels: distinct native kernels.
        arena_bytes: scratch memory.
        weights_bytes: constants in the library.
        compile_seconds: from graph to library.
        max_rel: largest error against ONNX Runtime, relative to the output's range.
        ok: whether that is within the tolerance of `--verify`.
        lepton_ms: median time of one call.
        onnxruntime_ms: median time of one call.
        ratio: lepton's time divided by ONNX Runtime's, median over interleaved rounds; below 1 lepton is faster.
        error: why the model could not be measured.
    """

    model: str
    threads: int
    nodes_before: int = 0
    nodes_after: int = 0
    kernels: int = 0
    arena_bytes: int = 0
    weights_bytes: int = 0
    compile_seconds: float = 0.0
    max_rel: float | None = None
    ok: bool = False
    lepton_ms: float | None = None
    onnxruntime_ms: float | None = None
    ratio: float | None = None
    error: str = ""

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def measure(
    name: str, level: int | str = 3, threads: int = 1, seconds: float = 3.0, stage: Callable[[str], None] = lambda text: None
) -> Row:
    """Fetch, compile, verify and time one model; failures of lepton go into the row."""
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
        stage(f"{entry.id}: measure")
        feeds = feeds_from_recipes(entry.inputs)
        call, _ = onnxruntime_call(path, feeds, threads)
        reference, expected = reference_outputs(path, graph, feeds)
        check = compare(expected, model.run({v.name: feeds[v.name] for v in graph.inputs}), reference, tolerance_of(graph))
        times = interleaved({"lepton": native_call(model, feeds), "onnxruntime": call}, seconds)
    except lc.LeptonError as error:
        return Row(entry.id, threads, error=str(error.diagnostics[0]).split("\n")[0])
    facts = model.manifest
    return Row(
        entry.id,
        threads,
        len(graph),
        nodes_after,
        facts["kernels"],
        facts["arena_bytes"],
        facts["weights_bytes"],
        round(compile_seconds, 2),
        check.as_json()["max_rel"],
        check.ok,
        round(times["lepton"].median * 1e3, 4),
        round(times["onnxruntime"].median * 1e3, 4),
        round(ratio(times, "lepton", "onnxruntime"), 4),
    )


def table(rows: Sequence[Row], title: str) -> Any:
    """The rows that were measured as a `rich` table."""
    from rich.table import Table

    result = Table(title=title)
    result.add_column("model", no_wrap=True)
    for heading in ("nodes", "kernels", "arena KiB", "weights KiB", "compile s", "max error", "lepton ms", "ORT ms", "ratio"):
        result.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        if row.error:
            continue
        error = "differs" if row.max_rel is None else f"{row.max_rel:.1e}"
        result.add_row(
            row.model,
            f"{row.nodes_before} > {row.nodes_after}",
            str(row.kernels),
            f"{row.arena_bytes / 1024:,.0f}",
            f"{row.weights_bytes / 1024:,.0f}",
            f"{row.compile_seconds:.1f}",
            error if row.ok else f"{error} (!)",
            f"{row.lepton_ms:.3f}",
            f"{row.onnxruntime_ms:.3f}",
            f"{row.ratio:.2f}",
        )
    return result


def show(rows: Sequence[Row], title: str) -> None:
    """Print the table, whole even where the output is no terminal."""
    from rich.console import Console

    width = max(Console().width, TABLE_WIDTH)
    console = Console(highlight=False, width=width, markup=False)
    console.print(table(rows, title))
    for row in rows:
        if row.error:
            console.print(f"{row.model}: {row.error}")


def markdown(rows: Sequence[Row]) -> str:
    """The rows that were measured as a table in Markdown."""
    lines = ["| model | max error | lepton ms | ONNX Runtime ms | ratio |", "|---|---|---|---|---|"]
    for row in rows:
        if not row.error:
            lines.append(f"| {row.model} | {row.max_rel:.1e} | {row.lepton_ms:.2f} | {row.onnxruntime_ms:.2f} | {row.ratio:.2f} |")
    return "\n".join(lines) + "\n"
