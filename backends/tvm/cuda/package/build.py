"""One artefact: launches, program, memory plan, weights and images become files and a manifest."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lepton_compiler.analysis.attention import SEPARATE
from lepton_compiler.analysis.memory import Plan
from lepton_compiler.backend import Artifact
from lepton_compiler.backends.tvm.cuda.compilers import Image, compile_images
from lepton_compiler.backends.tvm.cuda.package.header import header
from lepton_compiler.backends.tvm.cuda.package.source import Sizes, image_symbol, is_recorded, source
from lepton_compiler.backends.tvm.cuda.recurrent.report import layer_rows
from lepton_compiler.backends.tvm.cuda.unit import unit
from lepton_compiler.backends.tvm.kernels import Kernel
from lepton_compiler.backends.tvm.package.build import Package, _call_row, _row, _sizes, _state_row
from lepton_compiler.backends.tvm.package.source import calls
from lepton_compiler.backends.tvm.program import Call
from lepton_compiler.toolchain import Toolchain, find_toolchain


def package(content: Package, cache: Path | None, jobs: int) -> Artifact:
    """Compile the kernels, generate the host's sources, compile and link them.

    Raises:
        LeptonError: a compiler failed.
        MissingDependency: there is no compiler for CUDA, or for C.
    """
    plans, kernels, options = content.plans(), content.kernels(), content.options
    name, text = options.name, unit(kernels)
    images, compiler = compile_images(text, options.target.gpus, cache, jobs)
    sizes = Sizes(max(plan.arena_bytes for plan in plans), content.weights.nbytes)
    texts = {
        f"{name}.h": header(content.interface, sizes.arena, sizes.weights, options.scales),
        f"{name}.c": source(content.interface, content.variants, [dict(enumerate(p.offsets)) for p in plans], images, sizes),
        f"{name}.cu": text,
    }
    files = {**_link(content, images, texts), **{file: body.encode() for file, body in texts.items()}}
    return Artifact(files, _manifest(content, plans, kernels, images, compiler, files))


def _link(content: Package, images: Sequence[Image], texts: Mapping[str, str]) -> dict[str, bytes]:
    """The library of the host's code, the weights and the images."""
    options, tools = content.options, find_toolchain()
    name = options.name
    with tempfile.TemporaryDirectory(prefix="lepton-") as temporary:
        folder = Path(temporary)
        for file, text in texts.items():
            (folder / file).write_text(text)
        with (folder / "weights.bin").open("wb") as blob:
            content.weights.write(blob)
        data = {f"{name}_weights": "weights.bin"}
        for k, image in enumerate(images):
            (folder / f"image{k}.bin").write_bytes(image.code + b"\0")
            data[image_symbol(name, k)] = f"image{k}.bin"
        (folder / f"{name}_data.S").write_text("\n".join([*(_included(s, f) for s, f in data.items()), NO_STACK]))
        with ThreadPoolExecutor() as workers:
            objects = list(workers.map(lambda file: _object(tools, folder, file), (f"{name}_data.S", f"{name}.c")))
        if options.emit == "static":
            tools.archive(folder, objects, f"lib{name}.a")
            return {f"lib{name}.a": (folder / f"lib{name}.a").read_bytes()}
        if options.emit == "obj":
            tools.partial(folder, objects, "joined.o")
            return {f"{name}.o": (folder / "joined.o").read_bytes()}
        doors = ("run", "run_async", "open", "close", "message", *(("reset",) if options.states else ()))
        tools.shared(folder, objects, f"lib{name}.so", [f"{name}_{door}" for door in doors])
        return {f"lib{name}.so": (folder / f"lib{name}.so").read_bytes()}


NO_STACK = '.section .note.GNU-stack,"",%progbits\n'


def _object(tools: Toolchain, folder: Path, file: str) -> str:
    return tools.compile(folder, file, "-O2", *(("-D_GNU_SOURCE",) if file.endswith(".c") else ()))


def _included(symbol: str, file: str) -> str:
    return "\n".join(
        [
            f'.section .rodata.{symbol},"a",%progbits',
            ".balign 64",
            f".globl {symbol}",
            f".hidden {symbol}",
            f".type {symbol}, %object",
            f"{symbol}:",
            f'.incbin "{file}"',
            f".size {symbol}, . - {symbol}",
        ]
    )


def _code_row(kernel: Kernel) -> dict[str, Any]:
    """One kernel: bytes of what its parameters point to, and how its functions are launched."""
    launches = [
        {
            "symbol": x.symbol,
            "grid": list(x.grid),
            "block": list(x.block),
            "arguments": list(x.arguments),
            "shared_bytes": x.shared_bytes,
            **({"together": True} if x.together else {}),
            **({"before": x.before} if x.before else {}),
        }
        for x in kernel.launches
    ]
    return {"symbol": kernel.symbol, "parameters": [p.type.nbytes for p in kernel.parameters], "launches": launches}


def _attention_row(every: Sequence[Call]) -> dict[str, Any]:
    """How many kernels are attention as a whole, and why other attention is not one kernel, by its softmax."""
    inner = [n for c in every for n in (c.node.regions[0] if c.node.op.name == "Fused" else [c.node])]
    reasons = {n.describe(): rule.removeprefix(SEPARATE) for n in inner for rule in n.loc.rules if rule.startswith(SEPARATE)}
    return {"kernels": sum(getattr(c.node.op, "kind", "") == "attention" for c in every), "separate": reasons}


def _manifest(
    content: Package, plans: Sequence[Plan], kernels: Sequence[Kernel], images: Sequence[Image], compiler: str, files: Mapping[str, bytes]
) -> dict[str, Any]:
    plan = max(plans, key=lambda p: p.arena_bytes)
    every = [c for v, p in zip(content.variants, plans, strict=True) for c in calls(v.program.statements)]
    rows = [_call_row(c, p) for v, p in zip(content.variants, plans, strict=True) for c in calls(v.program.statements)]
    facts: dict[str, Any] = {
        "inputs": [_row(port, "varies") for port in content.interface.inputs],
        "outputs": [_row(port, "dynamic") for port in content.interface.outputs],
        "arena_bytes": plan.arena_bytes,
        "arena_lower_bound": plan.lower_bound,
        "arena_peak": list(plan.peak),
        "weights_bytes": content.weights.nbytes,
        "code_bytes": sum(len(image.code) for image in images),
        "kernels": len(rows),
        "distinct_kernels": len(kernels),
        "launches": sum(len(c.kernel.launches) for c in every),
        "recorded": is_recorded(content.variants),
        "cuda_compiler": compiler,
        "images": [{"architecture": i.gpu.name, "kind": "ptx" if i.is_ptx else "cubin", "bytes": len(i.code)} for i in images],
        "recurrent": [row for v in content.variants for row in layer_rows(v.program.statements)],
        "serial": sorted({f"{k.symbol}: {note}" for k in kernels for note in k.notes}),
        "attention": _attention_row(every),
        "code": [_code_row(kernel) for kernel in kernels],
        "library_bytes": max(len(v) for v in files.values()),
        "calls": rows,
    }
    if content.interface.states:
        facts["states"] = [_state_row(s, plan, content.variants[0]) for s in content.interface.states]
    return facts | ({"sizes": _sizes(content)} if content.interface.dimensions else {})
