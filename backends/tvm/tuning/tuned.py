"""What tuning a model gives, on whatever it is measured; and how the time for it is shared out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

SEARCH_SHARE = 0.85
"""Share of the time for the search; the rest is for the whole model."""
NEGLIGIBLE = 0.003
"""Share of the model's time below which a kernel is left as it is."""


@dataclass
class Tuned:
    """What tuning a graph gave.

    Attributes:
        choices: by structure of a kernel.
        kernels: distinct ones in the graph.
        finished: those for which a choice is known now.
        measured: kernels that were not in the database yet.
        skipped: candidates that could not be compiled or run.
        ratio: time of the tuned model divided by that of the other.
    """

    choices: dict[str, Mapping[str, int]] = field(default_factory=dict)
    kernels: int = 0
    finished: int = 0
    measured: int = 0
    skipped: int = 0
    ratio: float = 1.0
