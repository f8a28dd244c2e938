"""`python -m bench.mcu`: quantized and float models on an emulated Cortex-M, beside emx-onnx-cgen; writes `mcu.json` and `mcu.md` to `bench/results`.

Numbers are executed instructions, counted in the emulator, so they do not depend on the machine that counts. The peer's C is compiled with
`arm-none-eabi-gcc -O3` for a Cortex-M4 and runs in the emulator of one. For a core with vectors, our own code without them is counted too,
and the files are called `mcu_TARGET`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import lepton_compiler as lc
from bench.tiny import feeds_of, models, read
from lepton_compiler.cli.options import Parser, add_common_options, add_level_option, byte_count
from lepton_compiler.cli.outcome import guarded, print_json
from lepton_compiler.ir.graph import Graph
from lepton_compiler.target import Target, parse_target
from lepton_compiler.verification import compare, tolerance_of

RESULTS = Path(__file__).parent / "results"
EXAMPLE = """\
example:
  python -m bench.mcu
  python -m bench.mcu model.onnx --target cortex-m4 --no-write
Without models, those of `bench/tiny.py`: four of MLPerf Tiny and one of the zoo, in int8 and in float.
"""
TIMEOUT = 600
PEER_TARGET = "cortex-m4"
FPU = (f"-mcpu={PEER_TARGET}", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16")

WRAPPER = """\
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static uint8_t heap[8 << 20];
static size_t used, peak;

void *malloc(size_t size) {
  void *at = heap + used;
  used += (size + 7) & ~(size_t)7;
  if (used > peak) peak = used;
  return used <= sizeof heap ? at : NULL;
}
void free(void *at) { (void)at; }
void *calloc(size_t n, size_t size) { return memset(malloc(n * size), 0, n * size); }

void peer();

int peer_run(void *const *inputs, void *const *outputs, uint32_t *arena) {
  used = peak = 0;
  peer(@ARGUMENTS@);
  arena[0] = (uint32_t)peak;
  return 0;
}
"""
"""Calls the peer's function with the pointers of the two structs; its heap is a stack of blocks."""


@dataclass(frozen=True)
class Row:
    """One model: sizes in bytes, instructions of one run, the largest error relative to the range of an output.

    The peer's instructions are None where it could not be had, and `error` says why. `plain_instructions` are those of our code without vectors,
    for a core that has some.
    """

    model: str
    macs: int
    instructions: int
    arena: int
    arena_bound: int
    flash: int
    code: int
    stack: int
    stack_peak: int
    max_rel: float
    peer_instructions: int | None
    error: str = ""
    plain_instructions: int | None = None

    @property
    def per_mac(self) -> float:
        """Instructions per multiply-accumulate."""
        return self.instructions / max(1, self.macs)


def measure(path: Path, target: Target, level: str, ram: int | None = None) -> Row:
    """Compile, run and count a model, within so many bytes of RAM, and the peer's C of the same.

    Raises:
        VerificationError: the result is not what the evaluator computes.
    """
    graph, dims = read(path)
    feeds = feeds_of(graph)
    model = lc.compile(graph, target, level, ram=ram)
    outputs, stats = model.emulate(feeds)
    check = compare(lc.evaluate(graph, feeds), outputs, "evaluator", tolerance_of(graph))
    check.check()
    facts = model.manifest
    macs = sum(row["macs"] for row in facts["calls"])
    try:
        peer, error = _peer(path, graph, feeds, dims), ""
    except (OSError, subprocess.SubprocessError, lc.LeptonError) as problem:
        peer, error = None, str(problem).splitlines()[0]
    return Row(
        path.stem, macs, stats.instructions or 0, facts["arena_bytes"], facts["arena_lower_bound"], facts["flash_bytes"],
        facts["code_bytes"], facts["stack_bytes"], stats.peak_stack_bytes, check.max_rel, peer, error,
        _without_vectors(graph, feeds, target, level),
    )  # fmt: skip


def _without_vectors(graph: Graph, feeds: dict[str, np.ndarray], target: Target, level: str) -> int | None:
    """Instructions on such a core without vectors; None for one that has none."""
    if not target.has_helium:
        return None
    return lc.compile(graph, f"{target.name},-mve", level).emulate(feeds)[1].instructions


