"""What numbers were taken on and with, for the files that hold them."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lepton_compiler import __version__, peers
from lepton_compiler.target import parse_target


def machine(against: Sequence[str]) -> dict[str, Any]:
    """Processor, and versions of everything that took part."""
    versions = {name: version(name) for name in ("apache-tvm", "numpy", "onnx")}
    return {
        "cpu": _processor(),
        "target": parse_target("native").cpu,
        "python": platform.python_version(),
        "lepton": __version__,
        **versions,
        "peers": {name: peers.find(name).version for name in against},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())
