"""A process that measures: whatever becomes of measured code, this process lives on and starts another one."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable, Sequence
from typing import Any

from lepton_compiler.backends.tvm.child import Child
from lepton_compiler.backends.tvm.workers import read_message, write_message
from lepton_compiler.errors import Diagnostic, LeptonError


class MeasureError(LeptonError):
    """What was to be measured crashed, hung or failed."""


class MeasuringProcess(Child):
    """Runs a module that answers requests; started by the first one.

    Args:
        module: its `main` reads a request, a tuple, from standard input and writes a tuple of one answer, or a `Diagnostic`, until it ends.
    """

    @property
    def is_open(self) -> bool:
        """Whether the process runs, with all that it was told."""
        return self.process is not None

    def ask(self, limit: float, *message: Any) -> Any:
        """A request and its answer.

        Raises:
            MeasureError: the request failed, the process died, or there was no answer within `limit` seconds; the process has ended.
        """
        process = self.process or self.start()
        assert process.stdin is not None and process.stdout is not None
        write_message(process.stdin, message)
        if not select.select([process.stdout], [], [], limit)[0]:
            self.stop()
            raise MeasureError(f"no answer within {limit:.0f} seconds")
        answer = read_message(process.stdout)
        if not isinstance(answer, tuple):
            self.stop()
            raise MeasureError([answer] if isinstance(answer, Diagnostic) else "the measuring process died")
        return answer[0]


def serve(answer: Callable[[str, Sequence[Any]], Any]) -> None:
    """Answer requests until standard input ends. Whatever measured code prints goes to standard error."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    while (message := read_message(sys.stdin.buffer)) is not None:
        request, *arguments = message
        reply: tuple[Any] | Diagnostic
        try:
            reply = (answer(request, arguments),)
        except LeptonError as error:
            reply = error.diagnostics[0]
        except Exception as error:
            reply = Diagnostic(str(error).strip().split("\n")[-1] or type(error).__name__)
        write_message(answers, reply)
