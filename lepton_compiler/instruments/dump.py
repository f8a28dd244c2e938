"""Showing the IR between passes: numbered files, or text on stderr."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TextIO

from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.text import print_graph, write_lir
from lepton_compiler.pipeline import Instrument, Pass


class Dump(Instrument):
    """Writes `000_input.lir`, then `NNN_pass.lir` after each pass that changed the graph, with weights, so each can be run again."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder, self._count = Path(folder), 0

    def before(self, step: Pass, graph: Graph) -> None:  # noqa: D102
        if self._count == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_lir(graph, self.folder / "000_input.lir")

    def after(self, step: Pass, graph: Graph, changed: bool) -> None:  # noqa: D102
        self._count += 1
        if changed:
            write_lir(graph, self.folder / f"{self._count:03d}_{step.name}.lir")


class PrintIRAfter(Instrument):
    """Prints the graph after a pass.

    Args:
        which: a pass's name, `all`, or `changed` for every pass that changed the graph.
        stream: where to; stderr by default.
    """

    def __init__(self, which: str, stream: TextIO | None = None) -> None:
        self.which, self.stream = which, stream

    def after(self, step: Pass, graph: Graph, changed: bool) -> None:  # noqa: D102
        if self.which == "all" or self.which == step.name or (self.which == "changed" and changed):
            print(f"# IR after {step}{'' if changed else ' (unchanged)'}\n{print_graph(graph)}", file=self.stream or sys.stderr, end="")
