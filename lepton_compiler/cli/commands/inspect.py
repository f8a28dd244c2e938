"""`lepton inspect`: what a model is made of, before and after optimisation."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import TYPE_CHECKING, Any

from lepton_compiler.cli import options
from lepton_compiler.cli.outcome import print_json

if TYPE_CHECKING:
    from lepton_compiler.ir.graph import Graph

EXAMPLE = """\
example:
  lepton inspect model.onnx --dim batch=1
"""


def add(subparsers: Any) -> None:
    """Add the subcommand's options."""
    parser = subparsers.add_parser(
        "inspect", help="tell what a model is made of", description="Tell what a model is made of.", epilog=EXAMPLE
    )
    parser.add_argument("model", metavar="MODEL", help="the model")
    options.add_level_option(parser)
    options.add_model_options(parser)
    options.add_common_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Import, optimise, and print both as a table."""
    import lepton_compiler as lc

    before = lc.import_model(args.model, inputs=dict(args.input), dims=dict(args.dim))
    after = lc.optimize(before, args.level)
    facts = {
        "inputs": {v.name: repr(v.type) for v in before.inputs},
        "outputs": {v.name: repr(v.type) for v in before.outputs},
        "unbound_dimensions": sorted(before.free_symbols),
        "level": f"O{args.level}",
        "imported": describe(before),
        "optimised": describe(after),
    }
    if args.json:
        print_json(facts)
    elif not args.quiet:
        _print(facts)
    return 0


def describe(graph: Graph) -> dict[str, Any]:
    """Counts of nodes by operator (kernels by their contents), parameters, and the cost of one execution.

    `macs` and `bytes_moved` are null while dimensions are unbound.
    """
    from lepton_compiler.identity import weights_bytes
    from lepton_compiler.ir.op import Cost

    inner = [n for n in graph.walk() if n.op.name != "Fused"]
    tensors = {id(v.tensor): v.type.size for g in graph.graphs() for v in g.constants}
    static = all(o.type.is_static for n in graph.walk() for o in n.outputs)
    cost = (
        sum((n.op.cost([v.type if v else None for v in n.inputs], [o.type for o in n.outputs]) for n in inner), Cost()) if static else None
    )
    return {
        "nodes": len(graph),
        "operators": dict(Counter(n.op.name for n in inner).most_common()),
        "kernels": sum(n.op.name == "Fused" for n in graph),
        "parameters": sum(tensors.values()),
        "weights_bytes": weights_bytes(graph),
        "macs": cost.macs if cost else None,
        "bytes_moved": cost.bytes if cost else None,
    }


def _print(facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    for label in ("inputs", "outputs"):
        for name, kind in facts[label].items():
            console.print(f"{label[:-1]} {name}: {kind}", markup=False)
    if facts["unbound_dimensions"]:
        console.print(f"unbound dimensions: {', '.join(facts['unbound_dimensions'])} (bind them with --dim)", markup=False)
    table = Table("", "imported", f"-{facts['level']}")
    kernels = ["kernels"] if any(facts[column]["kernels"] for column in ("imported", "optimised")) else []
    for key in ("nodes", *kernels, "parameters", "weights_bytes", "macs", "bytes_moved"):
        table.add_row(
            key.replace("_", " "), *(f"{v:,}" if (v := facts[column][key]) is not None else "?" for column in ("imported", "optimised"))
        )
    for name in facts["imported"]["operators"] | facts["optimised"]["operators"]:
        table.add_row(f"  {name}", *(str(facts[column]["operators"].get(name, 0)) for column in ("imported", "optimised")))
    console.print(table)
