"""C toolchains: the system's compiler for this machine, zig from its wheel or a cross compiler for others."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lepton_compiler.errors import LeptonError, MissingDependency
from lepton_compiler.target import Target, runs_here

C_FLAGS = ("-std=c11", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror")
TIMEOUT = 300
"""Seconds after which a tool is given up; zig builds its support libraries at its first use."""

ZIG_CPUS = {"generic": "generic", "generic-rv64": "baseline_rv64"}
"""Processors that zig calls otherwise; for the rest it replaces `-` by `_`."""
FPU = {"cortex-m4": "fpv4-sp-d16", "cortex-m7": "fpv5-sp-d16", "cortex-m33": "fpv5-sp-d16", "cortex-m55": "fpv5-sp-d16"}
"""What gcc calls the FPU of single precision."""
ZIG_FPU = {"cortex-m4": "+vfp4d16sp", "cortex-m7": "+fp_armv8d16sp", "cortex-m33": "+fp_armv8d16sp", "cortex-m55": "+fp_armv8d16sp"}
"""What zig calls it; it takes no FPU for granted."""


@dataclass(frozen=True)
class Toolchain:
    """Command prefixes of a C compiler driver and an archiver, with the flags that choose the machine."""

    compiler: tuple[str, ...]
    archiver: tuple[str, ...]
    flags: tuple[str, ...] = ("-fPIC",)
    is_zig: bool = False

    def compile(self, folder: Path, name: str, level: str = "-O2", *more: str) -> str:
        """Compile, or assemble, a file of `folder`; returns the object's name."""
        result = f"{Path(name).stem}.o"
        flags = (*C_FLAGS, level, *more) if name.endswith(".c") else ()
        self.run(folder, [*self.compiler, *self.flags, *flags, "-c", name, "-o", result])
        return result

    def shared(self, folder: Path, objects: Sequence[str], result: str, exports: Sequence[str]) -> None:
        """Link a shared library that exports just the named symbols; reproducible, and complete (no undefined symbols)."""
        (folder / "exports.map").write_text("{ global: " + " ".join(f"{e};" for e in exports) + " local: *; };\n")
        (folder / "objects.rsp").write_text("\n".join(objects))
        flags = [
            "-shared",
            "-o",
            result,
            "-Wl,--version-script=exports.map",
            "-Wl,--build-id=none",
            "-Wl,-z,defs",
            "-Wl,--gc-sections",
            f"-Wl,-soname,{result}",
        ]
        self.run(folder, [*self.compiler, *self.flags, *flags, "@objects.rsp", "-Wl,--as-needed", "-lm", "-lpthread"])

    def archive(self, folder: Path, objects: Sequence[str], result: str) -> None:
        """Make a static library without times and owners."""
        self.run(folder, [*self.archiver, "rcsD", result, *objects])

    def partial(self, folder: Path, objects: Sequence[str], result: str) -> None:
        """Link objects into one relocatable object."""
        self.run(folder, [*self.compiler, *self.flags, "-r", "-nostdlib", "-Wl,--build-id=none", "-o", result, *objects])

    def executable(self, folder: Path, objects: Sequence[str], result: str, entry: str, base: int) -> None:
        """Link a program without a C library at the address `base`, which starts at `entry`; the compiler's own helpers are there."""
        placed = [f"-Wl,--image-base={base:#x}", "-nostartfiles"] if self.is_zig else [f"-Wl,-Ttext={base:#x}", "-nostdlib"]
        flags = ["-static", f"-Wl,-e,{entry}", "-Wl,--gc-sections", *placed]
        self.run(folder, [*self.compiler, *self.flags, *flags, "-o", result, *objects, *([] if self.is_zig else ["-lgcc"])])

    def run(self, folder: Path, command: Sequence[str]) -> None:
        """Run a tool in `folder`.

        Raises:
            LeptonError: it failed; the message has what it printed.
        """
        environment = {**os.environ, "SOURCE_DATE_EPOCH": "0", "LC_ALL": "C"}
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=TIMEOUT)
        except subprocess.TimeoutExpired as error:
            raise LeptonError(f"'{shlex.join(command[:4])}' took longer than {TIMEOUT} seconds") from error
        if done.returncode:
            raise LeptonError(f"'{shlex.join(command[:4])}' failed: {done.stderr.strip()[-2000:]}", hint=_advice(command))


