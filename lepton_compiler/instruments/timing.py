"""How long each pass took."""

from __future__ import annotations

import time
from dataclasses import dataclass

from lepton_compiler.ir.graph import Graph
from lepton_compiler.pipeline import Instrument, Pass


@dataclass(frozen=True)
class Row:
    """One run of one pass: seconds, whether it changed the graph, and how many nodes there were after it."""

    name: str
    seconds: float
    changed: bool
    nodes: int


class Timing(Instrument):
    """Collects a `Row` per pass; put it last, so that it does not time other instruments."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._start = 0.0

    def before(self, step: Pass, graph: Graph) -> None:  # noqa: D102
        self._start = time.perf_counter()

    def after(self, step: Pass, graph: Graph, changed: bool) -> None:  # noqa: D102
        self.rows.append(Row(step.name, time.perf_counter() - self._start, changed, len(graph)))

    def table(self) -> str:
        """The rows as text: milliseconds, share of the total, nodes after, `*` where the graph changed."""
        total = sum(row.seconds for row in self.rows)
        lines = [f"{'pass':<28}{'ms':>10}{'%':>7}{'nodes':>8}"]
        for row in self.rows:
            share = 100 * row.seconds / total if total else 0.0
            lines.append(f"{row.name + (' *' if row.changed else ''):<28}{row.seconds * 1e3:>10.2f}{share:>7.1f}{row.nodes:>8}")
        return "\n".join([*lines, f"{'total':<28}{total * 1e3:>10.2f}"])
