"""One compilation: what was asked for, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_compiler.backend import Emit, Level, Precision
from lepton_compiler.compress import Compression
from lepton_compiler.errors import Diagnostic, UnsupportedError, UsageError, VerificationError
from lepton_compiler.pipeline import Instrument
from lepton_compiler.several import Dims
from lepton_compiler.states import States
from lepton_compiler.target import Target, portable
from lepton_compiler.tuning import Request, TuningReport
from lepton_compiler.verification import Verification

if TYPE_CHECKING:
    from lepton_compiler.quantization import Report

LEVELS: tuple[Level, ...] = ("O0", "O1", "O2", "O3", "Os")
Stage = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """One compilation, as the user asked for it.

    Attributes:
        target: the machine that will run the artefact.
        level: optimisation level.
        emit: kind of output.
        name: C identifier of the artefact; None derives it from the source.
        threads: that one call may use.
        passes: a pipeline in text form that runs instead of the level's.
        inputs: shapes or constants by input name.
        dims: by dimension name a size, or the sizes among which the artefact chooses at run time.
        bounds: by node name, the largest size that its result of data-dependent size takes.
        opset: of ONNX output.
        jobs: compiler processes at once.
        cache_dir: where compiled kernels are kept.
        instruments: told about every pass.
        verify: compare the result with a reference before it is written.
        feeds: inputs to verify with; random ones for those that are missing.
        stage: called with the name of each stage as it begins.
        detail: called within a stage, with what is going on.
        profile: let the artefact measure each kernel call.
        ram: bytes that arena and stack of firmware may take.
        flash: bytes that its code and constants may take.
        tuning: choices to measure, or to take from a database.
        tuned: told what tuning came to.
        compression: what to quantize, with which data.
        states: outputs that are inputs of the next call.
        precision: of products, on a GPU.
    """

    target: Target
    level: Level = "O2"
    emit: Emit = "lib"
    name: str | None = None
    threads: int = 1
    passes: str | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)
    dims: Dims = field(default_factory=dict)
    bounds: Mapping[str, int] = field(default_factory=dict)
    opset: int = 21
    jobs: int | None = None
    cache_dir: Path | None = None
    instruments: tuple[Instrument, ...] = ()
    verify: bool = False
    feeds: Mapping[str, Any] = field(default_factory=dict)
    stage: Stage = lambda name: None
    detail: Stage = lambda text: None
    profile: bool = False
    ram: int | None = None
    flash: int | None = None
    tuning: Request = field(default_factory=Request)
    tuned: Callable[[TuningReport], None] = lambda report: None
    compression: Compression | None = None
    states: States = field(default_factory=States)
    precision: Precision = "fp32"

    @property
    def machine(self) -> Target:
        """The target as passes and kernels see it."""
        if self.precision == "tf32":
            return replace(self.target, extensions=(*self.target.extensions, "tf32"))
        small = self.level == "Os" and self.target.is_firmware
        return portable(self.target) if self.emit == "c" else replace(self.target, small=True) if small else self.target


@dataclass(frozen=True)
class Outcome:
    """What a compilation gave: where it lies, what its manifest says, how long it took, whether it was verified."""

    out: Path
    job: Job
    manifest: Mapping[str, Any]
    compile_seconds: float
    verification: Verification | None
    quantization: Report | None = None

    @property
    def failure(self) -> VerificationError | None:
        """What to raise, where the artefact was verified and is wrong; then it has not been written."""
        return self.verification.failure() if self.verification else None

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        sizes = {key: self.manifest.get(key, 0) for key in ("arena_bytes", "arena_lower_bound", "weights_bytes", "code_bytes")}
        sizes |= {key: self.manifest[key] for key in ("flash_bytes", "stack_bytes", "patches") if key in self.manifest}
        result = {
            "artifact": str(self.out),
            "name": self.manifest["name"],
            "emit": self.job.emit,
            "target": self.job.target.name,
            "level": self.job.level,
            "kernels": self.manifest.get("kernels", 0),
            **sizes,
            "compile_seconds": round(self.compile_seconds, 3),
        }
        if self.quantization is not None:
            result["quantization"] = self.quantization.as_json()
        return result | ({"verify": self.verification.as_json()} if self.verification else {})


def job_options(job: Job) -> dict[str, Any]:
    """What of a job decides the bytes of its artefact, as JSON values."""
    machine = job.target
    target = {
        "name": machine.name, "triple": machine.triple, "cpu": machine.cpu, "features": list(machine.features), "caches": list(machine.caches)
    }  # fmt: skip
    quantized = {"quantize": str(job.compression.recipe)} if job.compression else {}
    options = quantized | {"emit": job.emit, "level": job.level, "passes": job.passes, "target": target, "threads": job.threads}
    several = {name: sorted(given) for name, given in job.dims.items() if not isinstance(given, int)}
    budget = {key: value for key, value in (("ram", job.ram), ("flash", job.flash)) if value is not None}
    bounds: dict[str, Any] = {"bounds": dict(sorted(job.bounds.items()))} if job.bounds else {}
    bounds |= {"kept": job.states.as_json()} if job.states else {}
    bounds |= {"precision": job.precision} if job.precision != "fp32" else {}
    return options | ({"dims": several} if several else {}) | bounds | budget


PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "fp16", "bf16")


def parse_precision(name: str, target: Target) -> Precision:
    """A precision, for a target that has a choice.

    Raises:
        UsageError: there is no such precision.
        UnsupportedError: the target is no GPU.
    """
    if name not in PRECISIONS:
        raise UsageError(f"no precision '{name}'", hint=f"known: {', '.join(PRECISIONS)}")
    if name != "fp32" and not target.gpus:
        raise UnsupportedError(
            f"--precision {name} is for GPUs", hint="processors compute in the types of the model; --quantize makes them smaller"
        )
    return name


def parse_level(level: int | str) -> Level:
    """`3`, `"3"`, `"O3"`, `"s"`, `"Os"` as a level name.

    Raises:
        UsageError: something else.
    """
    text = str(level)
    name = text if text.startswith("O") else f"O{text}"
    if name not in LEVELS:
        raise UsageError(f"no optimisation level '{level}'", hint=f"levels: {', '.join(LEVELS)}")
    return name


def refuse_planned(options: Mapping[str, Any]) -> None:
    """Refuse options of the contract whose feature this version does not have.

    Raises:
        UnsupportedError: one diagnostic per option that was given.
    """
    given = [name for name, value in options.items() if value not in (None, False)]
    if given:
        raise UnsupportedError(
            [
                Diagnostic(f"'{n.replace('_', '-')}' is not there yet", hint="compile without it; this version does float models")
                for n in given
            ]
        )
