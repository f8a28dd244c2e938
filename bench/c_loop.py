"""Calls of an artefact from C: a loop without Python between one call and the next."""

from __future__ import annotations

import ctypes
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lepton_compiler.toolchain import find_toolchain

SOURCE = """
int repeat(int (*run)(const void *, void *, void *), const void *inputs, void *outputs, void *arena, long count) {
  int status = 0;
  for (long k = 0; k < count && status == 0; ++k) status = run(inputs, outputs, arena);
  return status;
}
"""
FLAGS = ("-O2", "-fPIC", "-shared")


def caller(count: int) -> Callable[[Any, Any, Any, Any], int]:
    """What calls an artefact `count` times in a row, for `measure.native_call`.

    Raises:
        MissingDependency: there is no C compiler.
    """
    loop = _loop()
    return lambda run, inputs, outputs, arena: int(loop(run, inputs, outputs, arena, count))


@functools.cache
def _loop() -> Any:
    toolchain = find_toolchain()
    with tempfile.TemporaryDirectory(prefix="lepton-") as folder:
        path = Path(folder, "loop.c")
        path.write_text(SOURCE)
        toolchain.run(path.parent, [*toolchain.compiler, *toolchain.flags, *FLAGS, "-o", "loop.so", path.name])
        loop = ctypes.CDLL(str(path.with_suffix(".so"))).repeat
    loop.argtypes, loop.restype = [ctypes.c_void_p] * 4 + [ctypes.c_long], ctypes.c_int
    return loop
