"""Many small graphs through the native backend at once: one library for all of them, run in a process of its own."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from lepton_compiler.backend import Artifact, BuildOptions, Level
from lepton_compiler.backends import tvm
from lepton_compiler.backends.tvm.kernels import KernelCache, build_kernels
from lepton_compiler.backends.tvm.spec import spec_of
from lepton_compiler.errors import LeptonError
from lepton_compiler.ir.graph import Graph, Value, copy_node
from lepton_compiler.ir.text import print_graph
from lepton_compiler.ir.types import dtype
from lepton_compiler.passes.levels import passes_for_level
from lepton_compiler.pipeline import PassContext, Pipeline, parse_pipeline
from lepton_compiler.runtime.library import NativeLibrary
from lepton_compiler.target import Target, parse_target

LEVELS: tuple[Level, ...] = ("O0", "O1", "O2", "O3")
GUARD = 64
"""Bytes before and after each buffer that the library must not touch."""
FILLS = (0xFF, 0x55)
"""What the arena and the outputs hold before each of two runs, which must give the same bytes."""

Feeds = Mapping[str, np.ndarray]
Outcome = dict[str, np.ndarray] | str
"""Results by output name, or what went wrong."""


@dataclass
class Program:
    """A graph ready for the backend, what to feed it with, and the levels that lead to it.

    Attributes:
        outcome: its results, or what is wrong; None before it has run.
    """

    graph: Graph
    feeds: Feeds
    levels: list[Level] = field(default_factory=list)
    outcome: Outcome | None = None


def programs(graph: Graph, feeds: Feeds, levels: Sequence[Level] = LEVELS, target: Target | None = None) -> list[Program]:
    """The distinct programs that the optimisation levels make of a graph.

    Raises:
        UnsupportedError: the backend refuses the graph.
    """
    machine = target or parse_target("native")
    found: dict[str, Program] = {}
    for level in levels:
        pipeline = Pipeline((*passes_for_level(level), *parse_pipeline(",".join(tvm.REQUIRED_PASSES)).passes))
        legal = pipeline.run(graph.copy(), PassContext(machine, level))
        tvm.check_static(legal)
        tvm.check_supported(tvm.kernel_nodes(legal))
        found.setdefault(print_graph(legal), Program(legal, feeds)).levels.append(level)
    return list(found.values())


def run_all(batch: Sequence[Program], cache: Path | None = None, target: Target | None = None) -> None:
    """Compile and run all programs, and note their outcomes. One that cannot be compiled, or dies, does not disturb the others."""
    machine = target or parse_target("native")
    if cache is None:
        with tempfile.TemporaryDirectory(prefix="lepton-") as folder:
            _run_part(batch, Path(folder), machine)
    else:
        _run_part(batch, cache, machine)


def _run_part(batch: Sequence[Program], cache: Path, target: Target) -> None:
    """Kernels one program at a time, so that it is known whose does not compile; then one library of all, halved as long as it fails."""
    sound = [p for p in batch if _compiles(p, cache, target)]
    if sound:
        _run_library(sound, cache, target)


def _compiles(program: Program, cache: Path, target: Target) -> bool:
    specs = [spec_of(node) for node in tvm.kernel_nodes(program.graph)]
    try:
        build_kernels(specs, target, jobs=1, cache=KernelCache(cache))
    except LeptonError as error:
        program.outcome = f"does not compile: {error}"
    return program.outcome is None


def _run_library(batch: Sequence[Program], cache: Path, target: Target) -> None:
    results: Any
    try:
        artifact = tvm.build(union([p.graph for p in batch]), BuildOptions("batch", target, cache_dir=cache, jobs=1))
        results = _in_process(lambda: _call(artifact, [p.feeds for p in batch]))
    except LeptonError as error:
        results = f"does not link: {error}"
    if not isinstance(results, str):
        for program, outputs in zip(batch, results, strict=True):
            program.outcome = outputs
    elif len(batch) == 1:
        batch[0].outcome = results
    else:
        _run_library(batch[: len(batch) // 2], cache, target)
        _run_library(batch[len(batch) // 2 :], cache, target)


def union(graphs: Sequence[Graph]) -> Graph:
    """All graphs side by side in one; input and output `x` of graph number 3 is `g3.x`."""
    whole, outputs = Graph("batch"), []
    for k, graph in enumerate(graphs):
        mapped: dict[Value, Value] = {v: whole.add_input(f"g{k}.{v.name}", v.type) for v in graph.inputs}
        for node in graph:
            copy_node(node, whole, mapped)
        for value in graph.outputs:
            assert value.producer is not None or value.tensor is not None
            new = mapped[value] if value.tensor is None else whole.constant(value.tensor)
            whole.rename(new, f"g{k}.{value.name}")
            outputs.append(new)
    whole.set_outputs(outputs)
    return whole


def _in_process(task: Callable[[], Any]) -> Any:
    """The result of `task` run in a child, or what became of the child."""
    global _task
    _task = task
    with ProcessPoolExecutor(1, get_context("fork")) as pool:
        try:
            return pool.submit(_run_task).result(timeout=60)
        except BrokenProcessPool:
            return "the library crashed"
        except TimeoutError:
            for process in (pool._processes or {}).values():
                process.kill()
            return "the library did not return within a minute"


_task: Callable[[], Any] = lambda: None  # noqa: E731


def _run_task() -> Any:
    return _task()


def _call(artifact: Artifact, feeds: Sequence[Feeds]) -> list[Outcome] | str:
    """Run the library twice, with other garbage in its memory each time."""
    rows = artifact.manifest["outputs"]
    library = NativeLibrary.from_bytes(artifact.files["libbatch.so"], {**artifact.manifest, "name": "batch"})
    inputs = [_input(feeds, row) for row in artifact.manifest["inputs"]]
    runs = []
    for fill in FILLS:
        arena = _Buffer(max(1, int(artifact.manifest["arena_bytes"])), fill)
        outputs = [_Buffer(_bytes(row), fill) for row in rows]
        sources = [_Buffer(a.nbytes, fill, a) for a in inputs]
        actual = iter(library.call([b.data for b in sources], [b.data for b in outputs], arena.data))
        broken = [b for b in (arena, *outputs, *sources) if not b.intact()]
        changed = [s for s, a in zip(sources, inputs, strict=True) if s.data.tobytes() != a.tobytes()]
        if broken or changed:
            return f"{len(broken)} buffers overrun, {len(changed)} inputs changed"
        runs.append([_result(b, row, next(actual) if "dynamic" in row else None) for b, row in zip(outputs, rows, strict=True)])
    return _sorted_out([row["name"] for row in rows], runs, len(feeds))


def _result(buffer: _Buffer, row: Mapping[str, Any], shape: tuple[int, ...] | None) -> np.ndarray:
    """What a buffer holds, of its actual shape."""
    array = buffer.data.view(dtype(row["dtype"]).numpy)
    size = array.size if shape is None else math.prod(shape)
    return array[:size].reshape(row["shape"] if shape is None else shape).copy()


def _sorted_out(names: Sequence[str], runs: Sequence[Sequence[np.ndarray]], count: int) -> list[Outcome]:
    results: list[Outcome] = [{} for _ in range(count)]
    for full, first, second in zip(names, *runs, strict=True):
        prefix, _, name = full.partition(".")
        k = int(prefix[1:])
        if first.tobytes() != second.tobytes():
            results[k] = f"output '{name}' depends on what the arena held before"
        found = results[k]
        if isinstance(found, dict):
            found[name] = first
    return results


class _Buffer:
    """Aligned bytes between guards."""

    def __init__(self, size: int, fill: int, content: np.ndarray | None = None) -> None:
        raw = np.full(size + 3 * GUARD, 0xA5, np.uint8)
        start = -raw.ctypes.data % GUARD + GUARD
        self.raw, self.span = raw, (start, start + size)
        self.data = raw[start : start + size]
        self.data[:] = fill if content is None else np.ascontiguousarray(content).reshape(-1).view(np.uint8)

    def intact(self) -> bool:
        """Whether the guards hold what they held."""
        start, end = self.span
        return bool((self.raw[:start] == 0xA5).all() and (self.raw[end:] == 0xA5).all())


def _input(feeds: Sequence[Feeds], row: Mapping[str, Any]) -> np.ndarray:
    prefix, _, name = row["name"].partition(".")
    return np.ascontiguousarray(feeds[int(prefix[1:])][name])


def _bytes(row: Mapping[str, Any]) -> int:
    return int(np.prod(row["shape"], dtype=np.int64)) * dtype(row["dtype"]).numpy.itemsize
