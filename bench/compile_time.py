"""`python -m bench.compile_time`: seconds and memory that compiling takes, cold and warm; writes `bench/results/compile_time.{json,md}`."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.machine import machine
from bench.random_weights import with_random_weights
from bench.report import RESULTS
from lepton_compiler import zoo
from lepton_compiler.cli.options import Parser, add_common_options, add_level_option, positive
from lepton_compiler.cli.outcome import guarded, print_json
from lepton_compiler.errors import LeptonError

MODELS = (
    "onnx/light_resnet50",
    "onnx/light_shufflenet",
    "rapidocr/ch_ppocr_mobile_v2_0_cls_infer",
    "rapidocr/ch_pp_ocrv4_rec_infer",
    "rapidocr/ch_pp_ocrv4_det_infer",
)
"""ResNet-50, and networks of the size of MobileNet."""
SAMPLING_SECONDS = 0.05
LIMIT_SECONDS = 900
EXAMPLE = """\
examples:
  python -m bench.compile_time
  python -m bench.compile_time magika -O2 --no-write
  python -m bench.compile_time kokoro.onnx --option=--dim=sequence_length=64 --option=--bound=/encoder/Range=400
The first compilation of a model begins without any compiled kernel, the second finds all of them.
"""


@dataclass(frozen=True)
class Row:
    """What compiling one model took: each figure without (cold) and with (warm) its kernels in the cache.

    Attributes:
        model: its id in the list, or the name of its file.
        cold_seconds: wall time of `leptonc`, the interpreter's start included.
        warm_seconds: the same again.
        cold_peak_mib: largest total of the resident memory of `leptonc` and its compiler processes, as sampled.
        warm_peak_mib: the same again.
        kernels: kernel calls.
        arena_bytes: scratch memory.
        arena_lower_bound: what no plan could go below.
    """

    model: str
    cold_seconds: float
    warm_seconds: float
    cold_peak_mib: int
    warm_peak_mib: int
    kernels: int
    arena_bytes: int
    arena_lower_bound: int


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = Parser(prog="python -m bench.compile_time", description="Measure compilation.", epilog=EXAMPLE)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="parts of ids, or files; ResNet-50 and four small ones if absent")
    parser.add_argument(
        "--option", action="append", default=[], metavar="OPTION", help="a further option of leptonc, as --option=--dim=n=4"
    )
    parser.add_argument("--jobs", type=positive, metavar="N", help="compiler processes at once (default: one per core)")
    parser.add_argument("--no-write", action="store_true", help="do not write bench/results")
    add_level_option(parser)
    add_common_options(parser)
    parser.set_defaults(level="3")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    args = make_parser().parse_args(argv)
    return guarded("compile_time", lambda: _run(args), verbose=args.verbose, as_json=args.json)


def _run(args: argparse.Namespace) -> int:
    options = [f"-O{args.level}", *args.option, *(["--jobs", str(args.jobs)] if args.jobs else [])]
    rows = []
    for name in args.models or MODELS:
        rows.append(measure(name, options))
        if not args.quiet and not args.json:
            print(_line(rows[-1]), file=sys.stderr)
    results = {"machine": {**machine(()), "cores": os.cpu_count()}, "options": options, "rows": [asdict(r) for r in rows]}
    if not args.no_write:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "compile_time.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        (RESULTS / "compile_time.md").write_text(markdown(rows), encoding="utf-8")
    if args.json:
        print_json(results)
    return 0


def measure(name: str, options: Sequence[str]) -> Row:
    """Compile a model twice with a fresh cache.

    Raises:
        LeptonError: `leptonc` failed, with what it printed.
    """
    path, shapes, label = _model(name)
    inputs = [f"--input={key}={'x'.join(map(str, shape))}" for key, shape in shapes.items()]
    with tempfile.TemporaryDirectory(prefix="lepton-compile-time-") as folder:
        command = [str(path), *inputs, *options, "-o", f"{folder}/out", "--json"]
        (cold, cold_peak, facts), (warm, warm_peak, _) = [_compile(command, Path(folder) / "cache") for _ in range(2)]
    sizes = [facts[key] for key in ("kernels", "arena_bytes", "arena_lower_bound")]
    return Row(label, round(cold, 2), round(warm, 2), cold_peak >> 20, warm_peak >> 20, *sizes)


def _model(name: str) -> tuple[Path, Mapping[str, tuple[int, ...]], str]:
    if Path(name).is_file():
        return Path(name), {}, Path(name).name
    entry = zoo.find(name)
    return with_random_weights(zoo.fetch(entry)), entry.shapes, entry.id


def _compile(arguments: Sequence[str], cache: Path) -> tuple[float, int, dict[str, Any]]:
    """Seconds, bytes of memory at the peak, and the JSON object of one run of `leptonc`."""
    environment = {**os.environ, "LEPTON_CACHE": str(cache)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    start, peak = time.perf_counter(), 0
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "lepton_compiler.cli.leptonc", *arguments], stdout=out, stderr=err, env=environment
        )
        while process.poll() is None:
            peak = max(peak, _resident(process.pid))
            if time.perf_counter() - start > LIMIT_SECONDS:
                process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(SAMPLING_SECONDS)
        seconds = time.perf_counter() - start
        out.seek(0), err.seek(0)
        if process.returncode:
            raise LeptonError(f"leptonc failed with status {process.returncode}: {err.read().decode()[-2000:].strip()}", where=arguments[0])
        return seconds, peak, json.loads(out.read())


def _resident(pid: int) -> int:
    """Resident bytes of a process and its descendants; 0 where /proc does not tell."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        children = [c for task in Path(f"/proc/{pid}/task").iterdir() for c in (task / "children").read_text().split()]
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(_resident(int(c)) for c in children)


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a table in Markdown."""
    lines = ["| model | cold s | warm s | peak MiB | kernels | arena KiB | lower bound KiB |", "|---|---|---|---|---|---|---|"]
    for r in rows:
        sizes = f"{r.arena_bytes / 1024:,.0f} | {r.arena_lower_bound / 1024:,.0f}"
        lines.append(f"| {r.model} | {r.cold_seconds:.1f} | {r.warm_seconds:.1f} | {r.cold_peak_mib:,} | {r.kernels} | {sizes} |")
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    memory = f"{row.cold_peak_mib} MiB, arena {row.arena_bytes:,} of at least {row.arena_lower_bound:,} bytes"
    return f"{row.model}: {row.cold_seconds} s cold, {row.warm_seconds} s warm, {memory}"


if __name__ == "__main__":
    sys.exit(main())
