"""What measuring on a GPU came to: rows, as lines, as a table, and as the figures that lepton aims at."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

GOALS = {("nets, batch 1", "compile"): 0.8, ("nets, batch 32", "compile"): 0.6, ("gemm, fp16", "eager"): 0.7}
"""Least geometric mean of a group: the other's time divided by lepton's."""
CALLED = {
    "compile": "torch.compile(max-autotune)",
    "eager": "PyTorch with cuDNN and cuBLAS",
    "serial": "lepton without overlapping kernels",
}


@dataclass
class Row:
    """One case in one stage.

    Attributes:
        stage: `agree`, `sanitize`, `speed`, `tune` or `compile`.
        case: model, net or layer.
        precision: of products.
        ms: median time of a run, by runtime.
        ratios: by other runtime its time divided by lepton's.
        missing: by other runtime why it took no part.
        max_rel: largest difference from the reference, relative to its range; infinite where there is no comparison.
        ok: whether all is as it should be.
        error: why not, where that is no difference.
        note: who the reference is, or what was watched.
        late: whether the time for the case was up.
    """

    stage: str
    case: str
    precision: str
    ms: dict[str, float] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    max_rel: float = math.inf
    ok: bool = False
    error: str = ""
    note: str = ""
    late: bool = False

    @property
    def key(self) -> tuple[str, str, str]:
        """What a later row replaces an earlier one by."""
        return self.stage, self.case, self.precision

    def as_json(self) -> dict[str, Any]:
        """JSON values; a difference that is not finite becomes null."""
        return asdict(self) | {"max_rel": self.max_rel if math.isfinite(self.max_rel) else None}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Row:
        """The inverse of `as_json`."""
        return Row(**{**data, "max_rel": math.inf if data["max_rel"] is None else data["max_rel"]})

    def line(self) -> str:
        """For readers."""
        head = f"{self.stage:<8} {self.case:<42} {self.precision}  "
        if self.error:
            return f"{head}failed: {self.error}"
        if self.stage == "sanitize":
            return f"{head}clean: {self.note}"
        if self.stage == "tune":
            return f"{head}{self.note}"
        error = f"error {self.max_rel:.1e}{'' if self.ok else ' WRONG'}"
        if self.stage == "agree":
            return f"{head}{error} ({self.note})"
        times = "  ".join(f"{name} {ms:.4f} ms" for name, ms in self.ms.items())
        ratios = "".join(f"  {name}/lepton {ratio:.2f}" for name, ratio in self.ratios.items())
        absent = "".join(f"  no {name}: {reason}" for name, reason in self.missing.items())
        return f"{head}{times}{ratios}  {error}{absent}"


def timed_rows(rows: Sequence[Row]) -> list[Row]:
    """The rows of nets and layers: where a case was timed beside `torch.compile`, that row and not the one without."""
    compiled = {(row.case, row.precision) for row in rows if row.stage == "compile" and not row.error}
    return [r for r in rows if r.stage == "compile" or (r.stage == "speed" and (r.case, r.precision) not in compiled)]


def group_of(row: Row) -> str:
    """What a geometric mean is over: nets of a batch, or layers of a kind, in a precision."""
    kind, size, *_ = row.case.split()
    batch = size.partition("x")[0]
    return f"{kind if kind in ('gemm', 'conv') else f'nets, batch {batch}'}, {row.precision}"


def means(rows: Sequence[Row]) -> list[str]:
    """Geometric means of the ratios of each group, beside what they should be."""
    groups: dict[str, list[Row]] = {}
    for row in timed_rows(rows):
        if row.ratios:
            groups.setdefault(group_of(row), []).append(row)
    lines = []
    for name, members in sorted(groups.items()):
        for runtime in dict.fromkeys(r for row in members for r in row.ratios):
            found = [row.ratios[runtime] for row in members if runtime in row.ratios]
            mean = statistics.geometric_mean(found)
            goal = next((g for (group, other), g in GOALS.items() if name.startswith(group) and other == runtime), None)
            verdict = "" if goal is None else f", at least {goal} wanted: {'reached' if mean >= goal else 'NOT REACHED'}"
            lines.append(f"{name}: {mean:.2f} of {CALLED[runtime]} over {len(found)} cases{verdict}")
    return lines


def findings(rows: Sequence[Row]) -> list[str]:
    """What each stage came to, in a line or a few."""
    lines = []
    for stage, text in (("agree", "models agree with the reference"), ("sanitize", "runs are clean under compute-sanitizer")):
        chosen = [row for row in rows if row.stage == stage]
        if chosen:
            bad = [f"{row.case} {row.precision}" for row in chosen if not row.ok]
            lines.append(f"{len(chosen) - len(bad)} of {len(chosen)} {text}{': not ' + ', '.join(bad) if bad else ''}")
    timed = timed_rows(rows)
    if wrong := [f"{row.case} {row.precision}" for row in timed if not row.ok]:
        lines.append(f"{len(wrong)} of {len(timed)} timed cases are wrong or failed: {', '.join(wrong)}")
    lines += [f"tuning {row.case} {row.precision}: {row.note or row.error}" for row in rows if row.stage == "tune"]
    reasons = dict.fromkeys((name, reason) for row in timed for name, reason in row.missing.items())
    lines += [f"{CALLED[name]} is missing: {reason}" for name, reason in reasons]
    return lines + means(rows)


def table(rows: Sequence[Row], device: str, torch: str) -> str:
    """All of it as Markdown."""
    lines = [f"`python -m bench.cuda` on {device}, {torch}.", "", *(f"- {text}" for text in findings(rows)), ""]
    timed = timed_rows(rows)
    if timed:
        names = list(dict.fromkeys(name for row in timed for name in row.ms))
        others = [name for name in names if name != "lepton"]
        head = ["case", "precision", *(f"{n} ms" for n in names), *(f"{n} / lepton" for n in others), "error"]
        lines += [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
        for row in timed:
            times = [f"{row.ms[name]:.4f}" if name in row.ms else "" for name in names]
            ratios = [f"{row.ratios[name]:.2f}" if name in row.ratios else "" for name in others]
            lines.append(f"| {' | '.join([row.case, row.precision, *times, *ratios, row.error or f'{row.max_rel:.1e}'])} |")
        lines.append("")
    checked = [row for row in rows if row.stage in ("agree", "sanitize")]
    if checked:
        lines += ["| stage | model | precision | outcome |", "|---|---|---|---|"]
        for row in checked:
            outcome = row.error or ("clean" if row.stage == "sanitize" else f"{row.max_rel:.1e}{'' if row.ok else ' **wrong**'}")
            lines.append(f"| {row.stage} | {row.case} | {row.precision} | {outcome} |")
        lines.append("")
    return "\n".join(lines)
