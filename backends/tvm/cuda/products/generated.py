"""Products by the generator of tensor cores: what it is told of a kernel's parameters and of what becomes of a sum."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tvm import tirx

from lepton_compiler.backends.tvm.c99.expressions import bare
from lepton_compiler.backends.tvm.c99.support import C_TYPES
from lepton_compiler.backends.tvm.cuda.generate.function import KernelText
from lepton_compiler.backends.tvm.cuda.products.anchors import Anchor
from lepton_compiler.backends.tvm.cuda.products.chosen import tiling_of
from lepton_compiler.backends.tvm.cuda.tensor_cores import Arithmetic, Convolution, Device, Epilogue, Gemm, device_of, generate, shape_of
from lepton_compiler.backends.tvm.cuda.text.support import INLINE
from lepton_compiler.backends.tvm.cuda.text.writer import DeviceWriter
from lepton_compiler.backends.tvm.cuda.unit import LIBRARY
from lepton_compiler.backends.tvm.launches import Launch
from lepton_compiler.backends.tvm.schedules.loops import bits_of
from lepton_compiler.gpus import Gpu

OLDEST, OLDEST_BFLOAT16 = (7, 5), (8, 0)
"""Compute capabilities from which on the generator has kernels, and kernels that multiply in tf32 and bfloat16."""


def generated_types(gpus: Sequence[Gpu]) -> frozenset[str]:
    """Element types of products that the generator takes for all architectures."""
    oldest = min(gpu.capability for gpu in gpus)
    types = {"float32", "float16"} if oldest >= OLDEST else set()
    return frozenset(types | ({"bfloat16"} if oldest >= OLDEST_BFLOAT16 else set()))


def arithmetic_of(anchor: Anchor, extensions: Sequence[str], gpus: Sequence[Gpu]) -> Arithmetic:
    """What is multiplied: elements as they are stored; float32 in tf32 where that was asked for."""
    names: dict[str, Arithmetic] = {"float16": "float16", "bfloat16": "bfloat16"}
    stored = anchor.parameters[0].type.dtype.name
    if stored in names:
        return names[stored]
    return "tf32" if "tf32" in extensions and "bfloat16" in generated_types(gpus) else "float32"


def generated_product(kernel: KernelText, anchor: Anchor, arithmetic: Arithmetic, gpus: Sequence[Gpu]) -> None:
    """Add the functions of a product; a workspace becomes one more parameter.

    Raises:
        UsageError: tuning chose tiles that do not fit.
    """
    names, symbol = [f"p{k}" for k in range(len(kernel.buffers))], f"{kernel.symbol}_product"
    problem, device = problem_of(anchor, arithmetic), smallest(gpus)
    epilogue = _epilogue(kernel, anchor, names)
    tiling = tiling_of(kernel.choice, shape_of(symbol, problem), device) if kernel.choice else None
    plan = generate(symbol, problem, epilogue, device, tiling)
    if plan.workspace_bytes:
        kernel.space(tirx.decl_buffer((plan.workspace_bytes // 4,), anchor.product.kind, "workspace", layout=None))
        names.append("workspace")
    kernel.support.chunks.setdefault(LIBRARY, LIBRARY + "\n")
    kernel.functions.append(re.sub(r"\n\s*\n", "\n", plan.text))
    for launch in plan.launches:
        arguments = tuple(names.index(a) for a in launch.arguments)
        kernel.launches.append(Launch(launch.symbol, launch.grid, launch.block, arguments, launch.shared_bytes))


def problem_of(anchor: Anchor, arithmetic: Arithmetic) -> Gemm | Convolution:
    """What the generator is asked; parameters are called `p0`, `p1`, ..."""
    names = {hash(buffer): f"p{k}" for k, buffer in enumerate(anchor.buffers)}
    assert anchor.product.problem is not None
    return anchor.product.problem(lambda buffer: names[hash(buffer)], arithmetic)


def smallest(gpus: Sequence[Gpu]) -> Device:
    """The device that tiles must fit: that with the least shared memory, the newest of several."""
    return min((device_of(gpu.name) for gpu in reversed(gpus)), key=lambda d: d.shared_per_block)


def _epilogue(kernel: KernelText, anchor: Anchor, names: Sequence[str]) -> Epilogue:
    """The two functions that say what is stored for a sum, and where."""
    output, types = anchor.output, [C_TYPES[str(b.dtype)] for b in kernel.buffers]
    target = names[[hash(b) for b in kernel.buffers].index(hash(output))]
    formals = ", ".join(f"{'' if n == target else 'const '}{t} *__restrict__ {n}" for n, t in zip(names, types, strict=True))
    at = "int batch, int m, int n"
    writer, index = _at(kernel, anchor)
    total = tirx.Var("total", anchor.product.kind)
    writer.names[hash(total)] = writer.name("total")
    value = bare(writer.value(anchor.product.ending(total, index)))
    c, total_type = C_TYPES[str(output.dtype)], C_TYPES[anchor.product.kind]
    symbol = f"{kernel.symbol}_product"
    lines = [f"{INLINE} {c} {symbol}_value({formals}, {at}, {total_type} total) {{", *writer.lines, f"  return {value};", "}"]
    writer, index = _at(kernel, anchor)
    lines += [f"{INLINE} int {symbol}_place({formals}, {at}) {{", f"  return {writer.index(writer.flat(output, index))};", "}"]
    rows = _contiguous(anchor)
    return Epilogue(symbol, "\n".join(lines), formals, tuple(names), target, c, bits_of(output.dtype) // 8, rows)


def _at(kernel: KernelText, anchor: Anchor) -> tuple[DeviceWriter, tuple[Any, ...]]:
    """A writer that knows an element of the result by batch, row and column; and the index of that element."""
    writer, product = kernel.writer(), anchor.product
    variables = []
    for name, extent in (("batch", product.batch), ("m", product.rows), ("n", product.columns)):
        variables.append(tirx.Var(name, "int32"))
        writer.range(variables[-1], extent, writer.name(name))
    return writer, product.place(*variables)


def _contiguous(anchor: Anchor) -> bool:
    """Whether neighbours along a row of the product are neighbours in memory: the place of the next column is one further on."""
    product = anchor.product
    probe = KernelText("", "", list(anchor.buffers), True)
    writer = probe.writer()
    variables = [tirx.Var(n, "int32") for n in ("batch", "m", "n")]
    for variable, extent in zip(variables, (product.batch, product.rows, product.columns), strict=True):
        writer.range(variable, extent, writer.name(str(variable.name)))
    first = writer.flat(anchor.output, product.place(*variables))
    start = writer.flat(anchor.output, product.place(variables[0], variables[1], tirx.const(0, "int32")))
    return bool(writer.analyzer.can_prove_equal(first, start + variables[2]))
