"""Tuning: what is asked for, and the database of what was measured.

The database is a file of JSON lines, one kernel each; a later line replaces an earlier one for the same kernel, so that files are
joined by writing one after the other. docs/tuning.md describes the lines.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_compiler.errors import LeptonError, UnsupportedError, UsageError
from lepton_compiler.target import Target

if TYPE_CHECKING:
    from lepton_compiler.backend import BuildOptions
    from lepton_compiler.ir.graph import Graph

FORMAT = 1
"""Version of the lines; the value of their first field, `lepton_tuning`."""
Choices = Mapping[str, Mapping[str, int]]
"""By kernel the parameters that differ from the analytic ones."""


@dataclass(frozen=True)
class Tracker:
    """Where TVM's RPC tracker is, and the key of the boards to use."""

    host: str
    port: int
    key: str

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @staticmethod
    def parse(text: str, key: str) -> Tracker:
        """`HOST:PORT[,KEY]`; without KEY it is the name of the target.

        Raises:
            UsageError: something else.
        """
        address, _, given = text.partition(",")
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise UsageError(f"'{text}' is not HOST:PORT[,KEY]", hint="for example --tune-tracker 192.168.1.20:9190,rasp4")
        return Tracker(host, int(port), given or key)


@dataclass(frozen=True)
class TuningReport:
    """What tuning one model came to.

    Attributes:
        kernels: kernels of the model that have parameters to choose.
        finished: of these, the ones whose search is complete, in this run or before.
        measured: the ones that this run completed.
        tuned: the ones whose choice differs from the analytic one in the artefact.
        ratio: time of the tuned model over the untuned one's, median of interleaved runs; 1 where nothing differs.
        seconds: that it took.
        skipped: candidates that could not be compiled or started, or gave other results; None where they are not counted.
    """

    kernels: int
    finished: int
    measured: int
    tuned: int
    ratio: float
    seconds: float
    skipped: int | None = None

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        facts = {**vars(self), "ratio": round(self.ratio, 4), "seconds": round(self.seconds, 2)}
        return facts if self.skipped is not None else {key: value for key, value in facts.items() if key != "skipped"}


@dataclass(frozen=True)
class Request:
    """What the user asks for.

    Attributes:
        seconds: how long to measure; None measures nothing.
        database: the file; None for the user's own where something is measured, and for no database where not.
        tracker: where to measure; None for this machine.
        fixed: choices to take as they are, instead of a database's.
    """

    seconds: float | None = None
    database: Path | None = None
    tracker: Tracker | None = None
    fixed: Choices = field(default_factory=dict)

    @staticmethod
    def of(target: Target, seconds: Any, database: Any, tracker: str | None) -> Request:
        """From options as they were given.

        Raises:
            UsageError: options that do not fit each other or the target.
        """
        if seconds is not None:
            try:
                seconds = float(seconds)
            except (TypeError, ValueError):
                seconds = -1.0
            if not 0 < seconds < 1e7:
                raise UsageError("--tune takes a positive number of seconds", hint="for example --tune 120")
            if target.is_firmware:
                raise UsageError(f"{target.name} cannot be tuned: nothing there could measure", hint="compile without --tune")
            if target.gpus and tracker is not None:
                raise UsageError("--tune-tracker is for processors", hint="a GPU is measured where it is: run leptonc there")
            if tracker is None and not target.host and not target.gpus:
                raise UsageError(
                    f"--tune measures on this machine, and the target is {target.name}", hint="--target native, or --tune-tracker HOST:PORT"
                )
        elif tracker is not None:
            raise UsageError("--tune-tracker needs --tune SECONDS", hint="for example --tune 120")
        where = Tracker.parse(tracker, target.name) if tracker is not None else None
        return Request(seconds, Path(database) if database is not None else None, where)

    def open(self) -> Database:
        """The database that is asked for; an empty one in memory where none is.

        Raises:
            LeptonError: it cannot be read.
        """
        if self.seconds is not None:
            return Database(self.database or default_database())
        if self.database is not None and not self.database.is_file():
            raise LeptonError("no such tuning database", where=str(self.database), hint="leptonc --tune SECONDS --tune-db FILE makes one")
        return Database(self.database)


def check_tunable(backend: Any, target: Target, request: Request) -> None:
    """Refuse to measure where a backend knows beforehand that nothing could, so that nothing is compiled in vain.

    Raises:
        LeptonError: what is missing.
    """
    if request.seconds is not None and hasattr(backend, "check_tunable"):
        backend.check_tunable(target)


def decide(
    backend: Any, graphs: Mapping[tuple[int, ...], Graph], options: BuildOptions, request: Request, detail: Callable[[str], None]
) -> tuple[Choices, TuningReport | None]:
    """The choices for a build: measured, from a database, fixed, or none; and what to tell where something was measured.

    Raises:
        UnsupportedError: the backend has nothing to tune.
        LeptonError: see `Request.open`, and the backend's `tune`.
    """
    if request.fixed or (request.seconds is None and request.database is None):
        return request.fixed, None
    if not hasattr(backend, "tune"):
        raise UnsupportedError("this backend cannot tune", hint="compile without --tune and --tune-db")
    database = request.open()
    if request.seconds is None:
        return backend.choices_known(list(graphs.values()), options.target, database, options.threads), None
    found: tuple[Choices, TuningReport] = backend.tune(graphs, options, request, database, detail)
    return found


