"""Whether threads pay for a model as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lepton_compiler.backends.tvm.program import Branch, Call, Repeat, Statement

WORTH = 25_000
"""Nanoseconds per run that threads must save: about what waking the first costs, once per run at worst."""
TURNS = 16
"""Iterations that a loop of unknown length is taken to have."""


@dataclass(frozen=True)
class Sharing:
    """How many threads a call may use, and the nanoseconds that they are estimated to save per run."""

    threads: int
    gain: int

    @property
    def pays(self) -> bool:
        """Whether kernels are shared at all."""
        return self.threads > 1 and self.gain >= WORTH


def gain(statements: Sequence[Statement], threads: int) -> int:
    """Nanoseconds of a run that `threads` threads save."""
    total = 0
    for s in statements:
        match s:
            case Call():
                total += sum(phase.gain(threads) for phase in s.kernel.phases)
            case Branch():
                total += max(gain(s.then, threads), gain(s.other, threads))
            case Repeat():
                total += gain(s.body, threads) * (s.count if isinstance(s.count, int) else TURNS)
    return total
