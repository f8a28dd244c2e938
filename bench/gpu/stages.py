"""Measuring the cases of a folder, stage by stage, within a time; what is done is written at once, and a later run goes on from there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.gpu.archive import archives, facts_of
from bench.gpu.cases import SANITIZED, Case
from bench.gpu.report import Row, table
from lepton_compiler.backends.tvm.tuning.process import MeasureError, MeasuringProcess
from lepton_compiler.errors import UsageError

STAGES = ("agree", "speed", "sanitize", "tune", "compile")
"""In their order: what is quick and tells most comes first."""
LIMITS = {"facts": 120.0, "agree": 90.0, "speed": 120.0, "sanitize": 240.0, "tune": 60.0, "compile": 480.0}
"""Seconds for one case, or of `tune` for one kernel; what takes longer is given up."""
TOOLS = ("memcheck", "racecheck")
FOUND = 86
"""Exit status of compute-sanitizer where it found something."""
WORKER = "bench.gpu.worker"


@dataclass
class Measurement:
    """One run of the benchmark.

    Attributes:
        folder: with the archives.
        output: folder for `cuda.jsonl`, which has a line for each row, `cuda.json` and `cuda.md`.
        deadline: `time.monotonic` at which nothing goes on.
        rounds: of timing.
        tell: told of each row.
        rows: by key, those of earlier runs too.
    """

    folder: Path
    output: Path
    deadline: float
    rounds: int
    tell: Callable[[Row], None]
    rows: dict[tuple[str, str, str], Row] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.output.mkdir(parents=True, exist_ok=True)
        self.journal = self.output / "cuda.jsonl"
        self.process = MeasuringProcess(WORKER)
        self.facts: dict[str, str] = {}
        if self.journal.exists():
            self.rows = {row.key: row for row in _rows(self.journal)}

    def run(self, stages: Sequence[str], wanted: Sequence[str]) -> list[str]:
        """Measure; returns the names of the cases that there was no time for, with their stage.

        Raises:
            UsageError: there are no archives.
            MeasureError: there is no GPU.
        """
        cases = [(Case(**facts_of(path)["case"]), path) for path in archives(self.folder)]
        cases = [(case, path) for case, path in cases if not wanted or any(part in f"{case.kind} {case.name}" for part in wanted)]
        if not cases:
            raise UsageError(f"no cases in {self.folder}", hint="python -m bench.cuda --compile DIR makes them, without a GPU")
        self.facts = self.process.ask(LIMITS["facts"], "facts")
        left = []
        try:
            for stage in (stage for stage in STAGES if stage in stages):
                for case, path in self._to_do(stage, cases):
                    if stage == "compile" and self.facts["no_torch"]:
                        continue
                    row = self._measured(stage, case, path) if self._seconds_left > 0 else None
                    if row is None:
                        left.append(f"{stage} {case.name}")
                    else:
                        self._keep(row)
        finally:
            self.process.stop()
        return left

    def _to_do(self, stage: str, cases: Sequence[tuple[Case, Path]]) -> list[tuple[Case, Path]]:
        """What a stage has not measured yet. Then what `torch.compile` had no time for: it goes on from what it keeps on the disk."""
        items = [(item, self.rows.get((stage, item[0].subject, item[0].precision))) for item in _of_stage(stage, cases)]
        late = [item for item, row in items if stage == "compile" and row is not None and row.late]
        return [*(item for item, row in items if row is None), *late]

    def write(self) -> dict[str, Any]:
        """The files for readers; returns what is in the one in JSON."""
        rows = list(self.rows.values())
        facts = {**self.facts, "rows": [row.as_json() for row in rows]}
        (self.output / "cuda.json").write_text(json.dumps(facts, indent=1) + "\n")
        (self.output / "cuda.md").write_text(table(rows, self.facts["device"], self.facts["torch"]))
        return facts

    @property
    def _seconds_left(self) -> float:
        return self.deadline - time.monotonic()

    def _measured(self, stage: str, case: Case, path: Path) -> Row | None:
        """The row of a case; None where the time ran out."""
        limit, begin = min(LIMITS[stage], self._seconds_left), time.monotonic()
        try:
            match stage:
                case "agree":
                    row: Row = self.process.ask(limit, "agree", path)
                case "sanitize":
                    row = sanitized(case, path, limit)
                case "tune":
                    row = self._tuned(case, path)
                case "speed":
                    row = self._timed(path, limit)
                case _:
                    row = self.process.ask(limit, "speed", path, self.rounds, True)
        except (MeasureError, subprocess.TimeoutExpired) as error:
            if self._seconds_left <= 0:
                return None
            text = error.diagnostics[0].message if isinstance(error, MeasureError) else f"no answer within {limit:.0f} seconds"
            return Row(stage, case.subject, case.precision, error=text, late=time.monotonic() - begin >= limit)
        return row

    def _timed(self, path: Path, limit: float) -> Row:
        """The row of a case beside eager PyTorch; without it where that breaks the process, so that lepton's own figures are there.

        Raises:
            MeasureError: lepton alone fails, too.
        """
        try:
            row: Row = self.process.ask(limit, "speed", path, self.rounds, False)
        except MeasureError as error:
            self.process.stop()
            left = min(limit, max(0.0, self._seconds_left))
            row = self.process.ask(left, "speed", path, self.rounds, False, f"a run beside it failed: {error.diagnostics[0].message}")
        return row

    def _tuned(self, case: Case, path: Path) -> Row:
        """Measure the candidates of all kernels of a case; what is found is added to `tuning.jsonl`, all times to `candidates.jsonl`.

        Raises:
            MeasureError: a kernel does not come to an end, or the time is up.
        """
        row = Row("tune", case.subject, case.precision, ok=True)
        before, after, faster, count = 0.0, 0.0, 0, int(facts_of(path)["kernels"])
        for number in range(count):
            found = self._fastest(path, number)
            if found is None:
                row.ok, row.error = False, f"the analytic kernel {number} of {path.name} does not run"
                return row
            seconds = found["seconds"]
            calls, analytic = found["calls"], seconds[0]
            before, after = before + calls * analytic, after + calls * analytic * found["row"].ratio
            faster += bool(found["row"].choice)
            with (self.output / "tuning.jsonl").open("a") as file:
                file.write(found["row"].to_line())
            with (self.output / "candidates.jsonl").open("a") as file:
                times = [[found["choices"][k], s] for k, s in seconds.items()]
                left_out = [[found["choices"][k], reason] for k, reason in found["left_out"].items()]
                facts = {"case": case.name, "kernel": found["row"].label, "shapes": found["row"].shapes, "calls": calls}
                file.write(json.dumps({**facts, "seconds": times, "left_out": left_out}) + "\n")
        ratio = before / after if after else 1.0
        row.ms, row.ratios = {"analytic": 1e3 * before, "tuned": 1e3 * after}, {"analytic": ratio}
        row.note = f"{faster} of {count} products are faster with other tiles; all together take {ratio:.3f} times as long without"
        return row

    def _fastest(self, path: Path, number: int) -> dict[str, Any] | None:
        """What `candidates.measured` finds of a kernel, without the candidates that break the process; None where the analytic kernel does."""
        broken: dict[int, str] = {}
        while True:
            found: dict[str, Any] = self.process.ask(min(LIMITS["tune"], max(0.0, self._seconds_left)), "tune", path, number, list(broken))
            if "broken" not in found:
                found["left_out"] |= broken
                return found
            self.process.stop()
            if found["broken"] == 0:
                return None
            broken[found["broken"]] = found["reason"]

    def _keep(self, row: Row) -> None:
        self.rows[row.key] = row
        with self.journal.open("a") as file:
            file.write(json.dumps(row.as_json()) + "\n")
        self.tell(row)


def _rows(journal: Path) -> list[Row]:
    """The rows of earlier runs. A line that its process did not get to the end of goes, and is measured again."""
    text = journal.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        journal.write_text(whole)
    return [Row.from_json(json.loads(line)) for line in whole.splitlines()]


def _of_stage(stage: str, cases: Sequence[tuple[Case, Path]]) -> list[tuple[Case, Path]]:
    """The cases of a stage: for speed, nets before layers, small batches before large ones, half precision first."""
    if stage == "agree":
        return [(case, path) for case, path in cases if case.kind == "model"]
    if stage == "sanitize":
        return [(case, path) for case, path in cases if case.subject in SANITIZED]
    if stage == "tune":
        return [(case, path) for case, path in cases if case.kind == "candidates"]
    timed = [(case, path) for case, path in cases if case.kind in ("net", "layer")]
    return sorted(timed, key=lambda item: (item[0].kind != "net", " 32" in item[0].subject, item[0].precision))


def sanitized(case: Case, path: Path, limit: float) -> Row:
    """Run a case under the tools of compute-sanitizer, each in a process of its own.

    Raises:
        subprocess.TimeoutExpired: it took longer than `limit` seconds.
    """
    row = Row("sanitize", case.subject, case.precision, note=", ".join(TOOLS))
    program = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if program is None:
        row.error = "compute-sanitizer is not installed"
        return row
    end = time.monotonic() + limit
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    for tool in TOOLS:
        command = [program, "--tool", tool, "--error-exitcode", str(FOUND), sys.executable, "-m", WORKER, str(path)]
        done = _run(command, environment, max(1.0, end - time.monotonic()))
        if done.returncode:
            lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            said = next((line.strip("= ") for line in lines if line.startswith("=========") and "COMPUTE-SANITIZER" not in line), "")
            row.error = f"{tool}: {said or (lines[-1] if lines else f'status {done.returncode}')}"
            return row
    row.ok = True
    return row


def _run(command: Sequence[str], environment: Mapping[str, str], limit: float) -> subprocess.CompletedProcess[str]:
    """Run a command that starts others; none of them is left when the time is up.

    Raises:
        subprocess.TimeoutExpired: it took longer than `limit` seconds.
    """
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment, start_new_session=True) as process:
        try:
            output, errors = process.communicate(timeout=limit)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return subprocess.CompletedProcess(command, process.returncode, output, errors)
