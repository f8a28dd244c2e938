"""The C toolchain: the system's compiler where there is one, else zig's from its wheel."""

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

C_FLAGS = ("-std=c11", "-O2", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror")


@dataclass(frozen=True)
class Toolchain:
    """Command prefixes of a C compiler driver and an archiver."""

    compiler: tuple[str, ...]
    archiver: tuple[str, ...]

    def compile(self, folder: Path, name: str) -> str:
        """Compile, or assemble, a file of `folder`; returns the object's name."""
        result = f"{Path(name).stem}.o"
        flags = C_FLAGS if name.endswith(".c") else ()
        self.run(folder, [*self.compiler, *flags, "-c", name, "-o", result])
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
        self.run(folder, [*self.compiler, *flags, "@objects.rsp", "-Wl,--as-needed", "-lm", "-lpthread"])

    def archive(self, folder: Path, objects: Sequence[str], result: str) -> None:
        """Make a static library without times and owners."""
        self.run(folder, [*self.archiver, "rcsD", result, *objects])

    def partial(self, folder: Path, objects: Sequence[str], result: str) -> None:
        """Link objects into one relocatable object."""
        self.run(folder, [*self.compiler, "-r", "-nostdlib", "-Wl,--build-id=none", "-o", result, *objects])

    def run(self, folder: Path, command: Sequence[str]) -> None:
        """Run a tool in `folder`.

        Raises:
            LeptonError: it failed; the message has what it printed.
        """
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, env={**os.environ, "SOURCE_DATE_EPOCH": "0", "LC_ALL": "C"}
        )
        if done.returncode:
            raise LeptonError(f"'{shlex.join(command[:2])}' failed: {done.stderr.strip()[-2000:]}", hint="set CC to a working C compiler")


def find_toolchain() -> Toolchain:
    """`$CC`, else `cc`, else zig.

    Raises:
        MissingDependency: there is none.
    """
    archiver = os.environ.get("AR") or shutil.which("ar")
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    zig = (sys.executable, "-m", "ziglang") if importlib.util.find_spec("ziglang") else None
    if compiler and (archiver or zig):
        return Toolchain(tuple(shlex.split(compiler)), (archiver,) if archiver else (*zig, "ar"))  # type: ignore[misc]
    if zig:
        return Toolchain((*zig, "cc"), (*zig, "ar"))
    raise MissingDependency(
        "no C compiler found to link the library", hint="install gcc or clang, or: pip install 'lepton-compiler[cross]'"
    )
