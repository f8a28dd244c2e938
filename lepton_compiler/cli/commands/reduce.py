"""`lepton reduce`: shrink a model that shows a problem."""

from __future__ import annotations

import argparse
from typing import Any

from lepton_compiler.cli import options
from lepton_compiler.errors import UnsupportedError

EXAMPLE = """\
example:
  lepton reduce model.onnx --passes fuse
"""


def add(subparsers: Any) -> None:
    """Add the subcommand's options."""
    parser = subparsers.add_parser(
        "reduce",
        help="shrink a failing model (not there yet)",
        description="Shrink a model that makes a pass fail. Not there yet.",
        epilog=EXAMPLE,
    )
    parser.add_argument("model", metavar="MODEL", help="the model that fails")
    parser.add_argument("--passes", metavar="PIPELINE", help="the passes that fail on it")
    options.add_common_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Say that it is not there yet."""
    raise UnsupportedError("'reduce' is not there yet", hint="leptonc --dump-dir DIR keeps the IR before the pass that fails")
