"""From exceptions to exit statuses: what a user sees when something goes wrong."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lepton_compiler.errors import Diagnostic, LeptonError

INTERRUPTED, TERMINATED = 130, 143


class Terminated(BaseException):
    """The process was asked to end; unwinding removes what is half done."""


def guarded(prog: str, work: Callable[[], int], *, verbose: bool = False, as_json: bool = False) -> int:
    """Run `work` and return its exit status, or that of its failure.

    Failures are told on stderr, one line each with a hint; with `as_json` also as one object on stdout.
    A traceback appears only with `verbose`.
    """
    try:
        with _terminable():
            status = work()
            sys.stdout.flush()
            return status
    except (KeyboardInterrupt, Terminated) as error:
        return _say_stopped(prog, error)
    except BrokenPipeError:
        # Whoever read our output has gone; keep the interpreter from complaining while it shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # the last line of defence: nobody shall see a traceback without asking for it
        if verbose:
            traceback.print_exc()
        problems, status = _diagnosed(error)
    tell(prog, problems)
    if as_json:
        print_json({"errors": [vars(p) for p in problems], "exit_status": status})
    return status


def _diagnosed(error: Exception) -> tuple[Sequence[Diagnostic], int]:
    """What to tell the user about an exception, and the exit status."""
    match error:
        case LeptonError():
            return error.diagnostics, error.exit_status
        case MemoryError():
            return [Diagnostic("out of memory", hint="use a machine with more memory, or smaller shapes")], 1
        case RecursionError():
            return [Diagnostic("the model is nested too deeply", hint="simplify its control flow")], 1
        case OSError():
            return [Diagnostic(error.strerror or str(error), where=str(error.filename or ""))], 1
    hint = "this is a bug in lepton: please report it with the model; -v shows the traceback"
    return [Diagnostic(f"internal error: {type(error).__name__}: {error}", hint=hint)], 1


def tell(prog: str, problems: Sequence[Diagnostic]) -> None:
    """Print diagnostics on stderr."""
    for problem in problems:
        print(f"{prog}: error: {problem}", file=sys.stderr)


def print_json(value: Any) -> None:
    """One JSON object on stdout, on one line."""
    print(json.dumps(value, ensure_ascii=False, allow_nan=False), flush=True)


def _say_stopped(prog: str, error: BaseException) -> int:
    interrupted = isinstance(error, KeyboardInterrupt)
    print(f"{prog}: {'interrupted' if interrupted else 'terminated'}", file=sys.stderr)
    return INTERRUPTED if interrupted else TERMINATED


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that temporary folders go away."""

    def stop(number: int, frame: object) -> None:
        raise Terminated

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread: somebody embeds us and handles signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
