"""The process that compiles with NVRTC: `nvrtc.py LIBRARY compile|version [OPTION...]`.

The text comes on standard input; on standard output go the size of the cubin in eight bytes, the cubin, and the PTX that it was made of.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any


class NvrtcError(Exception):
    """What NVRTC says."""


class Library:
    """NVRTC's functions."""

    def __init__(self, path: Path) -> None:
        for builtins in sorted(path.parent.glob("libnvrtc-builtins.so.*")):
            if "alt" not in builtins.name:
                ctypes.CDLL(str(builtins))
        self.handle = ctypes.CDLL(str(path))
        self.handle.nvrtcGetErrorString.restype = ctypes.c_char_p

    def version(self) -> bytes:
        """Major and minor number."""
        major, minor = ctypes.c_int(), ctypes.c_int()
        self.check(self.handle.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
        return f"{major.value}.{minor.value}".encode()

    def compile(self, text: bytes, options: list[bytes]) -> bytes:
        """The code of a unit, as it goes out.

        Raises:
            NvrtcError: it does not compile.
        """
        program = ctypes.c_void_p()
        self.check(self.handle.nvrtcCreateProgram(ctypes.byref(program), text, b"unit.cu", 0, None, None))
        status = self.handle.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        if status:
            log = self.fetch(program, "ProgramLog").decode(errors="replace").strip("\0 \n")
            raise NvrtcError(log or self.message(status))
        cubin = self.fetch(program, "CUBIN")
        return len(cubin).to_bytes(8, "little") + cubin + self.fetch(program, "PTX")

    def fetch(self, program: Any, what: str) -> bytes:
        """One of a program's results."""
        size = ctypes.c_size_t()
        self.check(getattr(self.handle, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
        buffer = ctypes.create_string_buffer(max(1, size.value))
        self.check(getattr(self.handle, f"nvrtcGet{what}")(program, buffer))
        return buffer.raw[: size.value]

    def message(self, status: int) -> str:
        """What a status means."""
        return bytes(self.handle.nvrtcGetErrorString(status)).decode()

    def check(self, status: int) -> None:
        """Raise where a call failed."""
        if status:
            raise NvrtcError(self.message(status))


def main(arguments: list[str]) -> int:
    """Compile, or tell the version; returns the exit status."""
    path, kind, *options = arguments
    try:
        library = Library(Path(path))
        given = [o.encode() for o in options]
        code = library.version() if kind == "version" else library.compile(sys.stdin.buffer.read(), given)
    except (OSError, AttributeError, NvrtcError) as error:
        print(error, file=sys.stderr)
        return 1
    sys.stdout.buffer.write(code)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
