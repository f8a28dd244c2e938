"""`python -m bench.tuning`: what `--tune` gains, beside the same build without it; writes `bench/results/tuning.{json,md}`."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bench.machine import machine
from bench.random_weights import with_random_weights
from bench.report import RESULTS
from lepton_compiler import driver, zoo
from lepton_compiler.cli.options import Parser, add_common_options, add_level_option, positive
from lepton_compiler.cli.outcome import guarded, print_json
from lepton_compiler.cli.progress import Progress
from lepton_compiler.feeds import random_feeds
from lepton_compiler.job import Job, parse_level
from lepton_compiler.measure import geometric_mean, interleaved, native_call, speedup
from lepton_compiler.runtime.model import CompiledModel
from lepton_compiler.target import parse_target
from lepton_compiler.tuning import Request, TuningReport
from lepton_compiler.verification import compare

MODELS = ("ddddocr/common", "onnx/light_squeezenet")
INSTANCES = 2
"""How often each model is loaded: where its memory lies makes a difference of a percent or two."""
EXAMPLE = """\
examples:
  python -m bench.tuning
  python -m bench.tuning opennsfw --tune 600 --db tuning.jsonl
A database that is kept lets a second run go on where the first one stopped. Rows of models that a run does not measure stay.
"""


@dataclass(frozen=True)
class Row:
    """One model.

    Attributes:
        model: its id in the list.
        tune_seconds: that tuning was given.
        kernels: with parameters to choose.
        finished: whose search is complete.
        tuned: whose choice differs from the analytic one in the tuned model.
        untuned_ms: median time of a call.
        tuned_ms: the same, tuned.
        speedup: median over the rounds of untuned over tuned time; geometric mean over the pairs of two instances of each.
        max_rel: largest difference of an output between the two, over the output's range.
    """

    model: str
    tune_seconds: float
    kernels: int
    finished: int
    tuned: int
    untuned_ms: float
    tuned_ms: float
    speedup: float
    max_rel: float


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = Parser(prog="python -m bench.tuning", description="Measure what tuning gains.", epilog=EXAMPLE)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"ids of models ({', '.join(MODELS)} if absent)")
    parser.add_argument("--tune", type=positive, default=120, metavar="SECONDS", help="time to tune each model (default 120)")
    parser.add_argument("--db", metavar="FILE", help="tuning database to go on with (default: a new one)")
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="threads of a call (default 1)")
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help="measuring time per model (default 10)")
    parser.add_argument("--no-write", action="store_true", help="do not write bench/results")
    add_level_option(parser)
    add_common_options(parser)
    parser.set_defaults(level="3")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Tune, measure, print and write."""
    args = make_parser().parse_args(argv)
    return guarded("tuning", lambda: _run(args), verbose=args.verbose, as_json=args.json)


def _run(args: argparse.Namespace) -> int:
    rows = []
    with tempfile.TemporaryDirectory(prefix="lepton-bench-") as folder, Progress("tuning", args.verbose, args.quiet) as progress:
        database = Path(args.db) if args.db else Path(folder) / "tuning.jsonl"
        for name in args.models or MODELS:
            progress(name)
            rows.append(measure(name, args, database, progress.detail))
            if not args.quiet and not args.json:
                print(_line(rows[-1]), file=sys.stderr)
    setting = {"machine": machine(()), "level": f"O{args.level}", "threads": args.threads}
    results = {**setting, "rows": [asdict(r) for r in rows]}
    if not args.no_write:
        RESULTS.mkdir(exist_ok=True)
        rows = [*kept(RESULTS / "tuning.json", setting, {r.model for r in rows}), *rows]
        results["rows"] = [asdict(r) for r in rows]
        (RESULTS / "tuning.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        (RESULTS / "tuning.md").write_text(markdown(rows), encoding="utf-8")
    if args.json:
        print_json(results)
    return 0


def kept(path: Path, setting: Mapping[str, Any], measured: Collection[str]) -> list[Row]:
    """The rows of models that were measured before, on the same machine and with the same versions and options; not those measured now."""
    if not path.is_file():
        return []
    before = json.loads(path.read_text(encoding="utf-8"))
    same = all(before.get(key) == value for key, value in setting.items())
    return [Row(**row) for row in before["rows"] if same and row["model"] not in measured]


def measure(name: str, args: argparse.Namespace, database: Path, detail: Callable[[str], None]) -> Row:
    """Build a model without tuning and with it, and call both in turns.

    Raises:
        LeptonError: the model does not compile.
    """
    entry, target = zoo.find(name), parse_target("native")
    path = with_random_weights(zoo.fetch(entry))
    graph = driver.import_model(path, entry.shapes)
    reports: list[TuningReport] = []
    job = Job(target, parse_level(args.level), threads=args.threads, detail=detail, tuned=reports.append)
    tuning = Request.of(target, args.tune, database, None)
    models: dict[tuple[str, int], CompiledModel] = {}
    for key, asked in {"tuned": tuning, "untuned": Request()}.items():
        optimised = driver.optimize(graph, job.level, target)
        artifact = driver.build(optimised, "model", replace(job, tuning=asked))
        whole = driver.complete(artifact, {"name": "model"})
        models.update({(key, instance): CompiledModel(whole) for instance in range(INSTANCES)})
    feeds = random_feeds(graph.inputs)
    difference = compare(models["untuned", 0].run(feeds), models["tuned", 0].run(feeds))
    times = interleaved({f"{key} {n}": native_call(model, feeds) for (key, n), model in models.items()}, args.seconds, args.threads)
    report, numbers = reports[-1], range(INSTANCES)
    before, after = (round(statistics.mean(times[f"{key} {n}"].median for n in numbers) * 1e3, 4) for key in ("untuned", "tuned"))
    gain = round(geometric_mean([speedup(times, f"tuned {n}", f"untuned {k}") for n in numbers for k in numbers]), 4)
    return Row(entry.id, args.tune, report.kernels, report.finished, report.tuned, before, after, gain, difference.max_rel)


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a table in Markdown."""
    lines = ["| model | tuned for s | kernels searched | tuned | untuned ms | tuned ms | speed-up |", "|---|---|---|---|---|---|---|"]
    for r in rows:
        counts = f"{r.finished} of {r.kernels} | {r.tuned}"
        lines.append(f"| {r.model} | {r.tune_seconds:.0f} | {counts} | {r.untuned_ms:.3f} | {r.tuned_ms:.3f} | {r.speedup:.3f} |")
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    searched = f"{row.finished} of {row.kernels} kernels searched, {row.tuned} tuned"
    return f"{row.model}: {searched}; {row.untuned_ms:.3f} ms, tuned {row.tuned_ms:.3f} ms, {row.speedup:.3f} times as fast"


if __name__ == "__main__":
    sys.exit(main())
