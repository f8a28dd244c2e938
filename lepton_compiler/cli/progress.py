"""Progress on stderr: silent for a second, then a line that says what is going on."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Any, Self

PATIENCE = 1.0
"""Seconds before anything is shown."""


class Progress:
    """A context manager; call it with the name of each stage.

    Args:
        prog: what the line begins with.
        verbose: print every stage with its time, even where stderr is no terminal.
        quiet: show nothing at all.
    """

    def __init__(self, prog: str, verbose: bool = False, quiet: bool = False) -> None:
        self.prog, self.verbose, self.quiet = prog, verbose, quiet
        self._stage = self._detail = ""
        self._since = time.perf_counter()
        self._status: Any = None
        self._lock = threading.Lock()
        self._timer = threading.Timer(PATIENCE, self._show)
        self._timer.daemon = True

    def __call__(self, stage: str) -> None:
        """`stage` begins, and the one before it has ended."""
        with self._lock:
            self._finish_stage()
            self._stage, self._detail, self._since = stage, "", time.perf_counter()
            if self._status is not None:
                self._status.update(self._text())

    def detail(self, text: str) -> None:
        """What is going on within the stage."""
        with self._lock:
            self._detail = f" ({text})"
            if self._status is not None:
                self._status.update(self._text())

    def __enter__(self) -> Self:
        if not self.quiet and not self.verbose and sys.stderr.isatty():
            self._timer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._timer.cancel()
        with self._lock:
            if kind is None:
                self._finish_stage()
            if self._status is not None:
                self._status.stop()
                self._status = None

    def _finish_stage(self) -> None:
        if self.verbose and self._stage:
            print(f"{self.prog}: {self._stage}: {time.perf_counter() - self._since:.2f} s", file=sys.stderr)
        self._stage = ""

    def _show(self) -> None:
        from rich.console import Console

        with self._lock:
            self._status = Console(stderr=True).status(self._text())
            self._status.start()

    def _text(self) -> str:
        return f"{self.prog}: {self._stage}{self._detail} ..."
