"""The device code that generated kernels call: the texts of `device/`, once per translation unit."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from lepton_compiler.backends.tvm.cuda.text.order import ORDER

PARTS = ("ptx", "sources", "tiles", "turned", "converted", "stores", "clusters", "tensor_cores", "warpgroups", "simt", "attention")
WIDTHS = (64, 96, 128, 192, 256)
"""Columns of the products of a group of warps."""
FLOATS = ("f16", "bf16")
INTEGERS = ("s8_s8", "u8_s8", "s8_u8", "u8_u8")


@cache
def library() -> str:
    """CUDA C++ that needs no header, neither nvcc's nor NVRTC's."""
    texts = [Path(__file__).with_name("device").joinpath(f"{part}.cuh").read_text() for part in PARTS]
    whole = "\n".join(["#ifndef LEPTON_TENSOR_CORES", "#define LEPTON_TENSOR_CORES", ORDER, *texts, "#endif", ""])
    return whole.replace("// @WGMMA@\n", "\n".join(_wgmma(columns) for columns in WIDTHS))


def _wgmma(columns: int) -> str:
    """d[64][columns] += a[64][32 bytes] * b[32 bytes][columns], a lane having the sums `d[column / 8][4]`; the instruction names every register.

    The sum is added to what is there (`scale-d` is true); floats are multiplied as they are, both lying along k (PTX ISA, "wgmma.mma_async").
    """
    count = columns // 2
    lines = [
        f'#define LEPTON_REGISTERS "{{{", ".join(f"%{i}" for i in range(count))}}}, %{count}, %{count + 1}, p"',
        f"#define LEPTON_SUMS(KIND) {', '.join(f'KIND(d[{i // 4}][{i % 4}])' for i in range(count))}",
    ]
    for total, constraint, kinds in (("float", "f", FLOATS), ("int", "r", INTEGERS)):
        lines += [
            "template <Arithmetic KIND>",
            f"__device__ __forceinline__ void wgmma({total} (&d)[{columns // 8}][4], unsigned long long a, unsigned long long b) {{",
        ]
        for kind in kinds:
            shape = f"m64n{columns}k16.f32.{kind}.{kind}" if total == "float" else f"m64n{columns}k32.s32.{kind.replace('_', '.')}"
            instruction = f"wgmma.mma_async.sync.aligned.{shape}"
            last = ", 1, 1, 0, 0" if total == "float" else ""
            lines += [
                f"  if constexpr (KIND == Arithmetic::{kind})",
                f'    asm volatile("{{.reg .pred p; setp.ne.b32 p, 1, 0; {instruction} " LEPTON_REGISTERS "{last};}}" '
                f': LEPTON_SUMS("+{constraint}") : "l"(a), "l"(b));',
            ]
        lines.append("}")
    return "\n".join([*lines, "#undef LEPTON_REGISTERS", "#undef LEPTON_SUMS", ""])
