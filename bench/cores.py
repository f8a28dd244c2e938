"""`python -m bench.cores`: small models on every Cortex-M in the emulator, held against the evaluator; writes `bench/results/cores.json` and `cores.md`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lepton_compiler as lc
from bench.tiny import feeds_of, models, read
from lepton_compiler.cli.options import Parser, add_common_options, add_level_option
from lepton_compiler.cli.outcome import guarded, print_json
from lepton_compiler.verification import compare, tolerance_of

RESULTS = Path(__file__).parent / "results"
CORES = ("cortex-m0plus", "cortex-m3", "cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55")
EXAMPLE = """\
example:
  python -m bench.cores
  python -m bench.cores model.onnx --core cortex-m33 --core cortex-m55 --no-write
Results are written after each model, so that `--resume` goes on where a run was interrupted.
"""


@dataclass(frozen=True)
class Cell:
    """One model on one core.

    Attributes:
        model: name of the file.
        core: name of the target.
        ok: whether the result is the evaluator's, within the tolerance of `--verify`.
        max_rel: largest error relative to the range of an output; 0 means equal bit for bit.
        instructions: of one run.
        arena: bytes.
        code: bytes of machine code and its constants, without weights.
        stack: bound of the stack in bytes.
        stack_peak: bytes of stack that were used.
        seconds: to compile and to emulate.
    """

    model: str
    core: str
    ok: bool
    max_rel: float
    instructions: int
    arena: int
    code: int
    stack: int
    stack_peak: int
    seconds: float


def measure(path: Path, core: str, level: str) -> Cell:
    """Compile a model for a core, run it, compare."""
    start = time.perf_counter()
    graph, _ = read(path)
    feeds = feeds_of(graph)
    model = lc.compile(graph, core, level)
    outputs, stats = model.emulate(feeds)
    seconds = time.perf_counter() - start
    check, facts = compare(lc.evaluate(graph, feeds), outputs, "evaluator", tolerance_of(graph)), model.manifest
    return Cell(
        path.stem, core, check.ok, check.max_rel, stats.instructions or 0, facts["arena_bytes"], facts["code_bytes"],
        facts["stack_bytes"], stats.peak_stack_bytes, round(seconds, 1),
    )  # fmt: skip


def markdown(cells: Sequence[Cell]) -> str:
    """A table of models and cores."""
    cores = [core for core in CORES if any(cell.core == core for cell in cells)]
    lines = [
        "Executed instructions of one run in millions, in the emulator; in brackets the largest error beside the evaluator, relative to the",
        "range of the output, where the two are not equal bit for bit. `python -m bench.cores` prints it.",
        "",
        f"| model | {' | '.join(cores)} |",
        f"|---|{'---|' * len(cores)}",
    ]
    for name in dict.fromkeys(cell.model for cell in cells):
        found = {cell.core: cell for cell in cells if cell.model == name}
        lines.append(f"| {name} | {' | '.join(_shown(found[core]) if core in found else '-' for core in cores)} |")
    return "\n".join([*lines, ""])


def _shown(cell: Cell) -> str:
    error = f" ({cell.max_rel:.0e})" if cell.max_rel else ""
    return f"{cell.instructions / 1e6:.2f}{error}{'' if cell.ok else ' **wrong**'}"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write; 1 where a result is wrong."""
    parser = Parser(prog="python -m bench.cores", description="Run small models on every emulated Cortex-M.", epilog=EXAMPLE)
    parser.add_argument("models", nargs="*", type=Path, metavar="MODEL", help="ONNX models (default: ten of them)")
    parser.add_argument("--core", action="append", choices=CORES, help="only this core; may be repeated")
    parser.add_argument("--resume", action="store_true", help="keep what bench/results has, and measure what is missing")
    parser.add_argument("--no-write", action="store_true", help="do not write bench/results")
    add_level_option(parser)
    add_common_options(parser)
    parser.set_defaults(level="3")
    args = parser.parse_args(argv)
    return guarded("bench.cores", lambda: _main(args), verbose=args.verbose, as_json=args.json)


def _main(args: argparse.Namespace) -> int:
    cores, cells = args.core or CORES, _known(f"O{args.level}") if args.resume else []
    for path in args.models or models():
        for core in cores:
            if any((cell.model, cell.core) == (path.stem, core) for cell in cells):
                continue
            cells.append(measure(path, core, args.level))
            if not args.quiet:
                print(f"{cells[-1].model} on {core}: {_shown(cells[-1])} M instructions, {cells[-1].seconds} s", file=sys.stderr)
            if not args.no_write:
                _write(cells, f"O{args.level}")
    print_json({"cells": [asdict(cell) for cell in cells]}) if args.json else print(markdown(cells))
    return 0 if all(cell.ok for cell in cells) else 1


def _known(level: str) -> list[Cell]:
    file = RESULTS / "cores.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"level": level, "cells": []}
    return [Cell(**row) for row in found["cells"]] if found["level"] == level else []


def _write(cells: Sequence[Cell], level: str) -> None:
    RESULTS.mkdir(exist_ok=True)
    rows = {"level": level, "cells": [asdict(cell) for cell in cells]}
    (RESULTS / "cores.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "cores.md").write_text(markdown(cells), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
