"""`python -m bench.calibration_memory`: time and memory of quantizing PP-OCR's text detection with 200 pages of 640 x 640.

Pages are drawn: words of this repository's documentation on paper of several shades. `leptonc` runs as a user runs it; counted is the peak
of the resident memory of the command and all its processes together, so that pages that several share count for each.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import machine
from lepton_compiler import zoo
from lepton_compiler.cli.options import Parser, add_common_options
from lepton_compiler.cli.outcome import guarded, print_json
from lepton_compiler.errors import LeptonError, MissingDependency

MODEL = "ch_pp_ocrv4_det"
LIMIT = 2 * 10**9
"""Bytes that the command may take."""
PREPROCESSING = "{mean=123.7+116.3+103.5,std=58.4+57.1+57.4,channels=bgr}"
TIMEOUT = 1800
"""Seconds that the command may take."""
PERIOD = 0.05
"""Seconds between two looks at the memory."""


def draw_pages(folder: Path, count: int, size: int) -> None:
    """Write `count` pages of text as PNG files of `size` x `size` pixels.

    Raises:
        MissingDependency: pillow is not installed.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise MissingDependency("pages are drawn with pillow", hint="pip install pillow") from error
    docs = sorted((Path(__file__).parent.parent / "docs").glob("*.md"))
    words = " ".join(doc.read_text(encoding="utf-8") for doc in docs).replace("|", " ").split()
    rng = np.random.default_rng(0)
    for k in range(count):
        shade = tuple(int(s) for s in rng.integers(150, 256, 3))
        image = Image.new("RGB", (size, size), shade)
        draw, y = ImageDraw.Draw(image), int(rng.integers(4, 40))
        while y < size - 20:
            height = int(rng.integers(12, 44))
            first = int(rng.integers(0, len(words) - 12))
            ink = tuple(int(s) for s in rng.integers(0, 100, 3))
            draw.text((int(rng.integers(4, 80)), y), " ".join(words[first : first + 8]), ink, font=ImageFont.load_default(height))
            y += height + int(rng.integers(6, 30))
        image.save(folder / f"{k:04}.png")


def measure(model: Path, count: int, size: int, options: Sequence[str]) -> dict[str, Any]:
    """Quantize and compile once: `{"seconds", "cpu_seconds", "peak_bytes", "stages": {name: seconds}, "peaks": {name: bytes}, "summary"}`.

    Raises:
        LeptonError: the command failed.
    """
    with tempfile.TemporaryDirectory(prefix="lepton-") as name:
        folder = Path(name)
        (folder / "pages").mkdir()
        draw_pages(folder / "pages", count, size)
        command = [
            *(
                sys.executable,
                "-m",
                "lepton_compiler.cli.leptonc",
                str(model),
                "-o",
                str(folder / "out"),
                "--input",
                f"x=1x3x{size}x{size}",
            ),
            *("--quantize", "int8", "--calibrate", f"{folder / 'pages'}{PREPROCESSING}", "-v", *options),
        ]
        return _watched(command)


def _watched(command: Sequence[str]) -> dict[str, Any]:
    """Run a command that tells of its stages on stderr, and watch its memory."""
    begun, spent, lines = time.monotonic(), cpu_seconds(), list[str]()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    now, peaks = 0, dict[str, int]()
    assert process.stderr is not None
    reader = threading.Thread(target=lambda: lines.extend(process.stderr or ()), daemon=True)
    reader.start()
    seen = 0
    while process.poll() is None:
        now = max(now, tree_bytes(process.pid))
        if len(lines) > seen:  # a stage has ended
            for line in lines[seen:]:
                peaks[_stage(line)] = max(peaks.get(_stage(line), 0), now)
            now, seen = 0, len(lines)
        if time.monotonic() - begun > TIMEOUT:
            process.kill()
            raise LeptonError(f"the command took more than {TIMEOUT} s")
        time.sleep(PERIOD)
    reader.join(10)
    if process.returncode:
        raise LeptonError("".join(lines[-4:]).strip() or "the command failed")
    output = process.stdout.read() if process.stdout is not None else ""
    peaks = {name: size for name, size in peaks.items() if name}
    stages: dict[str, float] = {}
    for line in lines:
        if _stage(line):
            stages[_stage(line)] = round(stages.get(_stage(line), 0.0) + float(line.split()[-2]), 2)
    peak = max([now, *peaks.values()])
    return {
        "seconds": round(time.monotonic() - begun, 1), "cpu_seconds": round(cpu_seconds() - spent, 1), "peak_bytes": peak, "stages": stages, "peaks": peaks, "summary": output.strip()
    }  # fmt: skip


def cpu_seconds() -> float:
    """Processor time of all processes that this one started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _stage(line: str) -> str:
    """The name of the stage that a line of `leptonc -v` tells the end of."""
    parts = line.strip().rsplit(": ", 1)
    return parts[0].removeprefix("leptonc: ") if len(parts) == 2 and parts[1].endswith(" s") else ""


def tree_bytes(root: int) -> int:
    """Resident bytes of a process and all that it started, as Linux tells them."""
    parents, sizes = dict[int, int](), dict[int, int]()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended
            parents[int(entry.name)], sizes[int(entry.name)] = int(fields[1]), int(fields[21]) * 4096
    total, pending = 0, [root]
    while pending:
        process = pending.pop()
        total += sizes.get(process, 0)
        pending += [child for child, parent in parents.items() if parent == process]
    return total


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 where the command takes more than 2 GB."""
    parser = Parser(prog="python -m bench.calibration_memory", description="Measure what quantizing with many large samples takes.")
    parser.add_argument("--model", default=MODEL, help=f"part of an id of the zoo (default: {MODEL})")
    parser.add_argument("--pages", type=int, default=200, help="how many samples (default: 200)")
    parser.add_argument("--size", type=int, default=640, help="their height and width (default: 640)")
    parser.add_argument("--option", action="append", default=[], help="a further option of leptonc, as --option=--max-drop=1%%")
    add_common_options(parser)
    args = parser.parse_args(argv)
    return guarded("bench.calibration_memory", lambda: _run(args), verbose=args.verbose, as_json=args.json)


def _run(args: argparse.Namespace) -> int:
    row = measure(zoo.fetch(zoo.find(args.model)), args.pages, args.size, args.option)
    if args.json:
        print_json({"machine": machine([]), **row})
    else:
        for name, seconds in row["stages"].items():
            print(f"{seconds:8.1f} s  {row['peaks'].get(name, 0) / 1e6:8.0f} MB  {name}")
        print(
            f"{row['seconds']:8.1f} s  {row['peak_bytes'] / 1e6:8.0f} MB  in all, of {LIMIT / 1e6:.0f} MB; {row['cpu_seconds']:.1f} s of processor time"
        )
        print(json.dumps(row["summary"].splitlines()[-1] if row["summary"] else ""))
    return 0 if row["peak_bytes"] <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
