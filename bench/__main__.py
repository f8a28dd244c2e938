"""`python -m bench`: the ONNX models of the zoo beside other runtimes; a run over all of them becomes `bench/results` and README's table."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import report
from bench.machine import machine
from bench.rows import Row, measure, show
from lepton_compiler import peers, zoo
from lepton_compiler.cli.options import Parser, add_against_option, add_common_options, add_level_option, positive
from lepton_compiler.cli.outcome import guarded, print_json
from lepton_compiler.cli.progress import Progress
from lepton_compiler.errors import UsageError

EXAMPLE = """\
examples:
  python -m bench --threads 1,2 --against onnxruntime,openvino
  python -m bench magika rapidocr --seconds 10
All runtimes take turns in one process. A ratio is the other's time divided by lepton's: above 1 lepton is faster. Times of different runs
cannot be compared; ratios can.
"""


def thread_counts(text: str) -> list[int]:
    """`1,2`."""
    return list(dict.fromkeys(positive(part) for part in text.split(",")))


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = Parser(prog="python -m bench", description="Measure models beside other runtimes.", epilog=EXAMPLE)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="parts of ids; all ONNX models if absent")
    parser.add_argument("--threads", type=thread_counts, default=[1], metavar="N[,N...]", help="threads of each runtime (default 1)")
    parser.add_argument(
        "--seconds", type=float, default=5.0, metavar="S", help="measuring time per model and number of threads (default 5)"
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="write zoo.json, zoo.md and zoo.svg there (default: bench/results, if all models run)"
    )
    parser.add_argument("--no-write", action="store_true", help="write nothing")
    add_against_option(parser)
    add_level_option(parser)
    add_common_options(parser)
    parser.set_defaults(level="3")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    args = make_parser().parse_args(argv)
    return guarded("bench", lambda: _run(args), verbose=args.verbose, as_json=args.json)


def _run(args: argparse.Namespace) -> int:
    chosen = [e.id for e in zoo.entries() if e.format == "onnx" and (not args.models or any(m in e.id for m in args.models))]
    if not chosen:
        raise UsageError(f"no model is called '{args.models[0]}'", hint="lepton zoo list")
    against = args.against or ["onnxruntime"]
    for name in against:
        peers.find(name)
    rows: list[Row] = []
    with Progress("bench", args.verbose, args.quiet) as progress:
        for name in chosen:
            for threads in args.threads:
                rows.append(measure(name, args.level, threads, args.seconds, against, progress))
                if not args.quiet:
                    print(rows[-1].line(), file=sys.stderr, flush=True)
    results = {
        "machine": machine(against),
        "level": f"O{args.level}",
        "seconds": args.seconds,
        "against": against,
        "rows": [r.as_json() for r in rows],
    }
    _write(args, results)
    if args.json:
        print_json(results)
    elif not args.quiet:
        show(rows, f"-O{args.level}; x: other's time / lepton's, above 1 lepton is faster")
        print(report.means(results))
    return 1 if any(row.error for row in rows) else 0 if all(row.ok for row in rows) else 3


def _write(args: argparse.Namespace, results: dict[str, Any]) -> None:
    folder = args.output or (None if args.models else report.RESULTS)
    if args.no_write or folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "zoo.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    report.write(folder, report.README if folder.resolve() == report.RESULTS else None)


if __name__ == "__main__":
    sys.exit(main())
