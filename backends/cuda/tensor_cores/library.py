"""The device code that generated kernels call: the texts of `device/`, once per translation unit."""

from __future__ import annotations

from functools import cache
from pathlib import Path

PARTS = ("ptx", "sources", "tiles", "stores", "tensor_cores", "simt", "attention")


@cache
def library() -> str:
    """CUDA C++ that needs no header, neither nvcc's nor NVRTC's."""
    texts = [Path(__file__).with_name("device").joinpath(f"{part}.cuh").read_text() for part in PARTS]
    return "\n".join(["#ifndef LEPTON_TENSOR_CORES", "#define LEPTON_TENSOR_CORES", *texts, "#endif", ""])
