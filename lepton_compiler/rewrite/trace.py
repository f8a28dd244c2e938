"""Why rules did not apply: the best near miss of each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NearMiss:
    """How close a rule came: `matched` of its `total` nodes, at the node `where`, and what stopped it."""

    rule: str
    where: str
    matched: int
    total: int
    reason: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.matched}/{self.total} nodes at {self.where}: {self.reason}"


class Tracer:
    """Counts how often each rule applied and keeps its best near miss, with the reason."""

    def __init__(self) -> None:
        self.applied: dict[str, int] = {}
        self.best: dict[str, NearMiss] = {}

    def hit(self, rule: str) -> None:
        """`rule` was applied."""
        self.applied[rule] = self.applied.get(rule, 0) + 1

    def miss(self, found: NearMiss) -> None:
        """A rule did not apply; the first of several equally good misses is kept."""
        if found.rule not in self.best or found.matched > self.best[found.rule].matched:
            self.best[found.rule] = found

    def report(self) -> str:
        """One line per rule."""
        lines = [f"{rule}: applied {count} times" for rule, count in self.applied.items()]
        return "\n".join(lines + [str(m) for m in self.best.values()])
