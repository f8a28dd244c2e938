"""Compiles CUDA C with the C++ compiler of this machine, together with the emulated device.

Where accesses are checked, each load and store of a kernel becomes a call (the hooks of `-fsanitize=thread`, whose library is not linked): that is
how `memory.cpp` sees it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from lepton_compiler.errors import LeptonError, MissingDependency

DEVICE = Path(__file__).parent / "device"
RUNTIME = ("fibers", "memory", "warp", "warpgroup")
COMMON = ("-std=c++17", "-fPIC", f"-I{DEVICE}", "-fvisibility=hidden", "-w")
CHECKED = ("-O1", "-fsanitize=thread")
UNCHECKED = ("-O2",)
KERNEL = (
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-threadsafe-statics",
    "-ffp-contract=off",
    "-include",
    "cuda_emulator.h",
)
TIMEOUT = 300
"""Seconds after which the compiler is given up."""

DYNAMIC = re.compile(r"extern\s+__shared__\s+(?:(?:__align__|alignas)\s*\(\s*\d+\s*\)\s*)?([\w:\s]+?)\s*(\w+)\s*\[\s*\]\s*;")

ATTRIBUTES = r"(?:(?:__launch_bounds__|__cluster_dims__|LEPTON_CLUSTER)\s*\([^{};]*?\)\s*)*"
KERNEL_NAME = re.compile(rf"__global__\s+(?:void\s+)?{ATTRIBUTES}(?:void\s+)?(\w+)\s*\((?!\()")
CLUSTER = r"__global__\s[^{};]*?\b(__cluster_dims__|LEPTON_CLUSTER)\s*\(([^()]*)\)[^{};]*?\b%s\s*\("
WITH_CLUSTERS = re.compile(r"^#define LEPTON_EMULATED_SM_90", re.M)


def available() -> str:
    """Empty, or why kernels cannot be emulated here."""
    try:
        _compiler()
    except MissingDependency as error:
        return str(error)
    return ""


@cache
def kernels_of(source: str) -> tuple[str, ...]:
    """Names of the `__global__` functions of a text."""
    return tuple(dict.fromkeys(KERNEL_NAME.findall(source)))


def for_architecture(source: str, architecture: str) -> str:
    """A text as it is for an architecture whose instructions are not those of `sm_80`: older ones, those of `sm_90a` alone, and clusters."""
    number = int(architecture.removeprefix("sm_").rstrip("a"))
    own = architecture if architecture in ("sm_75", "sm_90a") else "sm_90" if number >= 90 else ""
    return f"#define LEPTON_EMULATED_{own.upper()}\n{source}" if own else source


@cache
def cluster_of(source: str, symbol: str) -> tuple[int, int, int]:
    """Blocks of a cluster of a kernel along x, y and z: what `__cluster_dims__` says, or, where the emulated architecture has clusters, `LEPTON_CLUSTER`.

    The text is one of `for_architecture`.
    """
    found = re.search(CLUSTER % re.escape(symbol), source)
    if found is None or (found[1] == "LEPTON_CLUSTER" and not WITH_CLUSTERS.search(source)):
        return 1, 1, 1
    x, y, z, *_ = (*(int(size) for size in found[2].split(",")), 1, 1)
    return x, y, z


@cache
def compile_kernels(source: str, symbols: tuple[str, ...], checked: bool = True) -> Path:
    """The path of a shared library that runs the `__global__` functions `symbols` of a text; see `EMULATOR_ENTRY` for what it exports.

    Results are kept in the user's cache, by content.

    Args:
        source: CUDA C.
        symbols: the functions.
        checked: whether each load and store is checked.

    Raises:
        LeptonError: the text does not compile.
        MissingDependency: no C++ compiler.
    """
    text = DYNAMIC.sub(r"\1* \2 = (\1*)::emulator::dynamic_shared();", source)
    entries = "".join(f"EMULATOR_ENTRY({symbol})\n" for symbol in symbols)
    text += f"\n#pragma GCC visibility push(default)\n{entries}#pragma GCC visibility pop\n"
    flags = (*(CHECKED if checked else UNCHECKED), *KERNEL)
    target = _cache() / f"kernels-{_digest(text, *flags, _device_digest())}.so"
    if not target.exists():
        with tempfile.TemporaryDirectory(prefix="lepton-") as folder:
            path = Path(folder, "kernels.cpp")
            path.write_text(text)
            _run([*_compiler(), *COMMON, *flags, "-c", str(path), "-o", f"{folder}/kernels.o"])
            _make(target, ["-shared", "-Wl,-Bsymbolic", f"{folder}/kernels.o", *map(str, _runtime())])
    return target


def _runtime() -> list[Path]:
    """Objects of the emulated device."""
    objects = []
    for name in RUNTIME:
        path = _cache() / f"{name}-{_device_digest()}.o"
        if not path.exists():
            _make(path, [*COMMON, "-O2", "-c", str(DEVICE / f"{name}.cpp")])
        objects.append(path)
    return objects


def _make(target: Path, arguments: Sequence[str]) -> None:
    """Run the compiler; the result appears under its name when it is whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=target.parent, prefix=".new-")
    os.close(handle)
    try:
        _run([*_compiler(), *arguments, "-o", partial])
        os.replace(partial, target)
    finally:
        Path(partial).unlink(missing_ok=True)


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    if done.returncode:
        raise LeptonError(f"the kernel does not compile for the emulator: {done.stderr.strip()[:3000]}")


@cache
def _compiler() -> tuple[str, ...]:
    found = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if not found:
        raise MissingDependency("CUDA kernels are emulated by means of a C++ compiler, and there is none", hint="install g++")
    return tuple(shlex.split(found))


@cache
def _device_digest() -> str:
    """Of all that goes into a library beside its kernels."""
    version = subprocess.run([*_compiler(), "--version"], capture_output=True, text=True, timeout=TIMEOUT).stdout
    return _digest(version, *COMMON[:2], *(path.read_text() for path in sorted(DEVICE.iterdir())))


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:24]


def _cache() -> Path:
    base = os.environ.get("LEPTON_CACHE")
    return (Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lepton") / "cuda-emulator"
