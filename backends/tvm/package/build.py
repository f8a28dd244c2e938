"""One artefact: kernels, program, memory plan and weights become files and a manifest."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lepton_compiler.analysis.memory import Interval, Plan, plan_memory
from lepton_compiler.backend import Artifact, BuildOptions
from lepton_compiler.backends.tvm.kernels import Kernel
from lepton_compiler.backends.tvm.package import threads as pool
from lepton_compiler.backends.tvm.package.header import header
from lepton_compiler.backends.tvm.package.link import find_toolchain
from lepton_compiler.backends.tvm.package.names import identifiers
from lepton_compiler.backends.tvm.package.source import calls, source
from lepton_compiler.backends.tvm.program import Buffer, Call, Program, stored_type
from lepton_compiler.ir.graph import Graph, Value


@dataclass(frozen=True)
class Package:
    """What is to be packaged."""

    graph: Graph
    program: Program
    options: BuildOptions

    def plan(self) -> Plan:
        """The arena."""
        return plan_memory([Interval(b.name, b.size, b.start, b.end) for b in self.program.buffers])

    def kernels(self) -> list[Kernel]:
        """The distinct kernels, in order of first call."""
        return list({c.kernel.symbol: c.kernel for c in calls(self.program.statements)}.values())


def package(graph: Graph, program: Program, options: BuildOptions) -> Artifact:
    """Generate sources, compile and link them.

    Raises:
        LeptonError: the C compiler failed.
        MissingDependency: there is no C compiler.
    """
    content = Package(graph, program, options)
    plan, kernels, name = content.plan(), content.kernels(), options.name
    weights = weight_blob(program)
    texts = {
        f"{name}.h": header(name, graph.inputs, graph.outputs, plan.arena_bytes, len(weights), options.threads),
        f"{name}.c": source(name, graph.inputs, graph.outputs, program, dict(enumerate(plan.offsets)), options.threads),
    }
    library = _link(content, kernels, texts, weights)
    files = {**library, **{k: v.encode() for k, v in texts.items()}}
    return Artifact(files, _manifest(content, plan, kernels, len(weights), files))


def weight_blob(program: Program) -> bytes:
    """All weights at their offsets."""
    if not program.weights:
        return b"\0" * 64
    last, _ = program.weights[-1]
    blob = bytearray(last.start + max(last.size, 64))
    for buffer, array in program.weights:
        blob[buffer.start : buffer.start + buffer.size] = array.tobytes()
    return bytes(blob)


def _link(content: Package, kernels: Sequence[Kernel], texts: dict[str, str], weights: bytes) -> dict[str, bytes]:
    options = content.options
    name, tools = options.name, find_toolchain()
    with tempfile.TemporaryDirectory(prefix="lepton-") as temporary:
        folder = Path(temporary)
        for file, text in texts.items():
            (folder / file).write_text(text)
        (folder / f"{name}.weights.bin").write_bytes(weights)
        (folder / f"{name}_weights.S").write_text(_weights_assembly(name))
        if options.threads > 1:
            (folder / "lepton_threads.h").write_text(pool.HEADER)
            (folder / "lepton_threads.c").write_text(pool.source(options.threads))
        sources = [f"{name}.c", f"{name}_weights.S", *(["lepton_threads.c"] if options.threads > 1 else [])]
        objects = [tools.compile(folder, file) for file in sources]
        for kernel in kernels:
            (folder / f"{kernel.symbol}.o").write_bytes(kernel.object)
            objects.append(f"{kernel.symbol}.o")
        match options.emit:
            case "static":
                result = f"lib{name}.a"
                tools.archive(folder, objects, result)
            case "obj":
                tools.partial(folder, objects, "joined.o")
                return {f"{name}.o": (folder / "joined.o").read_bytes()}
            case _:
                result = f"lib{name}.so"
                tools.shared(folder, objects, result, [f"{name}_run"], options.threads)
        return {result: (folder / result).read_bytes()}


def _weights_assembly(name: str) -> str:
    return "\n".join(
        [
            ".section .rodata",
            ".balign 64",
            f".globl {name}_weights",
            f".hidden {name}_weights",
            f".type {name}_weights, @object",
            f"{name}_weights:",
            f'.incbin "{name}.weights.bin"',
            f".size {name}_weights, . - {name}_weights",
            '.section .note.GNU-stack,"",@progbits',
            "",
        ]
    )


def _manifest(content: Package, plan: Plan, kernels: Sequence[Kernel], weights_bytes: int, files: dict[str, bytes]) -> dict[str, Any]:
    graph = content.graph
    every = calls(content.program.statements)
    return {
        "inputs": _signature(graph.inputs),
        "outputs": _signature(graph.outputs),
        "arena_bytes": plan.arena_bytes,
        "arena_lower_bound": plan.lower_bound,
        "arena_peak": list(plan.peak),
        "weights_bytes": weights_bytes,
        "code_bytes": sum(_text_bytes(k.object) for k in kernels),
        "kernels": len(every),
        "distinct_kernels": len(kernels),
        "library_bytes": max(len(v) for v in files.values()),
        "calls": [_call_row(c, plan) for c in every],
    }


def _signature(values: Sequence[Value]) -> list[dict[str, Any]]:
    names = identifiers([v.name for v in values])
    return [_row(v, field) for v, field in zip(values, names, strict=True)]


def _row(value: Value, field: str) -> dict[str, Any]:
    """One input or output; `dynamic` lists the axes whose size each run reports, `shape` has the largest one."""
    stored = stored_type(value)
    row = {"name": value.name, "field": field, "dtype": stored.dtype.name, "shape": list(stored.static_shape)}
    loose = [axis for axis, d in enumerate(value.type.shape) if not isinstance(d, int)]
    return row | ({"dynamic": loose} if loose else {})


def _call_row(call: Call, plan: Plan) -> dict[str, Any]:
    def place(buffer: Buffer) -> str:
        return f"arena+{plan.offsets[buffer.index]}" if buffer.kind == "arena" else f"{buffer.kind}:{buffer.name}"

    return {
        "symbol": call.kernel.symbol,
        "sources": list(call.node.loc.sources),
        "rules": list(call.node.loc.rules),
        "outputs": [str(o.type) for o in call.node.outputs],
        "arguments": [place(a.buffer) for a in call.arguments],
    }


def _text_bytes(code: bytes) -> int:
    """Bytes of the executable sections of a 64-bit little-endian ELF object."""
    table, size, count = int.from_bytes(code[40:48], "little"), int.from_bytes(code[58:60], "little"), int.from_bytes(code[60:62], "little")
    rows = [code[table + k * size : table + (k + 1) * size] for k in range(count)]
    return sum(int.from_bytes(row[32:40], "little") for row in rows if int.from_bytes(row[8:16], "little") & 4)