def _peer(path: Path, graph: Graph, feeds: dict[str, np.ndarray], dims: dict[str, int]) -> int:
    """Instructions of one run of emx-onnx-cgen's C.

    Raises:
        OSError: it, or the C compiler, is not installed.
        subprocess.SubprocessError: one of them failed.
    """
    from lepton_compiler.runtime.emulator import Emulation
    from lepton_compiler.runtime.emulator.inprocess import InProcess

    tool, compiler = shutil.which("emx-onnx-cgen", path=str(Path(sys.executable).parent)), shutil.which("arm-none-eabi-gcc")
    if tool is None or compiler is None:
        raise FileNotFoundError("emx-onnx-cgen or arm-none-eabi-gcc is not installed")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pinned = [f"--input-dim={name}={size}" for name, size in dims.items()]
        _run([tool, "compile", "--model-name", "peer", *pinned, str(path.resolve()), "peer.c"], folder)
        pointers = [
            f"{kind}[{k}]" for kind, count in (("inputs", len(graph.inputs)), ("outputs", len(graph.outputs))) for k in range(count)
        ]
        (folder / "wrapper.c").write_text(WRAPPER.replace("@ARGUMENTS@", ", ".join(pointers)))
        flags = [*FPU, "-O3", "-nostartfiles", "--specs=nosys.specs", "-Wl,-Ttext=0x100000", "-Wl,-e,peer_run", "-w"]
        _run([compiler, *flags, "wrapper.c", "peer.c", "-lm", "-o", "peer.elf"], folder)
        code = (folder / "peer.elf").read_bytes()
    rows = {
        kind: [{"name": v.name, "dtype": v.type.dtype.name, "shape": list(v.type.static_shape)} for v in values]
        for kind, values in (("inputs", graph.inputs), ("outputs", graph.outputs))
    }
    target = parse_target(PEER_TARGET)
    emulation = Emulation(InProcess(code, "peer", [], target), {"name": "peer", "arena_bytes": 64, **rows}, target)
    _, stats = emulation.run([feeds[v.name] for v in graph.inputs])
    return stats.instructions or 0


def _run(command: Sequence[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=TIMEOUT)


def markdown(rows: Sequence[Row], target: str) -> str:
    """The table of the results."""
    vectors = any(r.plain_instructions for r in rows)
    plain_title, rule = (" without vectors (M) | times as many |", "---|---|") if vectors else ("", "")
    command = "`python -m bench.mcu`" if target == PEER_TARGET else f"`python -m bench.mcu --target {target}`"
    lines = [
        f"One run on an emulated {target}: executed instructions in millions, sizes in bytes, the largest error beside the evaluator relative to the "
        f"range of the output. {command} prints it.",
        *([f"emx-onnx-cgen's code is that of a {PEER_TARGET}."] if target != PEER_TARGET else []),
        "",
        f"| model | error | MACs (M) | instructions (M) | per MAC |{plain_title} emx-onnx-cgen (M) | ratio | arena | its lower bound | code | flash "
        "| stack, bound | stack, seen |",
        f"|---|---|---|---|---|{rule}---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        peer = f"{r.peer_instructions / 1e6:.2f} | {r.instructions / r.peer_instructions:.2f}" if r.peer_instructions else "- | -"
        plain = f" {r.plain_instructions / 1e6:.2f} | {r.plain_instructions / r.instructions:.1f} |" if r.plain_instructions else ""
        lines.append(
            f"| {r.model} | {r.max_rel:.1g} | {r.macs / 1e6:.2f} | {r.instructions / 1e6:.2f} | {r.per_mac:.2f} |{plain} {peer} | {r.arena:,} "
            f"| {r.arena_bound:,} | "
            f"{r.code:,} | {r.flash:,} | {r.stack:,} | {r.stack_peak:,} |"
        )
    return "\n".join([*lines, ""])


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    parser = Parser(prog="python -m bench.mcu", description="Count instructions on an emulated Cortex-M.", epilog=EXAMPLE)
    parser.add_argument("models", nargs="*", type=Path, metavar="MODEL", help="ONNX models (default: ten of them)")
    parser.add_argument("--target", default="cortex-m4", help="a Cortex-M (default cortex-m4)")
    parser.add_argument("--ram", type=byte_count, metavar="SIZE", help="what the models may take, as 32K; results are not written then")
    parser.add_argument("--no-write", action="store_true", help="do not write bench/results")
    add_level_option(parser)
    add_common_options(parser)
    parser.set_defaults(level="3")
    args = parser.parse_args(argv)
    return guarded("bench.mcu", lambda: _main(args), verbose=args.verbose, as_json=args.json)


def _main(args: argparse.Namespace) -> int:
    target = parse_target(args.target)
    rows = []
    for path in args.models or models():
        rows.append(measure(path, target, args.level, args.ram))
        if not args.quiet:
            print(
                f"{rows[-1].model}: {rows[-1].instructions:,} instructions, peer {rows[-1].peer_instructions} {rows[-1].error}",
                file=sys.stderr,
            )
    results: dict[str, Any] = {"target": args.target, "level": f"O{args.level}", "rows": [asdict(r) for r in rows]}
    if not args.no_write and args.ram is None:
        RESULTS.mkdir(exist_ok=True)
        name = "mcu" if args.target == PEER_TARGET else f"mcu_{args.target}"
        (RESULTS / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        (RESULTS / f"{name}.md").write_text(markdown(rows, args.target), encoding="utf-8")
    print_json(results) if args.json else print(markdown(rows, args.target))
    return 0


if __name__ == "__main__":
    sys.exit(main())
