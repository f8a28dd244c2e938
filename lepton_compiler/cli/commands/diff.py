"""`lepton diff`: do two models compute the same?"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lepton_compiler.cli import options
from lepton_compiler.cli.outcome import print_json, tell

EXAMPLE = """\
examples:
  lepton diff model.onnx model.lepton.onnx
  lepton diff dump/000_input.lir dump/007_fuse.lir --tolerance 1e-6
exit status: 0 equal within the tolerance; 3 different
"""


def add(subparsers: Any) -> None:
    """Add the subcommand's options."""
    parser = subparsers.add_parser(
        "diff", help="compare the outputs of two models", description="Compare the outputs of two models.", epilog=EXAMPLE
    )
    parser.add_argument("first", metavar="FIRST", help="a model, or a compiled folder; it gives the inputs")
    parser.add_argument("second", metavar="SECOND", help="a model, or a compiled folder")
    parser.add_argument("--feed", action="append", default=[], metavar="NAME=FILE.npy", help="an input, also FILE.npz (default: random)")
    parser.add_argument("--seed", type=int, default=0, help="of random inputs (default 0)")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="largest error, relative to the range of an output (default 1e-3)")
    options.add_model_options(parser)
    options.add_common_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run both on the same inputs and print the largest difference; models are evaluated with numpy."""
    from lepton_compiler.feeds import read_feeds
    from lepton_compiler.verification import compare

    given = read_feeds(args.feed)
    feeds, expected = _run(args.first, args, given, complete=True)
    _, actual = _run(args.second, args, feeds, complete=False)
    result = compare(expected, actual, args.first, args.tolerance)
    if args.json:
        print_json(result.as_json())
    elif not args.quiet:
        print(f"largest difference {result.max_abs:.3g}, {result.max_rel:.3g} of the range of output '{result.worst}'")
    if (failure := result.failure()) is not None:
        tell("lepton diff", failure.diagnostics)
        return failure.exit_status
    return 0


def _run(model: str, args: argparse.Namespace, feeds: dict[str, Any], complete: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """The feeds, with random ones for missing inputs if `complete`, and the outputs."""
    import lepton_compiler as lc
    from lepton_compiler.feeds import feeds_for_rows, random_feeds

    if Path(model).is_dir():
        compiled = lc.load(model)
        feeds = feeds_for_rows(compiled.manifest["inputs"], args.seed, feeds) if complete else feeds
        return feeds, compiled.run(feeds)
    shapes = {**{n: a.shape for n, a in feeds.items()}, **dict(args.input)}
    graph = lc.import_model(model, inputs=shapes, dims=dict(args.dim))
    feeds = random_feeds(graph.inputs, args.seed, feeds) if complete else feeds
    return feeds, lc.evaluate(graph, feeds)
