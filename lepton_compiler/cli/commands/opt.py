"""`lepton opt`: run passes and show the IR."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from lepton_compiler.cli import options
from lepton_compiler.cli.outcome import print_json
from lepton_compiler.errors import UsageError

EXAMPLE = """\
examples:
  lepton opt model.onnx -O2 -o model.lir --time-passes
  lepton opt dump/003_fuse.lir --passes "cse,dce" --print-ir-after changed
  lepton opt model.onnx --load-pass my_pass.py --passes my-pass
"""


def add(subparsers: Any) -> None:
    """Add the subcommand's options."""
    parser = subparsers.add_parser("opt", help="run passes and print the IR", description="Run passes and print the IR.", epilog=EXAMPLE)
    parser.add_argument("model", metavar="MODEL", help="an .onnx or .lir file")
    parser.add_argument("-o", dest="out", metavar="FILE.lir", help="write there, larger weights beside it, instead of printing")
    parser.add_argument("--target", default="native", metavar="NAME", help="what the passes may reckon with")
    options.add_level_option(parser)
    options.add_model_options(parser)
    options.add_pass_options(parser)
    options.add_common_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Import, run the pipeline, print or write."""
    import lepton_compiler as lc
    from lepton_compiler.instruments import Timing
    from lepton_compiler.ir.text import print_graph

    if args.out is not None and not args.out.endswith(".lir"):
        raise UsageError(f"'{args.out}' does not end in .lir", hint="leptonc --emit writes the other formats")
    options.load_passes(args.load_pass)
    watchers = options.instruments(args)
    before = lc.import_model(args.model, inputs=dict(args.input), dims=dict(args.dim))
    after = lc.optimize(before, args.level, args.target, args.passes, watchers)
    if args.out is not None:
        lc.emit(after, args.out, backend="ir")
    for timing in [w for w in watchers if isinstance(w, Timing)]:
        print(timing.table(), file=sys.stderr)
    if args.json:
        ir = None if args.out else print_graph(after)
        print_json({"nodes_before": len(before), "nodes_after": len(after), "out": args.out, "ir": ir})
    elif args.out is None:
        print(print_graph(after), end="")
    return 0
