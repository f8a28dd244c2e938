"""`python -m bench.report`: tables, chart and README's part about speed, from the numbers in `bench/results`.

Nothing is measured here. With `--check`, nothing is written either, and the exit status says whether everything is up to date.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import chart
from bench.rows import label, shown_error
from lepton_compiler.cli.options import Parser
from lepton_compiler.cli.outcome import guarded
from lepton_compiler.errors import LeptonError
from lepton_compiler.measure import geometric_mean

RESULTS = Path(__file__).resolve().parent / "results"
README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- bench:begin, written by python -m bench.report -->", "<!-- bench:end -->"

Results = Mapping[str, Any]
"""What `zoo.json` or `memory.json` holds."""


def files(folder: Path) -> dict[str, str]:
    """The files that are made of the numbers in a folder, by name."""
    found: dict[str, str] = {}
    if (speed := folder / "zoo.json").is_file():
        found |= {"zoo.md": table(read(speed)), "zoo.svg": chart.svg(read(speed))}
    if (memory := folder / "memory.json").is_file():
        found["memory.md"] = memory_table(read(memory))
    return found


def write(folder: Path, readme: Path | None) -> None:
    """Write them beside the numbers, and the part of the README if there is one to write."""
    for name, text in files(folder).items():
        (folder / name).write_text(text, encoding="utf-8")
    if readme is not None:
        readme.write_text(with_summary(readme.read_text(encoding="utf-8"), _summary_of(folder)), encoding="utf-8")


def stale(folder: Path, readme: Path) -> list[str]:
    """Names of the files that are not what the numbers say."""
    found = [n for n, text in files(folder).items() if (folder / n).read_text(encoding="utf-8") != text]
    text = readme.read_text(encoding="utf-8")
    return found + ([readme.name] if with_summary(text, _summary_of(folder)) != text else [])


def read(path: Path) -> dict[str, Any]:
    """Numbers that were written before."""
    numbers: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return numbers


def _summary_of(folder: Path) -> str:
    memory = folder / "memory.json"
    return summary(read(folder / "zoo.json"), read(memory) if memory.is_file() else None)


def with_summary(text: str, block: str) -> str:
    """A page with what stands between its markers replaced.

    Raises:
        LeptonError: the page has no markers.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise LeptonError("the page has no place for the results", hint=f"add the lines '{BEGIN}' and '{END}'")
    return f"{before}{BEGIN}\n{block}{END}{after}"


def summary(results: Results, memory: Results | None = None) -> str:
    """The part of the README: a row per kind of model and number of threads, a column per runtime."""
    others, machine = results["against"], results["machine"]
    lines = [
        "The other runtime's time divided by lepton's: above 1, lepton is faster. Geometric mean (lowest to highest).",
        "",
        f"| models | threads | {' | '.join(label(o) for o in others)} |",
        f"|---|---|{'---|' * len(others)}",
    ]
    for kind, threads, rows in groups(results):
        cells = [_cell(rows, other) for other in others]
        lines.append(f"| {len(rows)} {kind} | {threads} | {' | '.join(cells)} |")
    versions = ", ".join(f"{label(name)} {version}" for name, version in machine["peers"].items())
    lines += [
        "",
        "![Speed beside ONNX Runtime, model by model](bench/results/zoo.svg)",
        "",
        f"Measured on {machine['cpu']} ({machine['target']}) at -{results['level']}, {versions}; all runtimes in turn in one process.",
        "Every model: [bench/results/zoo.md](bench/results/zoo.md).",
        *_memory_lines(memory),
    ]
    return "\n".join(lines) + "\n"


def _memory_lines(memory: Results | None) -> list[str]:
    if memory is None:
        return []
    rows = memory["rows"]
    less = sum(row["lepton"]["peak_bytes"] <= row["onnxruntime"]["peak_bytes"] for row in rows)
    mean = geometric_mean([row["onnxruntime"]["peak_bytes"] / max(row["lepton"]["peak_bytes"], 1) for row in rows])
    return [
        "",
        f"Peak memory of running a model is at most ONNX Runtime's on {less} of {len(rows)} models, and {mean:.1f} times less in the geometric "
        "mean: [bench/results/memory.md](bench/results/memory.md).",
    ]


