"""The errors that users see: what is wrong, where, and what to do about it.

Every error that leaves the compiler on purpose is a `LeptonError`. It carries one or more
`Diagnostic`s, because a model with five unsupported operators should say so once, not five times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Diagnostic:
    """One problem: `message` says what is wrong, `where` names the node or value, `hint` what to do."""

    message: str
    where: str = ""
    hint: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}\n  hint: {self.hint}" if self.hint else text


class LeptonError(Exception):
    """Base of all diagnosed failures; `exit_status` is what the command line returns.

    Args:
        problems: a message, or the list of everything that is wrong.
        where: the node or value concerned, when `problems` is a single message.
        hint: what the user can do, when `problems` is a single message.
    """

    exit_status = 1

    def __init__(self, problems: str | Sequence[Diagnostic], *, where: str = "", hint: str = "") -> None:
        if isinstance(problems, str):
            problems = [Diagnostic(problems, where, hint)]
        self.diagnostics: tuple[Diagnostic, ...] = tuple(problems)
        super().__init__("\n".join(map(str, self.diagnostics)))


class ModelError(LeptonError):
    """The model is malformed: broken file, cycle, missing input, impossible shape."""


class UnsupportedError(LeptonError):
    """The model is valid but uses something that lepton, or the chosen backend, cannot do."""


class OverBudgetError(UnsupportedError):
    """The artefact needs more memory than the user's machine has.

    Args:
        problems: see `LeptonError`.
        ram: bytes of RAM that it needs, where that is too much.
    """

    def __init__(self, problems: Sequence[Diagnostic], ram: int | None = None) -> None:
        super().__init__(problems)
        self.ram = ram


class OpenDimensionsError(UnsupportedError):
    """The model cannot be represented before its symbolic dimensions are bound, but can be afterwards."""


class InferenceError(LeptonError):
    """An operator's input types or attributes contradict each other; raised by `Op.infer`."""


class ParseError(LeptonError):
    """Text that is not valid: `.lir` files, pass pipelines, dimension expressions."""


class InvalidIR(LeptonError):
    """A pass or a caller broke an invariant of the IR; always a bug in the code that ran before."""


class UsageError(LeptonError):
    """The request itself is wrong: unknown target, unknown pass, bad option, wrong input name."""

    exit_status = 2


class VerificationError(LeptonError):
    """The compiled model disagrees with the reference."""

    exit_status = 3


class MissingDependency(LeptonError):
    """An optional package or an external tool is not installed; the hint is the command to run."""
