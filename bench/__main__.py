"""`python -m bench`: the zoo's float models against ONNX Runtime; writes `bench/results/zoo.json` and `zoo.md`."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.rows import Row, markdown, measure, show
from lepton_compiler import __version__, zoo
from lepton_compiler.cli.options import Parser, add_common_options, add_level_option, positive
from lepton_compiler.cli.outcome import guarded, print_json
from lepton_compiler.cli.progress import Progress

RESULTS = Path(__file__).parent / "results"
EXAMPLE = """\
examples:
  python -m bench                       every ONNX model of the zoo
  python -m bench magika rapidocr -O3 --seconds 10
Times of different runs cannot be compared; ratios within one run can.
"""


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = Parser(prog="python -m bench", description="Measure models against ONNX Runtime.", epilog=EXAMPLE)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="parts of ids; all ONNX models if absent")
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="threads of each runtime (default 1)")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="measuring time per model (default 5)")
    parser.add_argument("--no-write", action="store_true", help="do not write bench/results")
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
    rows = []
    with Progress("bench", args.verbose, args.quiet) as progress:
        for name in chosen:
            rows.append(measure(name, args.level, args.threads, args.seconds, progress))
            if not args.quiet and not args.json:
                print(_line(rows[-1]), file=sys.stderr)
    results = {"machine": machine(), "level": f"O{args.level}", "rows": [r.as_json() for r in rows]}
    if not args.no_write:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "zoo.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        (RESULTS / "zoo.md").write_text(markdown(rows), encoding="utf-8")
    if args.json:
        print_json(results)
    elif not args.quiet:
        show(rows, f"-O{args.level}, {args.threads} thread(s)")
    return 0


def machine() -> dict[str, Any]:
    """What the numbers were taken on and with."""
    from lepton_compiler.target import parse_target

    versions = {name: version(name) for name in ("apache-tvm", "numpy", "onnx", "onnxruntime")}
    return {
        "cpu": _processor(),
        "target": parse_target("native").cpu,
        "python": platform.python_version(),
        "lepton": __version__,
        **versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def _line(row: Row) -> str:
    return f"{row.model}: {row.error or f'{row.lepton_ms} ms, ONNX Runtime {row.onnxruntime_ms} ms, ratio {row.ratio}'}"


if __name__ == "__main__":
    sys.exit(main())
