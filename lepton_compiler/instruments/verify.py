"""Checking the IR after every pass that changed it."""

from __future__ import annotations

from lepton_compiler.errors import InvalidIR
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.verify import verify
from lepton_compiler.pipeline import Instrument, Pass


class Verify(Instrument):
    """Runs `verify` and names the pass that broke an invariant; inputs, outputs and their types must stay as they were."""

    def __init__(self) -> None:
        self._interface: list[str] = []

    def before(self, step: Pass, graph: Graph) -> None:  # noqa: D102
        self._interface = _interface(graph)

    def after(self, step: Pass, graph: Graph, changed: bool) -> None:  # noqa: D102
        if not changed:
            return
        try:
            verify(graph)
        except InvalidIR as error:
            found = error.diagnostics[0]
            raise InvalidIR(f"after pass '{step.name}': {found.message}", where=found.where) from error
        if _interface(graph) != self._interface:
            raise InvalidIR(
                f"pass '{step.name}' changed the interface from {self._interface} to {_interface(graph)}", where=f"graph '{graph.name}'"
            )


def _interface(graph: Graph) -> list[str]:
    return [repr(v) for v in graph.inputs] + ["->"] + [f"%{v.name}: {v.type.dtype} of rank {v.type.rank}" for v in graph.outputs]