def default_database() -> Path:
    """`$LEPTON_CACHE/tuning.jsonl`, else in the user's cache folder."""
    base = os.environ.get("LEPTON_CACHE")
    folder = Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lepton"
    return folder / "tuning.jsonl"


@dataclass(frozen=True)
class Row:
    """The finished search of one kernel.

    Attributes:
        kernel: content hash of what it computes.
        label: its operators, for readers.
        shapes: types of its operands and results, for readers.
        schedules: version of the schedules that the choice is about.
        target: the machine as generated code sees it.
        cpu: name and caches of the processor that measured; of a GPU, its name, architecture and cache.
        threads: that the model was compiled for.
        choice: parameters that differ from the analytic ones; empty where those are as good.
        ratio: time with the choice over the analytic one's; 1 where that is empty.
        candidates: how many choices were measured.
    """

    kernel: str
    label: str
    shapes: str
    schedules: str
    target: str
    cpu: str
    threads: int
    choice: Mapping[str, int]
    ratio: float
    candidates: int

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        """What a later row replaces an earlier one by."""
        return self.kernel, self.schedules, self.target, self.cpu, self.threads

    def to_line(self) -> str:
        """One line of JSON."""
        return json.dumps({"lepton_tuning": FORMAT, **vars(self), "choice": dict(self.choice)}) + "\n"

    @staticmethod
    def from_line(line: str) -> Row:
        """The inverse of `to_line`.

        Raises:
            ValueError: it is no such line.
        """
        data = json.loads(line)
        if not isinstance(data, dict) or data.pop("lepton_tuning", None) != FORMAT:
            raise ValueError(f'a line begins with {{"lepton_tuning": {FORMAT}')
        try:
            row = Row(**data)
        except TypeError as error:
            raise ValueError(str(error).partition(") ")[2] or str(error)) from error
        kinds: dict[str, Any] = {"threads": int, "choice": dict, "ratio": (int, float), "candidates": int}
        for name, value in vars(row).items():
            if not isinstance(value, kinds.get(name, str)):
                raise ValueError(f"'{name}' has a wrong type")
        return row


class Database:
    """Rows by key, and the file that new ones are added to.

    Raises:
        LeptonError: the file is there but cannot be read, or has a line that is none of ours.
    """

    def __init__(self, path: Path | None) -> None:
        self.path, self.rows = path, dict[tuple[str, str, str, str, int], Row]()
        if path is None or not path.exists():
            return
        for number, line in enumerate(self._lines(path), 1):
            try:
                row = Row.from_line(line)
            except ValueError as error:
                raise LeptonError(
                    f"not a line of a tuning database: {error}", where=f"{path}:{number}", hint="docs/tuning.md describes the file"
                ) from error
            self.rows[row.key] = row

    @staticmethod
    def _lines(path: Path) -> Iterator[str]:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a text file"
            raise LeptonError(f"cannot read the tuning database: {reason}", where=str(path)) from error
        return (line for line in text.split("\n") if line.strip())

    def add(self, row: Row) -> None:
        """Remember a row, in the file too: at once, so that a run that is stopped loses nothing.

        Raises:
            LeptonError: the file cannot be written.
        """
        self.rows[row.key] = row
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(row.to_line())
        except OSError as error:
            raise LeptonError(f"cannot write the tuning database: {error.strerror}", where=str(self.path)) from error

    def find(self, schedules: str, target: Target, cpu: str | None, threads: int) -> dict[str, Row]:
        """By kernel the rows for a machine.

        Args:
            schedules: their version.
            target: the machine as generated code sees it.
            cpu: the processor; None takes rows of whichever it was, if it was one.
            threads: of the model.

        Raises:
            UsageError: there are rows of several processors, and `cpu` is None.
        """
        wanted = describe(target)
        rows = [r for r in self.rows.values() if (r.schedules, r.target, r.threads) == (schedules, wanted, threads)]
        if cpu is None and len(cpus := sorted({r.cpu for r in rows})) > 1:
            raise UsageError(
                f"the tuning database has rows of several processors: {'; '.join(cpus)}",
                hint="keep the lines of one of them (docs/tuning.md)",
            )
        return {r.kernel: r for r in rows if cpu in (None, r.cpu)}


def describe(target: Target) -> str:
    """A target as generated code sees it: equal texts mean equal code."""
    machine = [f"{target.vector_bits}x{target.vector_registers}", f"l1={target.l1_bytes}", f"l2={target.l2_bytes}"]
    asked = target.extensions if target.gpus else ()  # those of a GPU are what the user wants of it: tf32
    return " ".join([target.triple, target.cpu, *target.features, *machine, *asked])


def this_cpu() -> str:
    """This machine's processor: its name and the sizes of the caches of its first core."""
    parts = [_model_name()]
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index[0-7]")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        if kind != "Instruction":
            parts.append(f"L{level} {size}")
    return ", ".join(parts)


def _model_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "CPU part"))), platform.machine())
