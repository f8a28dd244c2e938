"""Products by the generator of tensor cores: what it is told of a kernel's parameters and of what becomes of a sum."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from tvm import tirx

from lepton_compiler.backends.tvm.c99.expressions import bare
from lepton_compiler.backends.tvm.cuda.generate.function import KernelText
from lepton_compiler.backends.tvm.cuda.products.anchors import Anchor
from lepton_compiler.backends.tvm.cuda.products.chosen import tiling_of
from lepton_compiler.backends.tvm.cuda.products.ending import epilogue_of, names_of, writer_at
from lepton_compiler.backends.tvm.cuda.products.product import Product
from lepton_compiler.backends.tvm.cuda.tensor_cores import (
    Arithmetic,
    Convolution,
    Device,
    Epilogue,
    Gemm,
    Plan,
    device_of,
    generate,
    ranked,
    shape_of,
)
from lepton_compiler.backends.tvm.cuda.text.support import INLINE
from lepton_compiler.backends.tvm.cuda.unit import LIBRARY
from lepton_compiler.backends.tvm.launches import Launch
from lepton_compiler.gpus import Gpu


def generated_types(gpus: Sequence[Gpu]) -> frozenset[str]:
    """Element types of products that the generator takes for all architectures; `int8` stands for codes of 8 bits, signed or not."""
    return frozenset.intersection(*(gpu.multiplied for gpu in gpus))


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
    """Add the functions of a product; a workspace becomes one more parameter.

    Raises:
        UsageError: tuning chose tiles that do not fit.
    """
    names, symbol = names_of(kernel), f"{kernel.symbol}_product"
    problem, device = problem_of(anchor, arithmetic), smallest(gpus)
    shape = shape_of(symbol, problem)
    epilogue = _with_zero_points(kernel, epilogue_of(kernel, symbol, anchor.output, anchor.product.sums), anchor.product)
    tiling = tiling_of(kernel.choice, shape, device) or ranked(shape, device, devices_of(gpus))[0]
    plan = generate(symbol, problem, epilogue, device, tiling)
    if plan.workspace_bytes:
        kernel.space(tirx.decl_buffer((plan.workspace_bytes // 4,), anchor.product.kind, "workspace", layout=None))
        names.append("workspace")
    add_plan(kernel, plan, names)


def devices_of(gpus: Sequence[Gpu]) -> list[Device]:
    """What the choice of tiles knows of some GPUs."""
    return [device_of(gpu.name) for gpu in gpus]


def smallest(gpus: Sequence[Gpu]) -> Device:
    """The GPU whose blocks have the least shared memory: what fits there fits all; with products of groups of warps if one of them has such, and with
    clusters if some of them, or all, have those.
    """
    devices = devices_of(gpus)
    found = {device.clusters for device in devices}
    least = min(reversed(devices), key=lambda d: d.shared_per_block)
    return replace(least, group=max(d.group for d in devices), clusters=found.pop() if len(found) == 1 else "some")


def add_plan(kernel: KernelText, plan: Plan, names: Sequence[str]) -> None:
    """Add what a generator wrote, of which arguments are called by `names` in the order of the kernel's parameters."""
    kernel.support.chunks.setdefault(LIBRARY, LIBRARY + "\n")
    kernel.functions.append(re.sub(r"\n\s*\n", "\n", plan.text))
    for launch in plan.launches:
        arguments = tuple(names.index(a) for a in launch.arguments)
        kernel.launches.append(Launch(launch.symbol, launch.grid, launch.block, arguments, launch.shared_bytes, before=launch.before))


def problem_of(anchor: Anchor, arithmetic: Arithmetic) -> Gemm | Convolution:
    """What the generator is asked; parameters are called `p0`, `p1`, ..."""
    names = {hash(buffer): f"p{k}" for k, buffer in enumerate(anchor.buffers)}
    assert anchor.product.problem is not None
    return anchor.product.problem(lambda buffer: names[hash(buffer)], arithmetic)


def _with_zero_points(kernel: KernelText, epilogue: Epilogue, product: Product) -> Epilogue:
    """The functions of an epilogue, and those that give zero points of codes and what lies outside of an image."""
    at, lines = "int batch, int m, int n", [epilogue.helpers]
    for k, name in enumerate(("zero_a", "zero_b", "fill")):
        writer, variables = writer_at(kernel, {"batch": product.batch, "m": product.rows, "n": product.columns})
        number = (*(product.zeros(*variables) if product.zeros else (None, None)), product.fill)[k]
        if number is not None:
            text = bare(writer.value(number))
            lines += [f"{INLINE} int {epilogue.symbol}_{name}({epilogue.parameters}, {at}) {{", *writer.lines, f"  return {text};", "}"]
    return replace(epilogue, helpers="\n".join(lines), known_fill=isinstance(product.fill, tirx.IntImm))
