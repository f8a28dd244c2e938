"""`lepton bench`: how long one call takes, beside ONNX Runtime if wanted."""

from __future__ import annotations

import argparse
from typing import Any

from lepton_compiler.cli import options
from lepton_compiler.cli.outcome import print_json
from lepton_compiler.cli.progress import Progress

EXAMPLE = """\
example:
  lepton bench model.onnx -O3 --against onnxruntime --seconds 5
Runs are interleaved, so that both see the same machine; the ratio is the number to quote.
"""


def add(subparsers: Any) -> None:
    """Add the subcommand's options."""
    parser = subparsers.add_parser(
        "bench", help="measure the time of one call", description="Measure the time of one call.", epilog=EXAMPLE
    )
    parser.add_argument("model", metavar="MODEL", help="the model")
    parser.add_argument("--against", action="append", default=[], choices=["onnxruntime"], help="measure this one as well, interleaved")
    parser.add_argument("--seconds", type=float, default=3.0, metavar="S", help="how long to measure altogether (default 3)")
    parser.add_argument("--feed", action="append", default=[], metavar="NAME=FILE.npy", help="an input, also FILE.npz (default: random)")
    options.add_level_option(parser)
    options.add_target_options(parser)
    options.add_model_options(parser)
    options.add_common_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compile, measure, and print the medians in milliseconds."""
    from lepton_compiler.feeds import read_feeds
    from lepton_compiler.measure import measure_model

    with Progress("lepton bench", args.verbose, args.quiet) as progress:
        result = measure_model(
            args.model, read_feeds(args.feed), target=args.target, cpu=args.cpu, level=args.level, threads=args.threads,
            inputs=dict(args.input), dims=dict(args.dim), against=args.against, seconds=args.seconds, stage=progress,
        )  # fmt: skip
    if args.json:
        print_json(result)
    elif not args.quiet:
        for name, row in result["runs"].items():
            ratio = f"  lepton takes {row['lepton_ratio']:.2f} times as long" if "lepton_ratio" in row else ""
            print(f"{name}: median {row['median_ms']:.3f} ms, best {row['best_ms']:.3f} ms, {row['count']} runs{ratio}")
    return 0
