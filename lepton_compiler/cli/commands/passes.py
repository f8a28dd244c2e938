"""`lepton passes`: the passes, their options, and what each level runs."""

from __future__ import annotations

import argparse
from dataclasses import MISSING, fields
from typing import Any

from lepton_compiler.cli import options
from lepton_compiler.cli.outcome import print_json

EXAMPLE = """\
examples:
  lepton passes
  lepton passes -O3
"""


def add(subparsers: Any) -> None:
    """Add the subcommand's options."""
    parser = subparsers.add_parser("passes", help="list passes and levels", description="List passes and their options.", epilog=EXAMPLE)
    parser.add_argument("-O", dest="level", choices=["0", "1", "2", "3", "s"], help="print the pipeline of this level instead")
    parser.add_argument("--load-pass", action="append", default=[], metavar="FILE.py", help="load passes from a Python file first")
    options.add_common_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """List passes with the first line of their documentation, or the pipeline of a level."""
    from lepton_compiler.driver import level_pipeline
    from lepton_compiler.job import parse_level
    from lepton_compiler.passes import registry

    options.load_passes(args.load_pass)
    if args.level:
        pipeline = str(level_pipeline(parse_level(args.level)))
        if args.json:
            print_json({"level": f"O{args.level}", "pipeline": pipeline})
        else:
            print(pipeline)
        return 0
    rows = {name: registry.get(name) for name in sorted(registry)}
    if args.json:
        print_json({"passes": {name: {"summary": _summary(cls), "options": _options(cls)} for name, cls in rows.items()}})
    else:
        for name, cls in rows.items():
            shown = ",".join(f"{k}={v}" for k, v in _options(cls).items())
            print(f"{name:<24} {_summary(cls)}{f'  {{{shown}}}' if shown else ''}")
    return 0


def _summary(cls: type[Any]) -> str:
    return (cls.__doc__ or "").strip().split("\n")[0]


def _options(cls: type[Any]) -> dict[str, str | None]:
    """Option to its default as text, null where it must be given."""
    return {f.name.replace("_", "-"): None if f.default is MISSING else str(f.default) for f in fields(cls)}
