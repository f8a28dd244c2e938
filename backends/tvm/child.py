"""A process of the compiler's own that answers requests: it can die, hang or be stopped, and this process lives on."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import lepton_compiler


class Child:
    """One process, started when it is wanted and again after it ended.

    Args:
        module: what it runs; it reads requests from standard input and writes answers to standard output.
    """

    def __init__(self, module: str) -> None:
        self.module = module
        self.process: subprocess.Popen[bytes] | None = None

    def stop(self) -> None:
        """End the process."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()

    def start(self) -> subprocess.Popen[bytes]:
        """A new process."""
        root = str(Path(lepton_compiler.__file__).resolve().parents[1])
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([p for p in (*sys.path, root) if p])}
        command = [sys.executable, "-P", "-m", self.module]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        return self.process
