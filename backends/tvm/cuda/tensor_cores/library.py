"""The device code that generated kernels call: the texts of `device/`, once per translation unit."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from lepton_compiler.backends.tvm.cuda.text.order import ORDER

PARTS = ("ptx", "sources", "tiles", "turned", "converted", "stores", "tensor_cores", "warpgroups", "simt", "attention")
WIDTHS = (64, 128, 256)
"""Columns of the products of a group of warps."""


@cache
def library() -> str:
    """CUDA C++ that needs no header, neither nvcc's nor NVRTC's."""
    texts = [Path(__file__).with_name("device").joinpath(f"{part}.cuh").read_text() for part in PARTS]
    whole = "\n".join(["#ifndef LEPTON_TENSOR_CORES", "#define LEPTON_TENSOR_CORES", ORDER, *texts, "#endif", ""])
    return whole.replace("// @WGMMA@\n", "\n".join(_wgmma(columns) for columns in WIDTHS))


def _wgmma(columns: int) -> str:
    """d[64][columns] += a[64][32 bytes] * b[32 bytes][columns], a lane having the sums `d[column / 8][4]`; the instruction names every register."""
    count = columns // 2
    registers = ", ".join(f"%{i}" for i in range(count))
    outputs = ", ".join(f'"+f"(d[{i // 4}][{i % 4}])' for i in range(count))
    lines = [
        "template <Arithmetic KIND>",
        f"__device__ __forceinline__ void wgmma(float (&d)[{columns // 8}][4], unsigned long long a, unsigned long long b) {{",
    ]
    for kind in ("f16", "bf16"):
        instruction = f"wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.{kind}.{kind}"
        lines += [
            f"  if constexpr (KIND == Arithmetic::{kind})",
            f'    asm volatile("{{.reg .pred p; setp.ne.b32 p, %{count + 2}, 0; {instruction} {{{registers}}}, %{count}, %{count + 1}, p, 1, 1, 0, 0;}}"',
            f'                 : {outputs} : "l"(a), "l"(b), "r"(1));',
        ]
    return "\n".join([*lines, "}", ""])
