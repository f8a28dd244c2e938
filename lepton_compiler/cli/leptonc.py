"""`leptonc`: compile one model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import lepton_compiler
from lepton_compiler import __version__
from lepton_compiler.cli import options
from lepton_compiler.cli.outcome import guarded, print_json, tell
from lepton_compiler.cli.progress import Progress

if TYPE_CHECKING:
    from lepton_compiler.job import Job, Outcome
    from lepton_compiler.tuning import TuningReport

EMITS = ("lib", "static", "obj", "c", "onnx", "tflite", "ir", "tir", "asm")
EXAMPLES = """\
examples:
  leptonc model.onnx -O3 -o build/model --verify
  leptonc model.onnx --dim batch=1 --emit static --name detector --json
  leptonc model.onnx --emit onnx -o smaller.onnx
  leptonc model.onnx --emit c -o sources --verify
  leptonc vad.onnx --input x=1x512 --state state_out=state_in
  leptonc model.onnx --quantize int8 --calibrate samples/ --max-drop 1% --report q.html
exit status: 0 done; 1 cannot be compiled; 2 wrong usage; 3 verification failed
"""


class _PrintCMakeDir(argparse.Action):
    """Like `--version`: needs no model."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print the folder and leave."""
        print(Path(lepton_compiler.__file__).resolve().parent / "cmake")
        parser.exit()


def make_parser() -> argparse.ArgumentParser:
    """The options of `leptonc`."""
    parser = options.Parser(prog="leptonc", description="Compile a neural-network model.", epilog=EXAMPLES)
    parser.add_argument("model", metavar="MODEL", help="the model: .onnx or .lir")
    parser.add_argument("-o", dest="out", metavar="OUT", help="output: a folder for native code, a file for onnx and ir")
    parser.add_argument("--emit", choices=EMITS, default="lib", help="kind of output (default lib)")
    parser.add_argument("--name", help="C identifier of the artefact (default: from the file name)")
    parser.add_argument("--opset", type=options.positive, default=21, help="opset of --emit onnx (default 21)")
    parser.add_argument("--jobs", type=options.positive, metavar="N", help="compiler processes at once (default: one per core)")
    options.add_level_option(parser)
    options.add_target_options(parser)
    options.add_model_options(parser, several=True)
    parser.add_argument(
        "--bound",
        type=options.dimension,
        action="append",
        default=[],
        metavar="NODE=N",
        help="largest size that a node's result takes where data decides it",
    )
    options.add_state_options(parser)
    options.add_pass_options(parser)
    _add_tuning(parser)
    _add_compression(parser)
    parser.add_argument(
        "--verify", action=argparse.BooleanOptionalAction, default=False, help="run the result and compare it with a reference"
    )
    parser.add_argument(
        "--feed", action="append", default=[], metavar="NAME=FILE.npy", help="inputs for --verify; also FILE.npz (default: random)"
    )
    parser.add_argument("--ram", type=options.byte_count, metavar="SIZE", help="firmware: refuse what needs more RAM, as 64K")
    parser.add_argument("--flash", type=options.byte_count, metavar="SIZE", help="firmware: refuse what needs more flash, as 256K")
    parser.add_argument("-MD", dest="depend", action="store_true", help="also write OUT.d, a rule in Make's syntax")
    parser.add_argument("-MF", dest="depfile", metavar="FILE", help="write that rule to FILE")
    options.add_common_options(parser)
    parser.add_argument("--cmake-dir", action=_PrintCMakeDir, nargs=0, help="print the folder of the files for CMake and make, and exit")
    parser.add_argument("--version", action="version", version=f"leptonc {__version__}")
    return parser


