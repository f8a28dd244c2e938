"""What machine code of GPUs consists of: cubins taken out of a library, and what NVIDIA's `cuobjdump` tells of them."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lepton_compiler.errors import LeptonError

MAGIC, MACHINE, EM_CUDA = b"\x7fELF", slice(18, 20), 190
"""How an ELF file for a GPU begins (`e_machine`, from the list of the ELF specification)."""
TIMEOUT = 120
"""Seconds after which `cuobjdump` is given up."""
FUNCTION = re.compile(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
FILE = re.compile(r"^ELF file\s+\d+: \S+\.(sm_\w+)\.cubin", re.MULTILINE)


@dataclass(frozen=True)
class Usage:
    """What a thread of a kernel takes.

    Attributes:
        registers: of 32 bits.
        local: bytes of local memory, that is spilled registers and arrays that lie in no register.
        shared: bytes of static shared memory of its block.
    """

    registers: int
    local: int
    shared: int


@dataclass(frozen=True)
class Cubin:
    """Code for one architecture.

    Attributes:
        architecture: as `cuobjdump` reads it: `sm_80`.
        kernels: what each takes, by name.
    """

    architecture: str
    kernels: Mapping[str, Usage]


def find_cuobjdump() -> str | None:
    """`cuobjdump` beside the nvcc that is used, in `$CUDA_HOME`, on the path, or from its wheel (`nvidia-cuda-cuobjdump`)."""
    nvcc = os.environ.get("LEPTON_NVCC") or shutil.which("nvcc")
    folders = [Path(nvcc).resolve().parent] if nvcc else []
    if home := os.environ.get("CUDA_HOME"):
        folders.append(Path(home, "bin"))
    spec = importlib.util.find_spec("nvidia")
    wheels = [p for place in (spec.submodule_search_locations or []) for p in Path(place).glob("*/bin")] if spec else []
    return next((found for f in [*folders, *wheels] if (found := shutil.which("cuobjdump", path=str(f)))), shutil.which("cuobjdump"))


def cubins_of(library: bytes, manifest: Mapping[str, Any]) -> list[bytes]:
    """The code that a library holds, in the order of the manifest.

    Raises:
        LeptonError: there is not what the manifest says.
    """
    sizes = [image["bytes"] for image in manifest["images"] if image["kind"] == "cubin"]
    starts = [m.start() for m in re.finditer(re.escape(MAGIC), library)]
    places = [at for at in starts if int.from_bytes(library[at:][MACHINE], "little") == EM_CUDA]
    if len(places) != len(sizes):
        raise LeptonError(f"the library holds {len(places)} cubins, the manifest lists {len(sizes)}")
    return [library[at : at + size] for at, size in zip(places, sizes, strict=True)]


def inspect(cubins: Sequence[bytes], cuobjdump: str) -> list[Cubin]:
    """What `cuobjdump` tells of each.

    Raises:
        LeptonError: it does not take one, or says nothing of its kernels.
    """
    found = []
    with tempfile.TemporaryDirectory(prefix="lepton-") as folder:
        for code in cubins:
            path = Path(folder, "code.cubin")
            path.write_bytes(code)
            found.append(parse(_output(cuobjdump, "-lelf", path), _output(cuobjdump, "-res-usage", path)))
    return found


def parse(listing: str, usage: str) -> Cubin:
    """From what `cuobjdump -lelf` and `cuobjdump -res-usage` print.

    Raises:
        LeptonError: there is no architecture, or no kernel.
    """
    architecture, kernels = FILE.search(listing), FUNCTION.findall(usage)
    if architecture is None or not kernels:
        raise LeptonError("cuobjdump finds no code in a cubin")
    return Cubin(architecture[1], {name: Usage(int(r), int(stack) + int(local), int(shared)) for name, r, stack, shared, local in kernels})


def _output(cuobjdump: str, option: str, path: Path) -> str:
    done = subprocess.run([cuobjdump, option, str(path)], capture_output=True, text=True, timeout=TIMEOUT)
    if done.returncode:
        raise LeptonError(f"cuobjdump failed: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout
