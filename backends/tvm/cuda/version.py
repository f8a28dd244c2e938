"""Which kernels the choices in a tuning database are about."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path

MADE_OF = ("generate", "products", "tensor_cores", "text")


@cache
def schedule_version() -> str:
    """Hash of the sources that say what a `Choice` means on a GPU, and of TVM's version: choices that were measured with others do not count."""
    here = Path(__file__).parent
    digest = hashlib.sha256(version("apache-tvm").encode())
    sources = [path for room in MADE_OF for path in (here / room).rglob("*") if path.suffix in (".py", ".cuh")]
    for path in sorted([here.parent / "choice.py", here / "compile.py", here / "rules.py", *sources]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
