"""`python -m bench.cuda_emulated`: whole models for GPUs, without one: the library on a stand-in for the driver, its kernels in the emulator."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.cuda_cases import TARGET, Case, add_case_options, cases, kept, precisions, write
from bench.report import RESULTS
from lepton_compiler.cli.options import Parser, add_common_options
from lepton_compiler.cli.outcome import guarded, print_json
from lepton_compiler.target import parse_target

STEM = "cuda_emulated"
NOT_COMPARED = {
    "too large": "more than `--most` multiply-accumulates",
    "overflows": "the evaluator's result in this precision is not finite, as the model's numbers are larger than it holds",
}
"""What the rows without a comparison that are no failures say, and what it means."""
DRAWS = 2
"""How much further from a model than the evaluator kernels may be in a lower precision that takes the evaluator too far: they round elsewhere."""
EXAMPLE = """\
examples:
  python -m bench.cuda_emulated
  python -m bench.cuda_emulated rapidocr --precision fp16 --checked 0
  python -m bench.cuda_emulated --resume --most 1000
Needs neither a GPU nor a compiler for one. Outputs are compared with ONNX Runtime's, or the evaluator's where a row says so; where a model in
half precision is by itself further from it than --verify allows, kernels may be twice as far. Every access of the smaller models' kernels is checked
for bounds, alignment and races. --resume goes on after an interruption.
"""


@dataclass
class Row:
    """What was found about one model; `error` says why there is nothing else.

    Attributes:
        model: its id in the list, or the name of its file.
        precision: of products.
        mmacs: millions of multiply-accumulates.
        launches: of kernels.
        checked: whether every access was looked at.
        seconds: of the emulated run.
        max_rel: largest difference, relative to the range of the output; None where NaN or infinities differ.
        own: what the precision costs by itself, where that is asked: how far the graph in it, by the evaluator, is from the model.
        tolerance: what `--verify` allows.
        reference: whose result is compared with: ONNX Runtime's, or the evaluator's.
        error: why nothing was compared; a fault, or one of `NOT_COMPARED`.
    """

    model: str
    precision: str
    mmacs: float = 0.0
    launches: int = 0
    checked: bool = False
    seconds: float = 0.0
    max_rel: float | None = None
    own: float | None = None
    tolerance: float = 0.0
    reference: str = ""
    error: str = ""

    @property
    def ok(self) -> bool:
        """Whether the difference is within the tolerance, or near what the precision costs by itself, of which roundings are another draw."""
        return not self.error and self.max_rel is not None and self.max_rel <= max(self.tolerance, DRAWS * (self.own or 0.0))

    @property
    def failed(self) -> bool:
        """Whether something is wrong."""
        return not self.ok and self.error not in NOT_COMPARED

    def cells(self) -> list[str]:
        """The row of a table."""
        size = [self.model, self.precision, f"{self.mmacs:,.1f}", str(self.launches)]
        if self.error:
            return [*size, "", "", self.error.replace("\n", " ").replace("|", "/"), "", ""]
        error, wrong = "not finite" if self.max_rel is None else f"{self.max_rel:.1e}", "" if self.ok else " WRONG"
        own = "" if self.own is None else f"{self.own:.1e}"
        return [*size, "yes" if self.checked else "no", f"{self.seconds:.1f}", error + wrong, self.reference, own]


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = Parser(prog="python -m bench.cuda_emulated", description="Emulate models for GPUs.", epilog=EXAMPLE)
    add_case_options(parser)
    parser.add_argument(
        "--most", type=float, default=25000.0, metavar="M", help="millions of multiply-accumulates of a model (default 25000)"
    )
    parser.add_argument("--checked", type=float, default=200.0, metavar="M", help="up to how many every access is checked (default 200)")
    gpus = parse_target(TARGET).features
    parser.add_argument("--gpu", choices=gpus, default=gpus[0], help=f"the one that is emulated (default {gpus[0]})")
    parser.add_argument("--seconds", type=float, default=1800.0, metavar="S", help="that one model may take (default 1800)")
    add_common_options(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Emulate, print and write."""
    args = make_parser().parse_args(argv)
    return guarded("bench.cuda_emulated", lambda: _run(args), verbose=args.verbose, as_json=args.json)


def _run(args: argparse.Namespace) -> int:
    folder = args.output or (None if args.models else RESULTS)
    rows = {key: Row(**row) for key, row in kept((folder or RESULTS) / f"{STEM}.json", ("model", "precision"), args.resume).items()}
    for case in sorted(cases(args), key=lambda case: case.path.stat().st_size):
        for precision in precisions(args):
            key = case.name, precision
            if key not in rows or rows[key].failed:
                rows[key] = emulate(case, precision, args)
            if not args.quiet:
                print("  ".join(rows[key].cells()), file=sys.stderr, flush=True)
            if folder is not None:
                write(
                    folder, STEM, {"target": TARGET, "rows": [asdict(row) for row in rows.values()]}, table(list(rows.values()), args.gpu)
                )
    if args.json:
        print_json({"target": TARGET, "rows": [asdict(row) for row in rows.values()]})
    return 1 if any(row.failed for row in rows.values()) else 0


def emulate(case: Case, precision: str, args: argparse.Namespace) -> Row:
    """One model in a process of its own, which may be lost."""
    command = [sys.executable, "-m", "bench.cuda_emulated_run", precision, str(args.most), str(args.checked), args.gpu]
    row = Row(case.name, precision)
    try:
        done = subprocess.run(
            command, input=case.to_json(), capture_output=True, text=True, timeout=args.seconds, cwd=Path(__file__).parents[1]
        )
    except subprocess.TimeoutExpired:
        row.error = f"took more than {args.seconds:.0f} s"
        return row
    if done.returncode:
        row.error = f"status {done.returncode}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
        return row
    facts: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return Row(case.name, precision, **facts)


def table(rows: Sequence[Row], gpu: str) -> str:
    """The rows as Markdown."""
    head = ["model", "precision", "MMACs", "launches", "checked", "seconds", "error", "beside", "the precision's own"]
    lines = [f"`python -m bench.cuda_emulated`: `--target {TARGET} -O3`, on {gpu}, smallest file first.", "", f"| {' | '.join(head)} |"]
    lines += [f"|{'---|' * len(head)}", *(f"| {' | '.join(row.cells())} |" for row in rows)]
    notes = [f"- {word}: {meaning}." for word, meaning in NOT_COMPARED.items() if any(row.error == word for row in rows)]
    return "\n".join([*lines, *(["", *notes] if notes else [])]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
