"""Functions of the C library that shared libraries call: done by this machine's own, on the emulated memory and registers."""

from __future__ import annotations

import ctypes
import ctypes.util
import struct
from collections.abc import Callable

from lepton_compiler.errors import UnsupportedError
from lepton_compiler.runtime.emulator.cores import Core

ARITY = {"pow": 2, "fmod": 2, "atan2": 2, "copysign": 2, "fmin": 2, "fmax": 2, "hypot": 2, "remainder": 2, "fma": 3}
"""Functions of more than one number."""

Function = Callable[[Core], None]


def function(name: str) -> Function:
    """What the C function `name` does to a core.

    Raises:
        UnsupportedError: it is not one that can be done here.
    """
    match name:
        case "memcpy" | "memmove":
            return _copy
        case "memset":
            return _fill
    library = ctypes.CDLL(ctypes.util.find_library("m") or None)
    if not hasattr(library, name):
        raise UnsupportedError(f"the library calls '{name}', which the emulator does not have")
    single = name.endswith("f") and name != "erf"
    called = getattr(library, name)
    called.restype = ctypes.c_float if single else ctypes.c_double
    arity = ARITY.get(name[:-1] if single else name, 1)
    called.argtypes = [called.restype] * arity
    return lambda core: _number(core, called, arity, single)


def _copy(core: Core) -> None:
    target, source, size = (core.engine.reg_read(r) for r in core.arguments)
    core.engine.mem_write(target, bytes(core.engine.mem_read(source, size)))


def _fill(core: Core) -> None:
    target, value, size = (core.engine.reg_read(r) for r in core.arguments)
    core.engine.mem_write(target, bytes([value & 0xFF]) * size)


def _number(core: Core, called: Callable[..., float], arity: int, single: bool) -> None:
    registers = [pair[0 if single else 1] for pair in core.floats]
    kind, mask = ("<f", 0xFFFFFFFF) if single else ("<d", 0xFFFFFFFFFFFFFFFF)
    size = 4 if single else 8
    values = [struct.unpack(kind, (core.engine.reg_read(r) & mask).to_bytes(size, "little"))[0] for r in registers[:arity]]
    bits = int.from_bytes(struct.pack(kind, called(*values)), "little")
    boxed = bits | 0xFFFFFFFF00000000 if single and core.floats[0][0] == core.floats[0][1] else bits
    core.engine.reg_write(registers[0], boxed)