def groups(results: Results) -> list[tuple[str, int, list[Mapping[str, Any]]]]:
    """The rows that were measured, by kind of model and number of threads."""
    rows = [row for row in results["rows"] if not row["error"]]
    keys = [(kind, threads) for kind in ("float", "int8") for threads in sorted({row["threads"] for row in rows})]
    found = [(kind, threads, [r for r in rows if r["kind"] == kind and r["threads"] == threads]) for kind, threads in keys]
    return [group for group in found if group[2]]


def means(results: Results) -> str:
    """Geometric means as text, a line for each group."""
    lines = []
    for kind, threads, rows in groups(results):
        parts = [f"{label(other)} {_cell(rows, other)}" for other in results["against"]]
        lines.append(f"{len(rows)} {kind}, threads {threads}: {'; '.join(parts)}")
    return "\n".join(lines)


def _cell(rows: Sequence[Mapping[str, Any]], other: str) -> str:
    ratios = [row["speedup"][other] for row in rows if other in row["speedup"]]
    if not ratios:
        return "runs none"
    part = "" if len(ratios) == len(rows) else f", runs {len(ratios)}"
    return f"**{geometric_mean(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f}{part})"


def table(results: Results) -> str:
    """Every model in Markdown."""
    others = results["against"]
    heads = ["model", "kind", "threads", "max error", "lepton ms", *(f"{label(o)} {what}" for o in others for what in ("ms", "ratio"))]
    lines = ["Ratio: the other's time divided by lepton's. Above 1, lepton is faster.", ""]
    lines += [f"| {' | '.join(heads)} |", f"|---|---|{'---:|' * (len(heads) - 2)}"]
    for row in results["rows"]:
        if row["error"]:
            continue
        cells = [row["model"], row["kind"], str(row["threads"]), shown_error(row), f"{row['ms']['lepton']:.3f}"]
        for other in others:
            fits = other in row["speedup"]
            cells += [f"{row['ms'][other]:.3f}", f"{row['speedup'][other]:.2f}"] if fits else ["fails", ""]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [f"\n{row['model']}, threads {row['threads']}: {row['error']}" for row in results["rows"] if row["error"]]
    return "\n".join(lines) + "\n"


def memory_table(results: Results) -> str:
    """Memory of every model in Markdown, in MiB."""
    lines = [
        f"Resident memory in MiB above that of the process before it loads the model, one thread, {results['runs']} runs: the peak, and what is",
        "left after the last run. Ratio: ONNX Runtime's peak divided by lepton's; above 1, lepton needs less. Bound: what no arena could go below.",
        "",
        "| model | weights | arena | bound | lepton peak | lepton after | ONNX Runtime peak | ONNX Runtime after | ratio |",
        f"|---|{'---:|' * 8}",
    ]
    for row in results["rows"]:
        ours, theirs = row["lepton"], row["onnxruntime"]
        planned = [row["weights_bytes"], row["arena_bytes"], row["arena_lower_bound"]]
        sizes = [*planned, *(part[key] for part in (ours, theirs) for key in ("peak_bytes", "after_bytes"))]
        cells = [f"{size / 2**20:.2f}" for size in sizes]
        lines.append(f"| {row['model']} | {' | '.join(cells)} | {theirs['peak_bytes'] / max(ours['peak_bytes'], 1):.2f} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Write, or check."""
    parser = Parser(prog="python -m bench.report", description="Make tables, chart and README's part from bench/results.")
    parser.add_argument("--check", action="store_true", help="write nothing; leave with status 1 where something is not up to date")
    args = parser.parse_args(argv)
    return guarded("bench.report", lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    if not args.check:
        write(RESULTS, README)
        return 0
    found = stale(RESULTS, README)
    for name in found:
        print(f"{name} is not what bench/results says: python -m bench.report", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
