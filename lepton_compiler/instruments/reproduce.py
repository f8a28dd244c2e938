"""One command to replay a failure."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TextIO

from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.text import write_lir
from lepton_compiler.pipeline import Instrument, Pass


class CrashReproducer(Instrument):
    """Keeps the graph as it was before each pass; when one fails, writes it down with the command that replays the failure.

    Args:
        folder: where `reproducer.lir` (weights beside it) and `reproducer.txt` go.
        stream: where to say so; stderr by default.
    """

    def __init__(self, folder: str | os.PathLike[str], stream: TextIO | None = None) -> None:
        self.folder, self.stream = Path(folder), stream
        self._kept: Graph | None = None

    def before(self, step: Pass, graph: Graph) -> None:  # noqa: D102
        self._kept = graph.copy()

    def after(self, step: Pass, graph: Graph, changed: bool) -> None:  # noqa: D102
        self._kept = None

    def failed(self, step: Pass, graph: Graph, error: Exception) -> None:  # noqa: D102
        if self._kept is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = write_lir(self._kept, self.folder / "reproducer.lir")
        command = f"lepton opt {shlex.quote(str(path))} --passes {shlex.quote(str(step))}"
        (self.folder / "reproducer.txt").write_text(f"{command}\n\n{type(error).__name__}: {error}\n", encoding="utf-8")
        print(f"pass '{step.name}' failed; replay it with\n  {command}", file=self.stream or sys.stderr)
