"""One artefact: kernels, program, memory plan and weights become files and a manifest."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lepton_compiler.analysis.memory import Interval, Plan, plan_memory
from lepton_compiler.backend import Artifact, BuildOptions
from lepton_compiler.backends.tvm.kernels import Kernel
from lepton_compiler.backends.tvm.package import firmware, portable, sharing
from lepton_compiler.backends.tvm.package import threads as pool
from lepton_compiler.backends.tvm.package.header import header
from lepton_compiler.backends.tvm.package.interface import Interface, Port, State, Variant
from lepton_compiler.backends.tvm.package.source import calls, portable_source, source
from lepton_compiler.backends.tvm.package.work import work
from lepton_compiler.backends.tvm.program import Buffer, Call
from lepton_compiler.backends.tvm.weights import WeightStore
from lepton_compiler.toolchain import find_toolchain


@dataclass(frozen=True)
class Package:
    """What is to be packaged: a program for each choice of sizes, which share weights, kernels and the arena."""

    interface: Interface
    variants: Sequence[Variant]
    weights: WeightStore
    options: BuildOptions

    def plans(self) -> list[Plan]:
        """The arena of each variant."""
        return [plan_memory([Interval(b.name, b.size, b.start, b.end) for b in v.program.buffers]) for v in self.variants]

    def calls(self) -> list[Call]:
        """All kernel calls."""
        return [call for v in self.variants for call in calls(v.program.statements)]

    def kernels(self) -> list[Kernel]:
        """The distinct kernels, in order of first call."""
        return list({c.kernel.symbol: c.kernel for c in self.calls()}.values())


def package(content: Package) -> Artifact:
    """Generate sources, compile and link them.

    Raises:
        LeptonError: the C compiler failed.
        MissingDependency: there is no C compiler.
    """
    plans, kernels, name, threads = content.plans(), content.kernels(), content.options.name, content.options.threads
    weights_bytes = content.weights.nbytes
    arena_bytes = max(plan.arena_bytes for plan in plans)
    if content.options.emit == "c":
        files = {file: text.encode() for file, text in _sources(content, plans, kernels, arena_bytes).items()}
        return Artifact(files, _manifest(content, plans, kernels, weights_bytes, files))
    how = sharing.Sharing(threads, max(sharing.gain(v.program.statements, threads) for v in content.variants))
    texts = {
        f"{name}.h": header(content.interface, arena_bytes, weights_bytes, threads, content.options.scales),
        f"{name}.c": source(
            content.interface,
            content.variants,
            [dict(enumerate(p.offsets)) for p in plans],
            how,
            content.options.profile,
            content.options.target.is_firmware,
        ),
    }
    pooled = {f"{name}_threads.h": pool.header(name), f"{name}_threads.c": pool.source(name, threads)} if how.pays else {}
    library, size = _link(content, kernels, texts | pooled)
    files = {**library, **{k: v.encode() for k, v in texts.items()}}
    manifest = _manifest(content, plans, kernels, weights_bytes, files)
    if size is not None:
        firmware.check_budget(size, max(plans, key=lambda p: p.arena_bytes), content.options)
        manifest |= {"code_bytes": size.code, "flash_bytes": size.flash, "stack_bytes": size.stack}
    return Artifact(files, manifest)


def _sources(content: Package, plans: Sequence[Plan], kernels: Sequence[Kernel], arena_bytes: int) -> dict[str, str]:
    """The texts of an artefact in portable C."""
    name, arrays, weights_bytes = content.options.name, content.weights.arrays, content.weights.nbytes
    symbols = portable.constant_symbols(name, arrays)
    offsets = [dict(enumerate(p.offsets)) for p in plans]
    return {
        f"{name}.h": header(content.interface, arena_bytes, weights_bytes, 1, content.options.scales),
        f"{name}.c": portable_source(content.interface, content.variants, offsets, symbols),
        f"{name}_kernels.h": portable.kernels_header(name, kernels, arrays),
        f"{name}_kernels.c": portable.kernels_source(name, kernels),
        f"{name}_weights.c": portable.weights_source(name, arrays),
    }


def _link(content: Package, kernels: Sequence[Kernel], texts: dict[str, str]) -> tuple[dict[str, bytes], firmware.Footprint | None]:
    """The library, and for a microcontroller what it takes."""
    options = content.options
    name, tools = options.name, find_toolchain(options.target)
    with tempfile.TemporaryDirectory(prefix="lepton-") as temporary:
        folder = Path(temporary)
        for file, text in texts.items():
            (folder / file).write_text(text)
        with (folder / f"{name}.weights.bin").open("wb") as blob:
            content.weights.write(blob)
        (folder / f"{name}_weights.S").write_text(_weights_assembly(name))
        sources = [f"{name}_weights.S", *(file for file in texts if file.endswith(".c"))]
        level = "-Os" if options.target.is_firmware else "-O2"
        with ThreadPoolExecutor() as workers:
            objects = list(workers.map(lambda file: tools.compile(folder, file, level), sources))
        for kernel in kernels:
            (folder / f"{kernel.symbol}.o").write_bytes(kernel.object)
            objects.append(f"{kernel.symbol}.o")
        if options.target.is_firmware:
            objects += firmware.support(tools, folder, objects, name)
        size = firmware.footprint(folder, objects, name) if options.target.is_firmware else None
        match "static" if options.emit == "lib" and options.target.is_firmware else options.emit:
            case "static":
                result = f"lib{name}.a"
                tools.archive(folder, objects, result)
            case "obj":
                tools.partial(folder, objects, "joined.o")
                return {f"{name}.o": (folder / "joined.o").read_bytes()}, size
            case _:
                result = f"lib{name}.so"
                exports = [
                    "run",
                    *(["run_on"] if options.threads > 1 else []),
                    *(["profile"] if options.profile else []),
                    *(["reset"] if options.states else []),
                ]
                tools.shared(folder, objects, result, [f"{name}_{e}" for e in exports])
        return {result: (folder / result).read_bytes()}, size


def _weights_assembly(name: str) -> str:
    return "\n".join(
        [
            f'.section .rodata.{name}_weights,"a",%progbits',
            ".balign 64",
            f".globl {name}_weights",
            f".hidden {name}_weights",
            f".type {name}_weights, %object",
            f"{name}_weights:",
            f'.incbin "{name}.weights.bin"',
            f".size {name}_weights, . - {name}_weights",
            '.section .note.GNU-stack,"",%progbits',
            "",
        ]
    )


def _manifest(
    content: Package, plans: Sequence[Plan], kernels: Sequence[Kernel], weights_bytes: int, files: dict[str, bytes]
) -> dict[str, Any]:
    plan = max(plans, key=lambda p: p.arena_bytes)
    rows = [_call_row(c, p) for v, p in zip(content.variants, plans, strict=True) for c in calls(v.program.statements)]
    facts = {
        "inputs": [_row(port, "varies") for port in content.interface.inputs],
        "outputs": [_row(port, "dynamic") for port in content.interface.outputs],
        "arena_bytes": plan.arena_bytes,
        "arena_lower_bound": plan.lower_bound,
        "arena_peak": list(plan.peak),
        "weights_bytes": weights_bytes,
        "code_bytes": 0 if content.options.emit == "c" else sum(_text_bytes(k.object) for k in kernels),
        "kernels": len(rows),
        "distinct_kernels": len(kernels),
        "library_bytes": max(len(v) for v in files.values()),
        "calls": rows,
    }
    if content.interface.states:
        facts["states"] = [_state_row(s, plan, content.variants[0]) for s in content.interface.states]
    return facts | ({"sizes": _sizes(content)} if content.interface.dimensions else {})


def _sizes(content: Package) -> dict[str, Any]:
    """The dimensions of which there are several sizes, and the shapes of the inputs for each choice."""
    variants = [{"sizes": list(v.sizes), "inputs": [list(i.type.static_shape) for i in v.graph.inputs]} for v in content.variants]
    return {"dimensions": [d.name for d in content.interface.dimensions], "variants": variants}


def _row(port: Port, key: str) -> dict[str, Any]:
    """One input or output; `shape` has the largest sizes, and `key` lists the axes whose size differs between runs."""
    row = {"name": port.name, "field": port.field, "dtype": port.dtype.name, "shape": list(port.shape)}
    return row | ({key: list(port.loose)} if port.loose else {})


def _state_row(state: State, plan: Plan, variant: Variant) -> dict[str, Any]:
    """A tensor that stays in the arena, and where."""
    buffer = next(b for b in variant.program.buffers if b.name == state.input)
    facts = {"dtype": state.type.dtype.name, "shape": list(state.type.static_shape)}
    return {"input": state.input, "output": state.output, **facts, "offset": plan.offsets[buffer.index]}


def _call_row(call: Call, plan: Plan) -> dict[str, Any]:
    def place(buffer: Buffer) -> str:
        return f"arena+{plan.offsets[buffer.index]}" if buffer.kind == "arena" else f"{buffer.kind}:{buffer.name}"

    return {
        "symbol": call.kernel.symbol,
        "sources": list(call.node.loc.sources),
        "rules": list(call.node.loc.rules),
        "outputs": [str(o.type) for o in call.node.outputs],
        **work(call.node),
        "arguments": [place(a.buffer) for a in call.arguments],
    }


def _text_bytes(code: bytes) -> int:
    """Bytes of the executable sections of a little-endian ELF object of 32 or 64 bits."""
    word, header = (8, 0x28) if code[4] == 2 else (4, 0x20)

    def number(row: bytes, at: int, width: int) -> int:
        return int.from_bytes(row[at : at + width], "little")

    table, size, count = (number(code, at, w) for at, w in ((header, word), (header + word + 10, 2), (header + word + 12, 2)))
    rows = [code[table + k * size : table + (k + 1) * size] for k in range(count)]
    return sum(number(row, 8 + 3 * word, word) for row in rows if number(row, 8, word) & 4)
