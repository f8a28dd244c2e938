"""`lepton`: tools around the compiler, one subcommand per file in `cli/commands`."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from lepton_compiler import __version__
from lepton_compiler.cli.options import Parser
from lepton_compiler.cli.outcome import guarded

COMMANDS = ("run", "bench", "opt", "inspect", "diff", "reduce", "zoo", "targets", "passes")


def make_parser() -> argparse.ArgumentParser:
    """The options of all subcommands."""
    parser = Parser(prog="lepton", description="Tools around the lepton compiler; `leptonc` compiles.")
    parser.add_argument("--version", action="version", version=f"lepton {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        importlib.import_module(f"lepton_compiler.cli.commands.{name}").add(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `lepton`; returns the exit status."""
    args = make_parser().parse_args(argv)
    return guarded(f"lepton {args.command}", lambda: int(args.run(args)), verbose=args.verbose, as_json=args.json)


if __name__ == "__main__":
    sys.exit(main())