def _add_tuning(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("tuning", "without these options a build depends on no measurement")
    group.add_argument("--tune", metavar="SECONDS", help="measure other choices for the kernels that take longest, and use the faster ones")
    group.add_argument("--tune-db", metavar="FILE", help="database of what was measured; without --tune, use it and measure nothing")
    group.add_argument("--tune-tracker", metavar="HOST:PORT[,KEY]", help="measure on a board of TVM's RPC tracker")


def _add_compression(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("quantization", "smaller weights and integer arithmetic; see docs/quantization.md")
    group.add_argument("--quantize", metavar="SCHEME", help="int8, int16x8, dynamic, w8 or w4; options follow as in int8{observer=entropy}")
    group.add_argument("--calibrate", metavar="DATA", help="samples: a folder of .npz, .npy or images, one .npz, or module:function")
    group.add_argument("--max-drop", metavar="1%", help="keep layers in floating point until no more than this is lost")
    group.add_argument("--metric", metavar="MODULE:FUNCTION", help="your measure for --max-drop (default: agreement with the float model)")
    group.add_argument("--report", metavar="FILE.html", help="write a page that shows what became of each layer")
    group = parser.add_argument_group("not there yet", "accepted by the parser, refused with a message")
    group.add_argument("--prune", metavar="SPEC", help="remove channels")
    group.add_argument("--recover", metavar="SPEC", help="refit after compression")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `leptonc`; returns the exit status."""
    args = make_parser().parse_args(argv)
    return guarded("leptonc", lambda: _compile(args), verbose=args.verbose, as_json=args.json)


def _compile(args: argparse.Namespace) -> int:
    from lepton_compiler import driver
    from lepton_compiler.job import refuse_planned
    from lepton_compiler.quantization.page import check_place, write_report

    refuse_planned({name: getattr(args, name) for name in ("prune", "recover")})
    options.load_passes(args.load_pass)
    if args.report:
        check_place(Path(args.report))
    reports: list[TuningReport] = []
    with Progress("leptonc", args.verbose, args.quiet) as progress:
        job = _job(args, progress, reports.append)
        out = Path(args.out) if args.out else None
        depfile = _depfile(args, out)
        outcome = driver.run_job(args.model, out, job, depfile, args.load_pass)
    if args.report and outcome.quantization is not None:
        write_report(Path(args.report), outcome.quantization)
    _print_times(job)
    if args.json:
        print_json(outcome.as_json() | ({"tune": reports[-1].as_json()} if reports else {}))
    elif not args.quiet:
        _print_summary(outcome, reports)
    if outcome.failure is not None:
        tell("leptonc", outcome.failure.diagnostics)
        return outcome.failure.exit_status
    return 0


def _job(args: argparse.Namespace, progress: Progress, tuned: Callable[[TuningReport], None]) -> Job:
    from lepton_compiler.compress import compression, keeping_report
    from lepton_compiler.feeds import read_feeds
    from lepton_compiler.identity import check_name
    from lepton_compiler.job import Job, parse_level, parse_precision
    from lepton_compiler.target import parse_target
    from lepton_compiler.tuning import Request

    target = parse_target(args.target, args.cpu)
    return Job(
        target=target,
        level=parse_level(args.level),
        emit=args.emit,
        name=check_name(args.name) if args.name else None,
        threads=args.threads,
        passes=args.passes,
        inputs=dict(args.input),
        dims=dict(args.dim),
        states=options.states(args),
        bounds=dict(args.bound),
        opset=args.opset,
        jobs=args.jobs,
        instruments=options.instruments(args),
        verify=args.verify,
        feeds=read_feeds(args.feed),
        stage=progress,
        detail=progress.detail,
        ram=args.ram,
        flash=args.flash,
        tuning=Request.of(target, args.tune, args.tune_db, args.tune_tracker),
        tuned=tuned,
        compression=keeping_report(compression(args.quantize, args.calibrate, args.max_drop, args.metric), args.report),
        precision=parse_precision(args.precision, target),
    )


def _depfile(args: argparse.Namespace, out: Path | None) -> Path | None:
    if args.depfile:
        return Path(args.depfile)
    if not args.depend:
        return None
    from lepton_compiler.identity import default_out

    out = out or default_out(args.model, args.name, args.emit)
    return out.with_name(out.name + ".d")


def _print_times(job: Job) -> None:
    from lepton_compiler.instruments import Timing

    for instrument in job.instruments:
        if isinstance(instrument, Timing):
            print(instrument.table(), file=sys.stderr)


def _print_summary(outcome: Outcome, reports: Sequence[TuningReport]) -> None:
    facts = outcome.as_json()
    print(f"{facts['artifact']}: {facts['emit']} for {facts['target']} at -{facts['level']} in {facts['compile_seconds']:.1f} s")
    if facts["kernels"]:
        sizes = ", ".join(
            f"{label} {facts[key]:,} bytes"
            for label, key in (("arena", "arena_bytes"), ("weights", "weights_bytes"), ("code", "code_bytes"))
        )
        print(f"  {facts['kernels']} kernels, {sizes}; no arena could be smaller than {facts['arena_lower_bound']:,} bytes")
    for note in outcome.manifest.get("serial", ()):
        print(f"leptonc: warning: {note}", file=sys.stderr)
    if "flash_bytes" in facts:
        peak = ", ".join(outcome.manifest["arena_peak"]) or "nothing"
        print(f"  flash {facts['flash_bytes']:,} bytes, stack at most {facts['stack_bytes']:,} bytes; the arena's peak: {peak}")
    if "patches" in facts:
        runs = ", ".join(f"'{run['result']}' ({run['patches']})" for run in facts["patches"]["runs"])
        print(f"  in patches: {runs}; {100 * facts['patches']['overhead']:.1f} % more multiply-accumulates than without")
    for report in reports:
        gain = f"the model takes {report.ratio:.3f} times as long as without" if report.tuned else "nothing makes the model faster"
        skipped = f", {report.skipped} candidates left out" if report.skipped else ""
        print(f"  tuned {report.tuned} of {report.kernels} kernels, {report.finished} searched{skipped}; {gain}")
    if outcome.quantization is not None:
        print(f"  {outcome.quantization.summary()}")
        for warning in outcome.quantization.warnings:
            print(f"leptonc: warning: {warning}", file=sys.stderr)
    check = outcome.verification
    if check is not None:
        verdict = "verified" if check.ok else "WRONG"
        print(f"  {verdict} against {check.reference}: largest error {check.max_abs:.2g}, {check.max_rel:.2g} of the output's range")


if __name__ == "__main__":
    sys.exit(main())
