"""One command to replay a failure."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
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
        pass_files: Python files whose passes were loaded, which the replay must load as well.
    """

    def __init__(
        self, folder: str | os.PathLike[str], stream: TextIO | None = None, pass_files: Sequence[str | os.PathLike[str]] = ()
    ) -> None:
        self.folder, self.stream, self.pass_files = Path(folder), stream, tuple(pass_files)
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
        loads = [word for file in self.pass_files for word in ("--load-pass", str(Path(file).resolve()))]
        command = shlex.join(["lepton", "opt", str(path), *loads, "--passes", str(step)])
        (self.folder / "reproducer.txt").write_text(f"{command}\n\n{type(error).__name__}: {error}\n", encoding="utf-8")
        print(f"pass '{step.name}' failed; replay it with\n  {command}", file=self.stream or sys.stderr)
