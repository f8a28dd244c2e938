"""`python -m bench.cuda_artefacts`: every model compiled for GPUs, its machine code looked at, the artefact compared with a second one."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bench.cubins import cubins_of, find_cuobjdump, inspect
from bench.cuda_cases import TARGET, Case, add_case_options, cases, kept, precisions, write
from bench.report import RESULTS
from lepton_compiler.backends.tvm.cuda.compilers import find_compiler
from lepton_compiler.cli.options import Parser, add_common_options, positive
from lepton_compiler.cli.outcome import guarded, print_json
from lepton_compiler.errors import LeptonError
from lepton_compiler.identity import compiler_files
from lepton_compiler.target import parse_target

STEM = "cuda_artefacts"
LIMIT_SECONDS = 1800
"""Of one compilation."""
EXAMPLE = """\
examples:
  python -m bench.cuda_artefacts
  python -m bench.cuda_artefacts rapidocr --precision fp16 --once
  python -m bench.cuda_artefacts kokoro.onnx --dim sequence_length=64 --bound /encoder/Range=400
Needs no GPU. Each model is compiled twice, in different folders: with the user's cache, and with an empty one. --once leaves the second out.
NVRTC compiles, where it is installed, or the nvcc that LEPTON_NVCC names: the table says which. --resume keeps the rows that this very compiler made;
of others it keeps those whose artefact is the same bytes when it is compiled with the cache, so that a table is quickly brought up to date.
"""


@dataclass
class Row:
    """What was found about one artefact; `error` says what is wrong with it.

    Attributes:
        model: its id in the list, or the name of its file.
        precision: of products.
        compiler: of CUDA C, with its version.
        launches: of kernels in a run, where data does not decide.
        kernels: distinct functions of the GPU.
        serial: kernels that one thread does.
        seconds: of the compilation with an empty cache; of the other one, without that.
        mib: the library.
        registers: largest number of a kernel; None where there is no `cuobjdump`.
        local: bytes of local memory of each thread, by kernel and architecture that has any; None likewise.
        identical: whether the second artefact has the same bytes; None where there is none.
        digest: of all files of the artefact.
        stamp: of the sources that made it.
    """

    model: str
    precision: str
    compiler: str = ""
    launches: int = 0
    kernels: int = 0
    serial: int = 0
    seconds: float = 0.0
    mib: float = 0.0
    registers: int | None = None
    local: dict[str, int] | None = None
    identical: bool | None = None
    digest: str = ""
    stamp: str = ""
    error: str = ""

    def cells(self) -> list[str]:
        """The row of a table."""
        if self.error:
            return [self.model, self.precision, self.compiler, self.error, *[""] * 7]
        local = "not looked at" if self.local is None else str(max(self.local.values(), default=0))
        identical = {None: "not tried", True: "yes", False: "NO"}[self.identical]
        counts = [self.launches, self.kernels, self.serial, f"{self.seconds:.1f}", f"{self.mib:.1f}"]
        return [self.model, self.precision, self.compiler, *map(str, counts), str(self.registers or "not looked at"), local, identical]


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = Parser(prog="python -m bench.cuda_artefacts", description="Compile models for GPUs and look at the result.", epilog=EXAMPLE)
    add_case_options(parser)
    parser.add_argument("--target", default=TARGET, metavar="NAME", help=f"architectures (default {TARGET})")
    parser.add_argument("--once", action="store_true", help="do not compile a second time to compare")
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="models at once (default 1)")
    add_common_options(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Compile, look, print and write."""
    args = make_parser().parse_args(argv)
    return guarded("bench.cuda_artefacts", lambda: _run(args), verbose=args.verbose, as_json=args.json)


def _run(args: argparse.Namespace) -> int:
    folder = args.output or (None if args.models else RESULTS)
    rows = {key: Row(**row) for key, row in kept((folder or RESULTS) / f"{STEM}.json", ("model", "precision"), args.resume).items()}
    chosen = cases(args)
    wanted = [(case, precision) for precision in precisions(args) for case in chosen]
    cuobjdump, stamp = find_cuobjdump(), stamp_of(args.target)
    facts: dict[str, Any] = {}

    def measured(item: tuple[Case, str]) -> Row:
        case, precision = item
        old = rows.get((case.name, precision))
        return measure(case, precision, args.target, args.once, cuobjdump, stamp, old)

    order = list(dict.fromkeys([*rows, *((case.name, precision) for case, precision in wanted)]))
    with ThreadPoolExecutor(args.jobs) as pool:
        running = {pool.submit(measured, item): item for item in wanted}
        for done in as_completed(running):
            case, precision = running[done]
            rows[case.name, precision] = done.result()
            if not args.quiet:
                print("  ".join(rows[case.name, precision].cells()), file=sys.stderr, flush=True)
            listed = [rows[key] for key in order if key in rows]
            facts = {"target": args.target, "cuobjdump": cuobjdump is not None, "rows": [asdict(row) for row in listed]}
            if folder is not None:
                write(folder, STEM, facts, table(listed, args.target))
    if args.json:
        print_json(facts)
    return 1 if any(row.error or row.identical is False for row in rows.values()) else 0


