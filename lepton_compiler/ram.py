"""Firmware for a microcontroller with little RAM: where the arena of a model is too large, the backend makes it smaller for some more work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lepton_compiler.backend import Artifact, BuildOptions
from lepton_compiler.errors import Diagnostic, OverBudgetError
from lepton_compiler.ir.graph import Graph
from lepton_compiler.pipeline import Instrument, PassContext, parse_pipeline

TRIES = 3
"""Builds with smaller and smaller arenas: what the stack needs beside it is known when the kernels are compiled."""

STACK = 2048
"""Bytes that the stack is taken to need before it is known."""

Graphs = Mapping[tuple[int, ...], Graph]


@dataclass
class Fitting:
    """Builds a model within `options.ram` bytes.

    Attributes:
        backend: one that can plan memory without compiling has `plan`, `smaller_arena` and `overhead`; others just build.
        options: of the build.
        make: builds graphs; raises `OverBudgetError` where they turn out to need more than there is.
        instruments: told about the passes that run.
    """

    backend: Any
    options: BuildOptions
    make: Callable[[Graphs], Artifact]
    instruments: tuple[Instrument, ...] = ()
    _arenas: dict[tuple[int, ...], int] = field(default_factory=dict)

    def build(self, graphs: Graphs) -> Artifact:
        """Build as it is where that fits, else in patches.

        Raises:
            OverBudgetError: it does not fit, whatever is done.
            UnsupportedError: see `make`.
        """
        ram = self.options.ram
        if ram is None or not self.options.target.is_firmware or not hasattr(self.backend, "smaller_arena"):
            return self.make(graphs)
        self._arenas = {sizes: self.backend.plan(graph, self.options).arena_bytes for sizes, graph in graphs.items()}
        largest, stack = max(self._arenas.values()), STACK
        if largest <= ram:
            try:
                return self.make(graphs)
            except OverBudgetError as error:
                if error.ram is None:
                    raise
                stack = error.ram - largest
        return self._smaller(graphs, ram, stack)

    def _smaller(self, graphs: Graphs, ram: int, stack: int) -> Artifact:
        for attempt in range(1, TRIES + 1):
            room = max(0, ram - stack)
            found = {k: self._shrunk(graph, room) if self._arenas[k] > room else graph for k, graph in graphs.items()}
            plan = max((self.backend.plan(graph, self.options) for graph in found.values()), key=lambda plan: plan.arena_bytes)
            if plan.arena_bytes > ram:
                raise _refusal(plan.arena_bytes, plan.peak, ram)
            try:
                artifact = self.make(found)
            except OverBudgetError as error:
                if error.ram is None or error.ram - plan.arena_bytes <= stack or attempt == TRIES:
                    raise _even_in_patches(error) from error
                stack = error.ram - plan.arena_bytes
            else:
                facts = max((self.backend.overhead(graph, found[k]) for k, graph in graphs.items()), key=lambda facts: facts["macs"])
                return Artifact(artifact.files, {**artifact.manifest, "patches": facts})
        raise AssertionError("the last attempt builds or raises")

    def _shrunk(self, graph: Graph, room: int) -> Graph:
        """The graph with an arena of `room` bytes, or the smallest that the backend's pass gives, whose estimate the plan corrects."""
        best, least, wanted = graph, None, room
        while least is None or (least > room and wanted > 0):
            pipeline = parse_pipeline(self.backend.smaller_arena(wanted))
            found = pipeline.run(graph.copy(), PassContext(self.options.target, self.options.level, self.instruments))
            arena = self.backend.plan(found, self.options).arena_bytes
            if least is not None and arena >= least:
                break
            best, least = found, arena
            wanted -= arena - room
        return best


def _refusal(arena: int, peak: tuple[str, ...], ram: int) -> OverBudgetError:
    alive = ", ".join(f"'{name}'" for name in peak)
    problem = Diagnostic(
        f"it needs {arena:,} bytes of RAM for the arena alone, {arena - ram:,} more than there are, even where layers run in patches",
        f"arena where {alive} are alive" if peak else "",
        "use a smaller input, fewer channels or int8",
    )
    return OverBudgetError([problem], ram=arena)


def _even_in_patches(error: OverBudgetError) -> OverBudgetError:
    first, *rest = error.diagnostics
    return OverBudgetError([replace(first, message=f"{first.message}, even where layers run in patches"), *rest], ram=error.ram)
