"""`python -m bench.memory`: the memory that running a model takes, beside ONNX Runtime, each in a process of its own.

Counted is the peak of the resident memory above what the process had before it loaded the model: with numpy, the inputs and, for ONNX
Runtime, its library in memory. Weights that are mapped from a file count when they are touched, for both.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import lepton_compiler as lc
from bench import report
from bench.machine import machine
from bench.random_weights import with_random_weights
from lepton_compiler import peers, zoo
from lepton_compiler.cli.options import Parser, add_common_options, add_level_option
from lepton_compiler.cli.outcome import guarded, print_json
from lepton_compiler.cli.progress import Progress
from lepton_compiler.errors import LeptonError, UsageError
from lepton_compiler.feeds import feeds_from_recipes

PROBE = Path(__file__).with_name("memory_probe.py")
RUNS = 5
TIMEOUT = 300
"""Seconds that one process may take."""


def measure(entry: zoo.Entry, level: int | str = 3, stage: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """One model: `{"model", "weights_bytes", "arena_bytes", "arena_lower_bound", "lepton": {...}, "onnxruntime": {...}}`, all sizes in bytes.

    Of each runtime: `{peak_bytes, after_bytes, baseline_bytes}`.

    Raises:
        LeptonError: the model cannot be compiled, or a process failed.
    """
    stage(f"{entry.id}: compile")
    path = with_random_weights(zoo.fetch(entry))
    model = lc.compile(path, level=level, inputs=entry.shapes)
    with tempfile.TemporaryDirectory(prefix="lepton-") as name:
        folder = Path(name)
        model.save(folder / "artefact")
        np.savez(folder / "feeds.npz", allow_pickle=False, **feeds_from_recipes(entry.inputs))
        stage(f"{entry.id}: measure")
        ours = probe("lepton", folder / "artefact", folder / "feeds.npz")
        theirs = probe("onnxruntime", path, folder / "feeds.npz")
    sizes = {key: model.manifest[key] for key in ("weights_bytes", "arena_bytes", "arena_lower_bound")}
    return {"model": entry.id, **sizes, "lepton": ours, "onnxruntime": theirs}


def probe(kind: str, model: Path, feeds: Path, runs: int = RUNS) -> dict[str, int]:
    """What the process of `bench/memory_probe.py` says.

    Raises:
        LeptonError: it failed, or took too long.
    """
    command = [sys.executable, str(PROBE), kind, str(model), str(feeds), str(runs)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired as error:
        raise LeptonError(f"the run took more than {TIMEOUT} s", where=kind) from error
    if done.returncode:
        raise LeptonError(f"the run failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}", where=kind)
    found: dict[str, int] = json.loads(done.stdout)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write; 1 where a model takes more than in ONNX Runtime."""
    parser = Parser(prog="python -m bench.memory", description="Measure the memory that running a model takes, beside ONNX Runtime.")
    parser.add_argument("models", nargs="*", metavar="MODEL", help="parts of ids; all ONNX models if absent")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="write memory.json and .md there (default: bench/results, if all models run)"
    )
    add_level_option(parser)
    add_common_options(parser)
    parser.set_defaults(level="3")
    args = parser.parse_args(argv)
    return guarded("bench.memory", lambda: _run(args), verbose=args.verbose, as_json=args.json)


def _run(args: argparse.Namespace) -> int:
    chosen = [e for e in zoo.entries() if e.format == "onnx" and (not args.models or any(m in e.id for m in args.models))]
    if not chosen:
        raise UsageError(f"no model is called '{args.models[0]}'", hint="lepton zoo list")
    peers.find("onnxruntime")
    rows = []
    with Progress("bench.memory", args.verbose, args.quiet) as progress:
        for entry in chosen:
            rows.append(measure(entry, args.level, progress))
            if not args.quiet:
                print(_line(rows[-1]), file=sys.stderr, flush=True)
    results = {"machine": machine(["onnxruntime"]), "level": f"O{args.level}", "runs": RUNS, "rows": rows}
    folder = args.output or (None if args.models else report.RESULTS)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        report.write(folder, report.README if folder.resolve() == report.RESULTS else None)
    if args.json:
        print_json(results)
    return 0 if all(row["lepton"]["peak_bytes"] <= row["onnxruntime"]["peak_bytes"] for row in rows) else 1


def _line(row: dict[str, Any]) -> str:
    ours, theirs = row["lepton"]["peak_bytes"], row["onnxruntime"]["peak_bytes"]
    return f"{row['model']}: lepton {ours / 2**20:.2f} MiB, onnxruntime {theirs / 2**20:.2f} MiB{'' if ours <= theirs else ' MORE'}"


if __name__ == "__main__":
    sys.exit(main())
