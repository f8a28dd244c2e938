"""What the loops of GPU kernels consist of: `python -m bench.cuda_sass FILE... [--kernel PART]`.

A FILE is a cubin, `libNAME.so` with `NAME.json` beside it, or CUDA C (`NAME.cu`), which is compiled for `--arch`. `cuobjdump` disassembles; no
GPU is needed. For each loop that multiplies, or moves data where none does, a line has the instructions of a warp in one pass by class, without
those of loops within it, and the clocks that one pass takes of a multiprocessor's quarter at least: to start the instructions, on tensor cores, on
the cores for float32, and to reach shared memory. The longest is the bound; `best` is the part of the peak that it leaves.

Clocks are from the table of throughputs in the CUDA C++ Programming Guide ("Arithmetic Instructions") and the descriptions in
`tensor_cores.device`; shared memory is taken to have no conflicts. What the caches and memory give does not enter. Both sides of a branch count.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.cubins import TIMEOUT, Usage, cubins_of, find_cuobjdump, inspect
from lepton_compiler.backends.tvm.cuda.compilers import find_compiler
from lepton_compiler.backends.tvm.cuda.tensor_cores import Device, device_of
from lepton_compiler.errors import LeptonError, MissingDependency
from lepton_compiler.gpus import GPUS

FUNCTION = re.compile(r"Function : (\S+)")
INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z]\S*)\s*([^;]*);")
TARGET = re.compile(r"0x([0-9a-f]+)\s*$")
MMA = re.compile(r"[HI]MMA\.(16816|1688|16832|16816|8816)\b")
GROUP = re.compile(r"[HIQ]GMMA\.(\d+)x(\d+)x(\d+)\b")
"""Of four warps together: rows, columns, depth, which is 32 bytes."""
MULTIPLIED = {"16816": 16 * 8 * 16, "1688": 16 * 8 * 8, "16832": 16 * 8 * 32, "8816": 8 * 8 * 16}
"""Multiply-adds of an instruction of tensor cores, by the name of its shape."""
CLASSES = {
    "tensor": r"[HI]MMA|[HIQ]GMMA",
    "float": r"F(FMA|ADD|MUL|SETP|MNMX|SEL|SET)|HFMA2|HADD2|HMUL2",
    "special": r"MUFU",
    "convert": r"[FI]2[FI]P?|F2FP|I2FP|FRND",
    "shared load": r"LDSM|LDS\b",
    "shared store": r"STS|STSM",
    "copy": r"LDGSTS|UTMA\w*",
    "load": r"LDG?\b|LDL|LDC",
    "store": r"STG?\b|STL|RED|ATOM",
    "shuffle": r"SHFL|REDUX|VOTE",
    "control": r"BRA|BAR|B[A-Z]*SYNC|BSSY|BREAK|WARPSYNC|DEPBAR|LDGDEPBAR|EXIT|CALL|RET|NOP|YIELD|ERRBAR|MEMBAR|CCTL|ACQBULK|WARPGROUP|SYNCS",
}
"""Classes of instructions by the names that they begin with; what is left is `integer`: addresses, conditions, moves."""
ORDER = (*CLASSES, "integer")
QUARTERS = 4
"""Schedulers of a multiprocessor; each starts an instruction of a warp per clock."""
PATTERNS = {name: re.compile(pattern) for name, pattern in CLASSES.items()}


@dataclass(frozen=True)
class Instruction:
    """One line of a listing: where it is, its name with what follows the points, and its operands."""

    address: int
    name: str
    operands: str

    @property
    def kind(self) -> str:
        """Its class, of `ORDER`."""
        return next((kind for kind, pattern in PATTERNS.items() if pattern.match(self.name)), "integer")

    @property
    def multiplied(self) -> int:
        """Multiply-adds of a warp: on tensor cores, or 32 of float32."""
        if group := GROUP.match(self.name):
            return math.prod(map(int, group.groups())) // QUARTERS
        found = MMA.match(self.name)
        return MULTIPLIED[found[1]] if found else 32 if self.name.startswith("FFMA") else 0

    @property
    def shared_clocks(self) -> int:
        """Clocks of shared memory without conflicts: 128 bytes each. Plain loads of 16 bytes take two where lanes read the same in pairs; a warp has a
        quarter of what a group of four reads there.
        """
        if group := GROUP.match(self.name):
            return (int(group[1]) + int(group[2])) * 32 // 128 // QUARTERS
        if self.kind not in ("shared load", "shared store", "copy") or self.operands.startswith("RZ"):  # the last is a placeholder
            return 0
        if self.name.startswith("LDSM"):
            return int(self.name[-1]) if self.name[-1].isdigit() else 1
        width = 4 if ".128" in self.name else 2 if ".64" in self.name else 1
        return max(1, width // 2) if self.name.startswith("LDS") else width


@dataclass(frozen=True)
class Loop:
    """A loop: its own instructions, without those of loops within.

    Attributes:
        address: of its first instruction.
        depth: number of loops around it.
    """

    address: int
    depth: int
    instructions: tuple[Instruction, ...]

    @property
    def counts(self) -> Counter[str]:
        """Instructions by class."""
        return Counter(i.kind for i in self.instructions)

    @property
    def multiplied(self) -> int:
        """Multiply-adds of a warp in a pass."""
        return sum(i.multiplied for i in self.instructions)

    def clocks(self, device: Device) -> dict[str, float]:
        """Least clocks of a quarter of a multiprocessor for a pass of one warp, by what they are needed for."""
        tensor = 0.0
        for i in self.instructions:
            if i.kind == "tensor":
                peak = device.group if GROUP.match(i.name) else device.half
                rate = peak * (2 if i.name.startswith(("I", "Q")) else 0.5 if "TF32" in i.name else 1)
                tensor += i.multiplied * QUARTERS / rate
        return {
            "issue": float(len(self.instructions)),
            "tensor": tensor,
            "float32": sum(i.name.startswith(("FFMA", "FADD", "FMUL")) for i in self.instructions) * 32 * QUARTERS / device.fp32,
            "shared": float(sum(i.shared_clocks for i in self.instructions) * QUARTERS),
        }

    def best(self, device: Device) -> tuple[str, float]:
        """What bounds a pass, and the part of the peak of multiplications that it leaves."""
        clocks = self.clocks(device)
        bound = max(clocks, key=lambda name: clocks[name])
        fused = sum(i.name.startswith("FFMA") for i in self.instructions) * 32 * QUARTERS / device.fp32
        return bound, max(clocks["tensor"], fused) / clocks[bound]


def parse(listing: str) -> dict[str, list[Instruction]]:
    """The instructions of each kernel, from what `cuobjdump -sass` prints."""
    found: dict[str, list[Instruction]] = {}
    lines: list[Instruction] = []
    for line in listing.splitlines():
        if start := FUNCTION.search(line):
            lines = found.setdefault(start[1], [])
        elif match := INSTRUCTION.search(line):
            lines.append(Instruction(int(match[1], 16), match[2], match[3].strip()))
    return found


def loops(instructions: Sequence[Instruction]) -> list[Loop]:
    """The loops of a kernel in order of address: what lies between a branch backwards and its target. A branch to itself ends a kernel."""
    ends: dict[int, int] = {}
    for i in instructions:
        target = TARGET.search(i.operands) if i.name.startswith("BRA") else None
        if target is not None and (first := int(target[1], 16)) < i.address:
            ends[first] = max(ends.get(first, 0), i.address)
    found = []
    for first, last in sorted(ends.items()):
        inner = [(a, b) for a, b in ends.items() if first <= a and b <= last and (a, b) != (first, last)]
        depth = sum(a <= first and last <= b for a, b in ends.items()) - 1
        own = tuple(i for i in instructions if first <= i.address <= last and not any(a <= i.address <= b for a, b in inner))
        found.append(Loop(first, depth, own))
    return found


def listing_of(cubin: bytes, cuobjdump: str) -> str:
    """What `cuobjdump -sass` prints of a cubin.

    Raises:
        LeptonError: it does not take it, or has no `nvdisasm` beside it.
    """
    with tempfile.TemporaryDirectory(prefix="lepton-") as folder:
        path = Path(folder, "code.cubin")
        path.write_bytes(cubin)
        done = subprocess.run([cuobjdump, "-sass", str(path)], capture_output=True, text=True, timeout=TIMEOUT)
    if done.returncode or "Function" not in done.stdout:
        raise LeptonError(f"cuobjdump failed: {(done.stderr or done.stdout).strip()[-500:]}", hint="does it have nvdisasm beside it?")
    return done.stdout


def table(usage: dict[str, Usage], kernels: dict[str, list[Instruction]], device: Device, parts: Sequence[str]) -> Iterator[str]:
    """The lines that are printed for one cubin."""
    for name, instructions in kernels.items():
        if parts and not any(part in name for part in parts):
            continue
        used = usage[name]
        yield f"{name}  {device.name}  {used.registers} registers  {used.local} bytes local  {len(instructions)} instructions"
        every = loops(instructions)
        wanted = [loop for loop in every if loop.multiplied >= 32 * 8] or [
            loop for loop in every if loop.counts["load"] + loop.counts["copy"]
        ]
        for loop in every:
            if loop in wanted or any(w.depth > loop.depth and loop.address <= w.address for w in wanted):
                yield f"  {'  ' * loop.depth}{_line(loop, device)}"


def _line(loop: Loop, device: Device) -> str:
    counts = loop.counts
    classes = ", ".join(f"{counts[kind]} {kind}" for kind in ORDER if counts[kind])
    clocks = ", ".join(f"{name} {value:.0f}" for name, value in loop.clocks(device).items() if value)
    text = f"loop {loop.address:04x}: {len(loop.instructions)} instructions ({classes}); clocks: {clocks}"
    if not loop.multiplied:
        return text
    bound, best = loop.best(device)
    return f"{text}; best {100 * best:.0f} % by {bound}, {len(loop.instructions) / loop.multiplied * 1024:.1f} instructions for 1024 multiply-adds"


def cubins_at(path: Path, archs: Sequence[str]) -> Iterator[bytes]:
    """The cubins of a file, for some architectures.

    Raises:
        LeptonError: it does not compile, or holds none.
    """
    if path.suffix == ".cu":
        for arch in archs:
            yield find_compiler().compile(path.read_text(), GPUS[arch].architecture).cubin
    elif path.suffix == ".so":
        manifest = json.loads(path.with_name(path.stem.removeprefix("lib") + ".json").read_text())
        yield from cubins_of(path.read_bytes(), manifest)
    else:
        yield path.read_bytes()


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the loops of all files; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.cuda_sass", description="Instructions of GPU kernels' loops, and what bounds them."
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="cubin, libNAME.so or NAME.cu")
    parser.add_argument("--kernel", action="append", default=[], metavar="PART", help="only kernels whose name has this part")
    parser.add_argument("--arch", action="append", choices=list(GPUS), help="for which a .cu is compiled (default: sm_90)")
    options = parser.parse_args(arguments)
    try:
        cuobjdump = find_cuobjdump()
        if cuobjdump is None:
            raise MissingDependency("cuobjdump is not there", hint="pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm")
        for path in options.files:
            for cubin in cubins_at(path, options.arch or ["sm_90"]):
                (described,) = inspect([cubin], cuobjdump)
                lines = table(
                    dict(described.kernels), parse(listing_of(cubin, cuobjdump)), device_of(described.architecture), options.kernel
                )
                print(*lines, sep="\n")
    except (LeptonError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
