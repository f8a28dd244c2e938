"""The device code that kernels of sliding windows call."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def library() -> str:
    """CUDA C++ that needs no header, neither nvcc's nor NVRTC's."""
    return Path(__file__).with_name("device").joinpath("windows.cuh").read_text()