def _advice(command: Sequence[str]) -> str:
    return "the cross compiler is at fault" if "-target" in command else "set CC to a working C compiler"


def find_toolchain(target: Target | None = None) -> Toolchain:
    """A toolchain for `target`, or for this machine.

    For this machine: `$CC`, else `cc`, else zig. For others: zig, else a cross compiler of GNU.

    Raises:
        MissingDependency: there is none.
    """
    if target is not None and not runs_here(target):
        return _foreign(target)
    archiver = os.environ.get("AR") or shutil.which("ar")
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    zig = _zig()
    if compiler and (archiver or zig):
        return Toolchain(tuple(shlex.split(compiler)), (archiver,) if archiver else (*zig, "ar"))
    if zig:
        return Toolchain((*zig, "cc"), (*zig, "ar"), is_zig=True)
    raise MissingDependency(
        "no C compiler found to link the library", hint="install gcc or clang, or: pip install 'lepton-compiler[cross]'"
    )


def _zig() -> tuple[str, ...]:
    """The command of zig's wheel; empty where it is not installed."""
    return (sys.executable, "-m", "ziglang") if importlib.util.find_spec("ziglang") else ()


def _foreign(target: Target) -> Toolchain:
    common = ("-ffunction-sections", "-fdata-sections") if target.is_firmware else ("-fPIC",)
    if zig := _zig():
        cpu = ZIG_CPUS.get(target.cpu, target.cpu.replace("-", "_"))
        machine = ("-target", zig_triple(target), f"-mcpu={cpu}{_zig_features(target)}")
        quiet = (
            "-fno-sanitize=all",
            "-fno-stack-protector",
            "-fomit-frame-pointer",
            "-g0",
            "-fno-unwind-tables",
            "-fno-asynchronous-unwind-tables",
        )
        return Toolchain((*zig, "cc"), (*zig, "ar"), (*machine, *quiet, *common), is_zig=True)
    prefix = "arm-none-eabi-" if target.is_firmware else f"{target.triple}-"
    if shutil.which(f"{prefix}gcc") and shutil.which(f"{prefix}ar"):
        return Toolchain((f"{prefix}gcc",), (f"{prefix}ar",), (*_gcc_machine(target), *common))
    raise MissingDependency(
        f"no C compiler for {target.name} found to link the library",
        hint=f"pip install 'lepton-compiler[cross]', which brings one, or install {prefix}gcc",
    )


def zig_triple(target: Target) -> str:
    """What zig calls the machine."""
    if target.is_firmware:
        return f"thumb-freestanding-{'eabihf' if target.float_abi == 'hard' else 'eabi'}"
    return {"arm": "arm-linux-gnueabihf"}.get(target.arch, target.triple)


def _zig_features(target: Target) -> str:
    """Features that the target takes away or adds, in zig's spelling."""
    given = "".join(f[0] + f[1:].replace("-", "_").replace(".", "_") for f in target.features)
    return (ZIG_FPU.get(target.cpu, "") if target.float_abi == "hard" else "") + given if target.is_firmware else ""


def _gcc_machine(target: Target) -> tuple[str, ...]:
    match target.arch:
        case "thumb":
            float_flags = (f"-mfpu={FPU[target.cpu]}",) if target.float_abi == "hard" else ()
            return (f"-mcpu={target.cpu}", "-mthumb", f"-mfloat-abi={target.float_abi}", *float_flags)
        case "arm":
            return (f"-mcpu={target.cpu}", "-mfpu=neon-vfpv3" if target.cpu == "cortex-a9" else "-mfpu=neon-vfpv4", "-mfloat-abi=hard")
        case _:
            return ()
