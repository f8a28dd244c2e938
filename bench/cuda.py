"""`python -m bench.cuda`: agreement and speed on a GPU, lepton beside PyTorch, compiled and eager, all replayed as CUDA graphs."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.gpu.cases import PRECISIONS, cases
from bench.gpu.report import Row, findings
from bench.gpu.stages import STAGES, Measurement
from lepton_compiler.cli.options import Parser, add_common_options, positive
from lepton_compiler.cli.outcome import guarded, print_json
from lepton_compiler.errors import UsageError

EXAMPLE = """\
examples:
  python -m bench.cuda --compile build/cuda                       here, without a GPU
  python -m bench.cuda --run build/cuda --seconds 540             on the machine with the GPU, again until nothing is left
  python -m bench.cuda --compile build/cuda --run build/cuda      both on one machine
  python -m bench.cuda --run build/cuda gemm --stage speed
  python -m bench.cuda --compile build/cuda gemm --candidates     other tiles, which --run then measures for --tune-db
A ratio is the other's time divided by lepton's, the median over rounds in which all take turns: above 1 lepton is faster.
"""


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = Parser(prog="python -m bench.cuda", description="Check and measure on a GPU, beside PyTorch.", epilog=EXAMPLE)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="parts of names: resnet50, bert, gemm, model, fp16...; all if absent")
    parser.add_argument("--compile", type=Path, metavar="DIR", help="compile the cases into DIR/1, DIR/2...; this needs no GPU")
    parser.add_argument("--run", type=Path, metavar="DIR", help="measure the cases in DIR; this needs numpy, ml_dtypes and a GPU")
    parser.add_argument("--target", default="cuda:sm_90", help="for --compile (default cuda:sm_90)")
    parser.add_argument("--precision", action="append", choices=["fp32", "tf32", "fp16", "int8"], default=[], help="default: all but tf32")
    parser.add_argument("--candidates", action="store_true", help="compile other tiles for nets and layers, too, for the stage 'tune'")
    parser.add_argument("--tune-db", type=Path, metavar="FILE", help="compile with the choices of that stage's tuning.jsonl")
    parser.add_argument("--limit", type=positive, default=48, metavar="MB", help="most that a folder DIR/N has (default 48)")
    parser.add_argument("--jobs", type=positive, metavar="N", help="compiler processes at once")
    parser.add_argument("--stage", action="append", choices=STAGES, default=[], help=f"of --run; default: {', '.join(STAGES)}")
    parser.add_argument("--seconds", type=float, default=1e6, metavar="S", help="stop measuring after so long; the next run goes on")
    parser.add_argument("--rounds", type=positive, default=30, metavar="N", help="rounds in which all take turns (default 30)")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="for cuda.jsonl, cuda.json, cuda.md, tuning.jsonl (default: that of --run)"
    )
    add_common_options(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Compile, measure, print and write."""
    args = make_parser().parse_args(argv)
    return guarded("bench.cuda", lambda: _run(args), verbose=args.verbose, as_json=args.json)


def _run(args: argparse.Namespace) -> int:
    if args.compile is None and args.run is None:
        raise UsageError("say --compile DIR, --run DIR, or both", hint="python -m bench.cuda --compile build/cuda --run build/cuda")
    end = time.monotonic() + args.seconds
    failed = _compiled(args) if args.compile is not None else False
    return max(int(failed), _measured(args, end) if args.run is not None else 0)


def _compiled(args: argparse.Namespace) -> bool:
    from bench.gpu.build import Options, compile_cases  # with the whole compiler, which the machine that measures need not have

    chosen = cases(args.cases, args.precision or PRECISIONS, args.candidates)
    if not chosen:
        raise UsageError(f"no case is called '{args.cases[0]}'", hint="try resnet50, bert-base, gemm, conv, or the id of a model")

    def tell(text: str) -> None:
        if not args.quiet:
            print(text, file=sys.stderr, flush=True)

    if args.tune_db is not None and not args.tune_db.is_file():
        raise UsageError(f"no tuning database {args.tune_db}", hint="the stage 'tune' of --run writes one")
    failed = compile_cases(chosen, args.compile, Options(args.target, args.jobs, args.tune_db), args.limit * 10**6, tell)
    tell(f"{len(chosen) - len(failed)} of {len(chosen)} cases are compiled")
    return bool(failed)


def _measured(args: argparse.Namespace, end: float) -> int:
    def tell(row: Row) -> None:
        if not args.quiet and not args.json:
            print(row.line(), flush=True)

    measurement = Measurement(args.run, args.output or args.run, end, args.rounds, tell)
    left = measurement.run(args.stage or STAGES, args.cases)
    facts = measurement.write()
    rows = list(measurement.rows.values())
    if args.json:
        print_json({**facts, "left": left})
    elif not args.quiet:
        for text in [*findings(rows), *([f"no time for {len(left)}: {', '.join(left)}"] if left else [])]:
            print(text)
    return 0 if all(row.ok for row in rows) and not left else 1


if __name__ == "__main__":
    raise SystemExit(main())
