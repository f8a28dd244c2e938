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
    """List the targets, the processors that `--cpu` takes, and the GPUs that code is made for."""
    from lepton_compiler.gpus import GPUS
    from lepton_compiler.target import CPUS, TARGETS

    if args.json:
        print_json(
            {
                "targets": TARGETS,
                "planned": [],
                "cpus": {name: cpu.arch for name, cpu in CPUS.items()},
                "gpus": {name: gpu.help for name, gpu in GPUS.items()},
            }
        )
        return 0
    for name, text in TARGETS.items():
        print(f"{name:<12} {text}")
    print(f"\n--cpu: {', '.join(CPUS)}")
    print(f"GPUs: {'; '.join(f'{name} ({gpu.help})' for name, gpu in GPUS.items())}")
    return 0
