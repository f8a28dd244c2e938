"""What makes a library fit for firmware: no C library, no variables, and known sizes of flash, arena and stack."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from lepton_compiler.backends.tvm.package import libm
from lepton_compiler.binary import Object, read_object
from lepton_compiler.errors import UnsupportedError
from lepton_compiler.toolchain import Toolchain

PROVIDED = re.compile(r"mem(cpy|set|move)|__aeabi_\w+|__\w+[sdthi][fi]\d?|__gnu_[fh]2[hf]_ieee|__\w+hf\w*")
"""What the compiler's own library and every C library has: memory, integer division, numbers without an FPU."""


def support(tools: Toolchain, folder: Path, objects: Sequence[str], name: str) -> list[str]:
    """Compile the functions that `objects` want and no compiler brings along; returns the objects to add.

    Raises:
        UnsupportedError: kernels call functions of a C library that are not here, or keep variables.
    """
    read = {file: read_object((folder / file).read_bytes()) for file in objects}
    missing = undefined(read.values())
    text = libm.source(missing)
    added: list[str] = []
    if text:
        (folder / f"{name}_support.c").write_text(text)
        added = [tools.compile(folder, f"{name}_support.c", "-O2", "-ffreestanding", "-fno-builtin")]
    strange = sorted(s for s in missing - libm.FUNCTIONS.keys() if not PROVIDED.fullmatch(s))
    if strange:
        raise UnsupportedError(
            f"kernels call {', '.join(strange)}, which firmware does not have", hint="compile for a target with an operating system"
        )
    variables = sorted(v for o in read.values() for v in o.writable)
    if variables:
        raise UnsupportedError(f"kernels keep variables: {', '.join(variables)}", hint="report the model")
    return added


def undefined(objects: Iterable[Object]) -> set[str]:
    """Symbols that none of the objects defines."""
    read = list(objects)
    defined = {name for o in read for name in o.defined}
    return {name for o in read for name in o.undefined} - defined
