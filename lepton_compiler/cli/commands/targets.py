"""`lepton targets`: what can be compiled for."""

from __future__ import annotations

import argparse
from typing import Any

from lepton_compiler.cli import options
from lepton_compiler.cli.outcome import print_json

EXAMPLE = """\
example:
  lepton targets --json
"""


def add(subparsers: Any) -> None:
    """Add the subcommand's options."""
    parser = subparsers.add_parser(
        "targets", help="list targets and processors", description="List targets and processors.", epilog=EXAMPLE
    )
    options.add_common_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """List the targets, those that are planned, and the processors that `--cpu` takes."""
    from lepton_compiler.target import CPUS, PLANNED, TARGETS

    if args.json:
        print_json({"targets": TARGETS, "planned": list(PLANNED), "cpus": {name: cpu.arch for name, cpu in CPUS.items()}})
        return 0
    for name, text in TARGETS.items():
        print(f"{name:<12} {text}")
    print(f"\nnot there yet: {', '.join(PLANNED)}")
    print(f"--cpu: {', '.join(CPUS)}")
    return 0
