"""`lepton bench`: how long one call takes, beside other runtimes if wanted, or where its time goes."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from lepton_compiler.cli import options
from lepton_compiler.cli.outcome import print_json, tell
from lepton_compiler.cli.progress import Progress
from lepton_compiler.errors import Diagnostic, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lepton_compiler.profile import KernelTime
    from lepton_compiler.roofline import Limits

SHOWN_SOURCES = 3
"""Nodes that a row of the profile names."""

EXAMPLE = """\
example:
  lepton bench model.onnx -O3 --against onnxruntime,openvino --seconds 5
  lepton bench model.onnx -O3 --profile
  lepton bench model.onnx -O3 --target cortex-m4
For another machine, instructions are counted in an emulator. Otherwise runs are interleaved, so that all see the same machine; the ratio is
the number to quote: the other's time divided by lepton's, so that above 1 lepton is faster.
"""


def add(subparsers: Any) -> None:
    """Add the subcommand's options."""
    parser = subparsers.add_parser(
        "bench", help="measure the time of one call", description="Measure the time of one call.", epilog=EXAMPLE
    )
    parser.add_argument("model", metavar="MODEL", help="the model")
    options.add_against_option(parser)
    parser.add_argument(
        "--profile", action="store_true", help="say how long each kernel call takes, beside what this machine can do at most"
    )
    parser.add_argument("--seconds", type=float, default=3.0, metavar="S", help="how long to measure altogether (default 3)")
    parser.add_argument("--feed", action="append", default=[], metavar="NAME=FILE.npy", help="an input, also FILE.npz (default: random)")
    options.add_level_option(parser)
    options.add_target_options(parser)
    options.add_model_options(parser)
    options.add_common_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compile, measure, and print the medians in milliseconds; 1 where a runtime that was asked for cannot run the model."""
    from lepton_compiler.feeds import read_feeds
    from lepton_compiler.target import runs_here

    if not runs_here(args.target):
        return _count(args)
    if args.profile:
        return _profile(args)
    from lepton_compiler.measure import measure_model

    with Progress("lepton bench", args.verbose, args.quiet) as progress:
        result = measure_model(
            args.model, read_feeds(args.feed), target=args.target, cpu=args.cpu, level=args.level, threads=args.threads,
            inputs=dict(args.input), dims=dict(args.dim), against=args.against, seconds=args.seconds, stage=progress,
        )  # fmt: skip
    failures = [Diagnostic(row["error"], name) for name, row in result["runs"].items() if "error" in row]
    if args.json:
        print_json(result)
    elif not args.quiet:
        for name, row in result["runs"].items():
            if "error" not in row:
                print(_line(name, row))
    tell("lepton bench", failures)
    return 1 if failures else 0


def _line(name: str, row: Mapping[str, Any]) -> str:
    ratio = f"  lepton is {row['speedup']:.2f} times as fast" if "speedup" in row else ""
    return f"{name}: median {row['median_ms']:.3f} ms, best {row['best_ms']:.3f} ms, {row['count']} rounds{ratio}"


def _profile(args: argparse.Namespace) -> int:
    """Compile with a clock around each kernel call, and print the calls, the longest first, beside the machine's limits."""
    from lepton_compiler import driver
    from lepton_compiler.feeds import random_feeds, read_feeds
    from lepton_compiler.profile import profile
    from lepton_compiler.roofline import measure_limits
    from lepton_compiler.target import parse_target

    if args.against:
        raise UsageError("--profile looks at lepton's kernels only", hint="leave out --against")
    given = read_feeds(args.feed)
    shapes = {**{name: array.shape for name, array in given.items()}, **dict(args.input)}
    target = parse_target(args.target, args.cpu)
    with Progress("lepton bench", args.verbose, args.quiet) as progress:
        progress("compile")
        graph = driver.import_model(args.model, shapes, dict(args.dim))
        model = driver.compile(graph, target, args.level, threads=args.threads, profile=True)
        progress("measure the machine")
        limits = measure_limits(target, args.threads) if target.host else None
        progress("measure")
        rows = profile(model, random_feeds(graph.inputs, fixed=given), args.seconds, limits)
    if args.json:
        print_json({"kernels": [row.as_json() for row in rows], "threads": args.threads, "limits": limits.as_json() if limits else None})
    elif not args.quiet:
        _show(rows, limits)
    return 0


def _count(args: argparse.Namespace) -> int:
    """Compile for another machine, run in the emulator, and print the instructions of each kernel call in order."""
    from lepton_compiler.counts import count_model
    from lepton_compiler.errors import UsageError
    from lepton_compiler.feeds import read_feeds

    if args.against or args.profile:
        raise UsageError(
            "an emulator has no time to measure", hint="leave out --against and --profile: instructions are counted per kernel"
        )
    with Progress("lepton bench", args.verbose, args.quiet) as progress:
        result = count_model(
            args.model, read_feeds(args.feed), args.target, cpu=args.cpu, level=args.level, inputs=dict(args.input), dims=dict(args.dim),
            stage=progress,
        )  # fmt: skip
    if args.json:
        print_json(result)
    elif not args.quiet:
        _show_counts(result)
    return 0


def _show_counts(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    total = result["instructions"] or 1
    table = Table(title=f"{total:,} instructions, {result['peak_stack_bytes']:,} bytes of stack, arena {result['arena_bytes']:,} bytes")
    for heading in ("share", "instructions", "per MAC"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("kernel", "first node", "result"):
        table.add_column(heading, overflow="fold")
    for row in result["kernels"]:
        per_mac = f"{row['instructions'] / row['macs']:.2f}" if row["macs"] else ""
        figures = [f"{100 * row['instructions'] / total:.1f} %", f"{row['instructions']:,}", per_mac]
        table.add_row(*figures, row["symbol"], next(iter(row["sources"]), ""), ", ".join(row["outputs"]))
    Console(highlight=False, markup=False).print(table)


def _show(rows: Sequence[KernelTime], limits: Limits | None) -> None:
    """The calls as a table, the longest first."""
    from rich.console import Console
    from rich.table import Table

    total = sum(row.seconds for row in rows) or 1.0
    caption = f"limits of this machine: {limits}" if limits else "the limits of this target's machine cannot be measured here"
    table = Table(title=f"{len(rows)} kernel calls, {total * 1e3:.3f} ms", caption=caption)
    for heading in ("share", "ms", "GFLOP/s", "GB/s", "of limit"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("kernel", "source nodes", "result"):
        table.add_column(heading, overflow="fold")
    for row in sorted(rows, key=lambda r: -r.seconds):
        part = "" if row.share is None else f"{100 * row.share:.0f} %"
        figures = [f"{100 * row.seconds / total:.1f} %", f"{row.seconds * 1e3:.4f}", f"{row.gflops:.1f}", f"{row.gbytes:.1f}", part]
        table.add_row(*figures, row.symbol, _sources(row.sources), ", ".join(row.outputs))
    Console(highlight=False, markup=False).print(table)


def _sources(names: Sequence[str]) -> str:
    """The first nodes, and how many more there are."""
    rest = f" and {len(names) - SHOWN_SOURCES} more" if len(names) > SHOWN_SOURCES else ""
    return ", ".join(names[:SHOWN_SOURCES]) + rest
