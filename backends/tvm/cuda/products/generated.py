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
from lepton_compiler.backends.tvm.cuda.tensor_cores import Arithmetic, Convolution, Epilogue, device_of, generate
from lepton_compiler.backends.tvm.cuda.text.support import INLINE
from lepton_compiler.backends.tvm.cuda.text.writer import DeviceWriter
from lepton_compiler.backends.tvm.cuda.unit import LIBRARY
from lepton_compiler.backends.tvm.launches import Launch
from lepton_compiler.backends.tvm.schedules.loops import bits_of
from lepton_compiler.gpus import Gpu

OLDEST, OLDEST_BFLOAT16 = (7, 5), (8, 0)
"""Compute capabilities from which on the generator has kernels, and kernels that multiply in tf32 and bfloat16."""


def generated_types(gpus: Sequence[Gpu]) -> frozenset[str]:
    """Element types of products that the generator takes for all architectures; `int8` stands for codes of 8 bits, signed or not."""
    oldest = min(gpu.capability for gpu in gpus)
    types = {"float32", "float16", "int8"} if oldest >= OLDEST else set()
    return frozenset(types | ({"bfloat16"} if oldest >= OLDEST_BFLOAT16 else set()))


def arithmetic_of(anchor: Anchor, extensions: Sequence[str], gpus: Sequence[Gpu]) -> Arithmetic:
    """What is multiplied: elements as they are stored; float32 in tf32 where that was asked for."""
    if anchor.product.kind == "int32":
        return "int8"
    names: dict[str, Arithmetic] = {"float16": "float16", "bfloat16": "bfloat16"}
    assert anchor.product.problem is not None
    problem = anchor.product.problem(lambda buffer: "", "float32")
    element = problem.element if isinstance(problem, Convolution) else problem.a.element
    if element in names:
        return names[element]
    return "tf32" if "tf32" in extensions and "bfloat16" in generated_types(gpus) else "float32"


def generated_product(kernel: KernelText, anchor: Anchor, arithmetic: Arithmetic, gpus: Sequence[Gpu]) -> None:
    """Add the functions of a product; a workspace becomes one more parameter."""
    problem, names = anchor.product.problem, [f"p{k}" for k in range(len(kernel.buffers))]
    assert problem is not None
    by_buffer = dict(zip(map(hash, kernel.buffers), names, strict=True))
    epilogue = _epilogue(kernel, anchor, names)
    device = min((device_of(gpu.name) for gpu in reversed(gpus)), key=lambda d: d.shared_per_block)
    plan = generate(f"{kernel.symbol}_product", problem(lambda buffer: by_buffer[hash(buffer)], arithmetic), epilogue, device)
    if plan.workspace_bytes:
        kernel.space(tirx.decl_buffer((plan.workspace_bytes // 4,), anchor.product.kind, "workspace", layout=None))
        names.append("workspace")
    kernel.support.chunks.setdefault(LIBRARY, LIBRARY + "\n")
    kernel.functions.append(re.sub(r"\n\s*\n", "\n", plan.text))
    for launch in plan.launches:
        arguments = tuple(names.index(a) for a in launch.arguments)
        kernel.launches.append(Launch(launch.symbol, launch.grid, launch.block, arguments, launch.shared_bytes))


def _epilogue(kernel: KernelText, anchor: Anchor, names: Sequence[str]) -> Epilogue:
    """The functions that say what is stored for a sum, and where; and those of zero points."""
    output, types, product = anchor.output, [C_TYPES[str(b.dtype)] for b in kernel.buffers], anchor.product
    target = names[[hash(b) for b in kernel.buffers].index(hash(output))]
    formals = ", ".join(f"{'' if n == target else 'const '}{t} *__restrict__ {n}" for n, t in zip(names, types, strict=True))
    at, c, symbol = "int batch, int m, int n", C_TYPES[str(output.dtype)], f"{kernel.symbol}_product"
    writer, index = _at(kernel, anchor)
    total = tirx.Var("total", product.kind)
    writer.names[hash(total)] = writer.name("total")
    value = bare(writer.value(product.ending(total, index)))
    lines = [f"{INLINE} {c} {symbol}_value({formals}, {at}, {C_TYPES[product.kind]} total) {{", *writer.lines, f"  return {value};", "}"]
    writer, index = _at(kernel, anchor)
    lines += [f"{INLINE} int {symbol}_place({formals}, {at}) {{", f"  return {writer.index(writer.flat(output, index))};", "}"]
    for k, name in enumerate(("zero_a", "zero_b", "fill")):
        writer, variables = _variables(kernel, anchor)
        number = (*(product.zeros(*variables) if product.zeros else (None, None)), product.fill)[k]
        if number is not None:
            text = bare(writer.value(number))
            lines += [f"{INLINE} int {symbol}_{name}({formals}, {at}) {{", *writer.lines, f"  return {text};", "}"]
    return Epilogue(symbol, "\n".join(lines), formals, tuple(names), target, c, bits_of(output.dtype) // 8, _contiguous(anchor))


def _at(kernel: KernelText, anchor: Anchor) -> tuple[DeviceWriter, tuple[Any, ...]]:
    """A writer that knows an element of the result by batch, row and column; and the index of that element."""
    writer, variables = _variables(kernel, anchor)
    return writer, anchor.product.place(*variables)


def _variables(kernel: KernelText, anchor: Anchor) -> tuple[DeviceWriter, list[Any]]:
    """A writer that knows batch, row and column; and their variables."""
    writer, product = kernel.writer(), anchor.product
    variables = []
    for name, extent in (("batch", product.batch), ("m", product.rows), ("n", product.columns)):
        variables.append(tirx.Var(name, "int32"))
        writer.range(variables[-1], extent, writer.name(name))
    return writer, variables


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
