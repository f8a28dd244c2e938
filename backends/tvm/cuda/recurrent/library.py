"""The device code that kernels of recurrent layers call: the texts of `device/`, once per translation unit."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from lepton_compiler.backends.tvm.cuda.text.order import ORDER

PARTS = ("grid", "layer")


@cache
def library() -> str:
    """CUDA C++ that needs no header, neither nvcc's nor NVRTC's."""
    texts = [Path(__file__).with_name("device").joinpath(f"{part}.cuh").read_text() for part in PARTS]
    return "\n".join(["#ifndef LEPTON_RECURRENT", "#define LEPTON_RECURRENT", ORDER, *texts, "#endif", ""])
