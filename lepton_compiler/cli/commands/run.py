"""`lepton run`: run a model, or an artefact that `leptonc` wrote, once."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_compiler.cli import options
from lepton_compiler.cli.outcome import print_json

if TYPE_CHECKING:
    import numpy as np

    from lepton_compiler.runtime.emulator import Stats
    from lepton_compiler.runtime.model import CompiledModel

EXAMPLE = """\
examples:
  lepton run model.onnx --feed x=image.npy --save outputs.npz
  lepton run build/model
  lepton run model.onnx --target cortex-m4
What was compiled for another machine runs in an emulator.
"""


def add(subparsers: Any) -> None:
    """Add the subcommand's options."""
    parser = subparsers.add_parser("run", help="run a model once", description="Run a model, or a compiled folder, once.", epilog=EXAMPLE)
    parser.add_argument("model", metavar="MODEL|FOLDER", help="a model, which is compiled first, or what `leptonc` wrote")
    parser.add_argument("--feed", action="append", default=[], metavar="NAME=FILE.npy", help="an input, also FILE.npz (default: random)")
    parser.add_argument("--seed", type=int, default=0, help="of random inputs (default 0)")
    parser.add_argument("--save", metavar="FILE.npz", help="write the outputs")
    parser.add_argument("--evaluate", action="store_true", help="use the numpy reference instead of compiled code")
    options.add_level_option(parser)
    options.add_target_options(parser)
    options.add_model_options(parser)
    options.add_common_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the model; prints shape, type and range of each output."""
    import numpy as np

    outputs, stats = _outputs(args)
    if args.save:
        with open(args.save, "wb") as file:
            np.savez(file, **outputs)  # type: ignore[arg-type]
    if args.json:
        counts = {"instructions": stats.instructions, "peak_stack_bytes": stats.peak_stack_bytes} if stats else {}
        print_json({"outputs": {name: _summary(array) for name, array in outputs.items()}, **counts})
    elif not args.quiet:
        for name, array in outputs.items():
            facts = _summary(array)
            print(f"{name}: {facts['dtype']}{facts['shape']} min {facts['min']} mean {facts['mean']} max {facts['max']}")
        if stats:
            print(f"emulated: {stats.instructions:,} instructions, {stats.peak_stack_bytes:,} bytes of stack")
    return 0


def _outputs(args: argparse.Namespace) -> tuple[dict[str, np.ndarray], Stats | None]:
    """The outputs, and what the run took if it was emulated."""
    import lepton_compiler as lc
    from lepton_compiler.feeds import feeds_for_rows, random_feeds, read_feeds

    given = read_feeds(args.feed)
    if Path(args.model).is_dir():
        model = lc.load(args.model)
        return _run(model, model.manifest["target"]["name"], feeds_for_rows(model.manifest["inputs"], args.seed, given))
    shapes = {**{n: a.shape for n, a in given.items()}, **dict(args.input)}
    graph = lc.import_model(args.model, inputs=shapes, dims=dict(args.dim))
    feeds = random_feeds(graph.inputs, args.seed, given)
    if args.evaluate:
        return lc.evaluate(graph, feeds), None
    model = lc.compile(graph, args.target, args.level, threads=args.threads, cpu=args.cpu, precision=args.precision)
    return _run(model, args.target, feeds)


def _run(model: CompiledModel, target: str, feeds: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], Stats | None]:
    """Run a model here, or in the emulator if it is for another machine."""
    from lepton_compiler.target import runs_here

    return (model.run(feeds), None) if runs_here(target) else model.emulate(feeds)


def _summary(array: np.ndarray) -> dict[str, Any]:
    """Element type, shape, and range of the finite values; null where there are none."""
    import numpy as np

    facts: dict[str, Any] = {"dtype": str(array.dtype), "shape": list(array.shape), "min": None, "mean": None, "max": None}
    values = np.abs(array) if np.iscomplexobj(array) else array.astype(np.float64)
    values = values[np.isfinite(values)]
    if values.size:
        facts |= {"min": float(f"{values.min():.6g}"), "mean": float(f"{values.mean():.6g}"), "max": float(f"{values.max():.6g}")}
    return facts
