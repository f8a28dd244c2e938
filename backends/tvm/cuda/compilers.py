"""From CUDA C to machine code of GPUs: by NVRTC from its wheel, or by nvcc. Neither needs a GPU."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lepton_compiler.errors import LeptonError, MissingDependency
from lepton_compiler.gpus import Gpu

SECONDS = 1800
"""After which nvcc is given up."""
FLAGS = ("-std=c++17",)
UNKNOWN = ("invalid value for --gpu-architecture", "Unsupported gpu architecture")
"""What NVRTC and nvcc say of an architecture that they do not know, or no more."""


@dataclass(frozen=True)
class Image:
    """Code for one architecture: a cubin, which runs on its major version from its minor one up, or PTX, which runs on all newer GPUs."""

    gpu: Gpu
    is_ptx: bool
    code: bytes


@dataclass(frozen=True)
class Code:
    """What one compilation gives: a cubin, and the PTX that it was made of. For a virtual architecture (`compute_NN`) there is no cubin."""

    cubin: bytes
    ptx: bytes


class Compiler(Protocol):
    """Something that compiles one translation unit."""

    @property
    def version(self) -> str:
        """Its name and version: what the same text gives the same code with."""
        ...

    def compile(self, text: str, architecture: str) -> Code:
        """The code of a unit for `sm_NN`, or `compute_NN`.

        Raises:
            LeptonError: it does not compile.
        """
        ...


def compile_images(text: str, gpus: Sequence[Gpu], cache: Path | None, jobs: int) -> tuple[list[Image], str]:
    """Code for each architecture, and PTX for the newest one; and what compiled it.

    Args:
        text: one translation unit.
        gpus: oldest first.
        cache: a folder where code is kept by content.
        jobs: compilers at once.

    Raises:
        MissingDependency: there is no compiler.
        LeptonError: the unit does not compile.
    """
    compiler, newest = find_compiler(), gpus[-1]
    names = [gpu.architecture for gpu in gpus]
    if newest.architecture != newest.name:  # whose PTX no later GPU would take
        names.append(newest.virtual)
    with ThreadPoolExecutor(max(1, min(jobs, len(names)))) as pool:
        codes = list(pool.map(lambda name: _cached(compiler, text, name, cache), names))
    images = [Image(gpu, False, code.cubin) for gpu, code in zip(gpus, codes, strict=False)]
    return [*images, Image(newest, True, codes[-1].ptx)], compiler.version


def compile_cubin(text: str, gpu: Gpu, cache: Path | None) -> bytes:
    """Machine code for one architecture.

    Raises:
        MissingDependency: there is no compiler.
        LeptonError: the unit does not compile.
    """
    return _cached(find_compiler(), text, gpu.architecture, cache).cubin


def _cached(compiler: Compiler, text: str, architecture: str, cache: Path | None) -> Code:
    if cache is None:
        return compiler.compile(text, architecture)
    key = hashlib.sha256(f"{compiler.version}{FLAGS}{architecture}{text}".encode()).hexdigest()
    paths = [cache / key[:2] / f"{key}.{kind}" for kind in ("cubin", "ptx")]
    if all(path.is_file() for path in paths):
        return Code(*(path.read_bytes() for path in paths))
    code = compiler.compile(text, architecture)
    for path, data in zip(paths, (code.cubin, code.ptx), strict=True):
        with contextlib.suppress(OSError):  # a cache that cannot be written is no error
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
                file.write(data)
            Path(file.name).replace(path)
    return code


@contextlib.contextmanager
def _explained(compiler: Compiler, architecture: str) -> Iterator[None]:
    """Tell in a line of an architecture that the compiler is too old, or too new, for."""
    try:
        yield
    except LeptonError as error:
        if not any(text in str(error) for text in UNKNOWN):
            raise
        message, hint = (
            f"{compiler.version} makes no code for {architecture.replace('compute', 'sm')}",
            "take a release of CUDA that does, or compile for other architectures",
        )
        raise LeptonError(message, hint=hint) from error


@functools.cache
def find_compiler() -> Compiler:
    """NVRTC where its wheel is installed, or `$LEPTON_NVRTC` names its library; else nvcc: `$LEPTON_NVCC`, that of `$CUDA_HOME`, or one on the path.

    Raises:
        MissingDependency: there is neither.
    """
    if library := _nvrtc_library():
        return Nvrtc(library)
    home = os.environ.get("CUDA_HOME")
    found = os.environ.get("LEPTON_NVCC") or (shutil.which("nvcc", path=f"{home}/bin") if home else None) or shutil.which("nvcc")
    if found:
        return Nvcc(found)
    raise MissingDependency("no compiler for CUDA found", hint="pip install 'lepton-compiler[cuda]', which brings NVRTC, or install nvcc")


def _nvrtc_library() -> Path | None:
    """The library of an installed wheel."""
    if given := os.environ.get("LEPTON_NVRTC"):
        return Path(given)
    if os.environ.get("LEPTON_NVCC"):
        return None
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(p) for p in (spec.submodule_search_locations or [])] if spec else []
    found = [p for folder in folders for p in folder.glob("*/lib/libnvrtc.so.*") if "alt" not in p.name]
    return max(found, key=lambda p: [int(n) for n in re.findall(r"\d+", p.name)], default=None)


class Nvcc:
    """The compiler driver of the CUDA toolkit."""

    def __init__(self, path: str) -> None:
        self.path = path

    @functools.cached_property
    def version(self) -> str:
        """Its release."""
        found = re.search(r"V(\d+\.\d+\.\d+)", self._run([self.path, "--version"], None))
        return f"nvcc {found[1] if found else ''}"

    def compile(self, text: str, architecture: str) -> Code:
        """See `Compiler`."""
        with tempfile.TemporaryDirectory(prefix="lepton-") as folder:
            unit = Path(folder, "unit")
            unit.with_suffix(".cu").write_text(text)
            virtual = architecture.replace("sm", "compute")
            with _explained(self, architecture):
                self._run([self.path, "-ptx", f"-arch={virtual}", *FLAGS, "-w", "-o", "unit.ptx", "unit.cu"], folder)
                ptx = unit.with_suffix(".ptx").read_bytes()
                if architecture == virtual:
                    return Code(b"", ptx)
                self._run([self.path, "-cubin", f"-arch={architecture}", "-o", "unit.cubin", "unit.ptx"], folder)
            return Code(unit.with_suffix(".cubin").read_bytes(), ptx)

    def _run(self, command: list[str], folder: str | None) -> str:
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS)
        except OSError as error:
            raise MissingDependency(f"cannot run {self.path}: {error.strerror}", hint="set LEPTON_NVCC to a working nvcc") from error
        except subprocess.TimeoutExpired as error:
            raise LeptonError(f"nvcc took longer than {SECONDS} seconds", hint="report the model") from error
        if done.returncode:
            raise LeptonError(
                f"nvcc failed: {(done.stderr or done.stdout).strip()[-1500:]}", hint="is it of CUDA 12 or newer, with a C++ compiler?"
            )
        return done.stdout


class Nvrtc:
    """The compiler as a library, in a process of its own: whatever becomes of that, this one lives on."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @functools.cached_property
    def version(self) -> str:
        """Its release."""
        return f"nvrtc {self._run(['version'], b'').decode().strip()}"

    def compile(self, text: str, architecture: str) -> Code:
        """See `Compiler`."""
        with _explained(self, architecture):
            both = self._run(["compile", f"--gpu-architecture={architecture}", *FLAGS, "-w"], text.encode())
        size = int.from_bytes(both[:8], "little")
        return Code(both[8 : 8 + size], both[8 + size :])

    def _run(self, arguments: Sequence[str], text: bytes) -> bytes:
        command = [sys.executable, "-I", str(Path(__file__).with_name("nvrtc.py")), str(self.path), *arguments]
        try:
            done = subprocess.run(command, input=text, capture_output=True, timeout=SECONDS)
        except subprocess.TimeoutExpired as error:
            raise LeptonError(f"NVRTC took longer than {SECONDS} seconds", hint="report the model") from error
        if done.returncode:
            log = done.stderr.decode(errors="replace").strip()[-1500:]
            raise LeptonError(
                f"NVRTC failed: {log or f'status {done.returncode}'}", hint="report the model, or set LEPTON_NVCC to use nvcc"
            )
        return done.stdout