def stamp_of(target: str) -> str:
    """Hash of lepton's sources, of the compiler for CUDA and of the architectures.

    Raises:
        MissingDependency: there is no compiler for CUDA.
    """
    digest = hashlib.sha256(f"{target} {find_compiler().version}".encode())
    for path in sorted(compiler_files()):
        digest.update(Path(path).read_bytes())
    return digest.hexdigest()[:16]


def measure(case: Case, precision: str, target: str, once: bool, cuobjdump: str | None, stamp: str = "", old: Row | None = None) -> Row:
    """Compile one model, and look at what came of it.

    Args:
        case, precision, target: what to compile.
        once: compile it once only.
        cuobjdump: the program, where there is one.
        stamp: of the sources that compile it.
        old: what an earlier run found, which stays if all that is wanted is in it and nothing has changed.
    """
    complete = old is not None and not old.error and (once or old.identical is not None) and (cuobjdump is None or old.local is not None)
    if old is not None and complete and old.stamp == stamp:
        return old
    row = Row(case.name, precision, find_compiler().version, stamp=stamp)
    command = [str(case.path), *case.options(), "--target", target, "-O3", "--precision", precision]
    try:
        with tempfile.TemporaryDirectory(prefix="lepton-cuda-") as first:
            row.seconds, files = _compile(command, Path(first), None)
            row.digest = _digest(files)
            if old is not None and complete and old.digest == row.digest:
                return replace(old, stamp=stamp)
            _describe(row, files, target, cuobjdump)
            if not once:
                with tempfile.TemporaryDirectory(prefix="lepton-cuda-again-") as second:
                    row.seconds, again = _compile(command, Path(second), Path(second, "cache"))
                row.identical = files == again
    except LeptonError as error:
        row.error = str(error).strip().replace("\n", " ").replace("|", "/")
    return row


def _digest(files: Mapping[str, bytes]) -> str:
    """Hash of names and contents."""
    digest = hashlib.sha256()
    for name, data in sorted(files.items()):
        digest.update(f"{name} {len(data)} ".encode() + data)
    return digest.hexdigest()


def _describe(row: Row, files: Mapping[str, bytes], target: str, cuobjdump: str | None) -> None:
    """Fill in what the artefact tells of itself, and what is in its code.

    Raises:
        LeptonError: code for an architecture, or of a kernel, is not there.
    """
    manifest = json.loads(next(data for name, data in files.items() if name.endswith(".json")))
    library = next(data for name, data in files.items() if name.endswith(".so"))
    names = {launch["symbol"] for code in manifest["code"] for launch in code["launches"]}
    row.launches, row.kernels, row.serial = manifest["launches"], len(names), len(manifest["serial"])
    row.mib = round(len(library) / (1 << 20), 2)
    codes = cubins_of(library, manifest)
    if cuobjdump is None:
        return
    found = inspect(codes, cuobjdump)
    if (there := [c.architecture for c in found]) != (wanted := [gpu.architecture for gpu in parse_target(target).gpus]):
        raise LeptonError(f"there is code for {', '.join(there)} instead of {', '.join(wanted)}")
    for cubin in found:
        if missing := names - set(cubin.kernels):
            raise LeptonError(f"kernel {min(missing)} is not in the code for {cubin.architecture}")
    usages = {f"{name} {cubin.architecture}": usage for cubin in found for name, usage in sorted(cubin.kernels.items())}
    row.registers = max(usage.registers for usage in usages.values())
    row.local = {name: usage.local for name, usage in usages.items() if usage.local}


def _compile(arguments: Sequence[str], folder: Path, cache: Path | None) -> tuple[float, dict[str, bytes]]:
    """Seconds of `leptonc`, and the files that it wrote.

    Raises:
        LeptonError: it failed.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
    if cache is not None:
        environment["LEPTON_CACHE"] = str(cache)
    command = [sys.executable, "-m", "lepton_compiler.cli.leptonc", *arguments, "-o", str(folder / "out"), "-q"]
    begin = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS, env=environment, cwd=folder)
    except subprocess.TimeoutExpired as error:
        raise LeptonError(f"leptonc took more than {LIMIT_SECONDS} s") from error
    if done.returncode:
        raise LeptonError(f"leptonc failed with status {done.returncode}: {done.stderr.strip()[-1000:]}")
    seconds = round(time.perf_counter() - begin, 1)
    return seconds, {path.name: path.read_bytes() for path in sorted((folder / "out").iterdir())}


def table(rows: Sequence[Row], target: str) -> str:
    """The rows as Markdown."""
    head = ["model", "precision", "compiler", "launches", "kernels", "serial", "seconds", "MiB", "registers", "local bytes", "identical"]
    lines = [f"`python -m bench.cuda_artefacts`: `--target {target} -O3`.", "", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(row.cells())} |" for row in rows]
    local = [f"- {row.model}, {row.precision}: `{name}` {size} bytes" for row in rows for name, size in (row.local or {}).items()]
    return "\n".join([*lines, *(["", "Kernels with local memory:", "", *local] if local else [])]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
