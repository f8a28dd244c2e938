"""What of a kernel threads can share: its phases, and when sharing one pays."""

from __future__ import annotations

from dataclasses import dataclass

SHARE = 4000
"""Nanoseconds of work that are worth another thread: waking one that spins takes about a tenth, one that sleeps about three times that."""
CHUNK = 1500
"""Nanoseconds that a thread works at least before it asks for more."""


@dataclass(frozen=True)
class Phase:
    """A loop whose iterations may run in any order and at the same time. The next phase begins when all are done.

    Attributes:
        extent: number of iterations; 1 for what one thread does alone.
        nanoseconds: estimated time of all iterations on one thread.
    """

    extent: int
    nanoseconds: int = 0

    def tasks(self, threads: int) -> int:
        """How many threads are worth it, `threads` at most."""
        return max(1, min(threads, self.extent, self.nanoseconds // SHARE))

    def grain(self, tasks: int) -> int:
        """Iterations that a thread takes at once at least: some time's worth, but leaving something for each of `tasks` threads."""
        return max(1, min(-(-self.extent * CHUNK // max(1, self.nanoseconds)), self.extent // tasks))

    def gain(self, threads: int) -> int:
        """Nanoseconds that sharing saves."""
        return self.nanoseconds - self.nanoseconds // self.tasks(threads)


def phase_symbols(symbol: str, count: int) -> list[str]:
    """The names of the functions of a kernel of `count` phases, or of none: it is one function then."""
    return [symbol] if count < 2 else [f"{symbol}_{k}" for k in range(count)]
