"""From a model to an artefact: import, optimise, make legal, emit, verify, write.

This is the only module that knows frontends, passes and backends. The command line and the Python API are
thin layers over `Job`.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lepton_compiler.analysis.scales import scales_of
from lepton_compiler.backend import Artifact, BuildOptions, Level, registry
from lepton_compiler.compress import Tools, compress, compression
from lepton_compiler.errors import Diagnostic, InferenceError, OpenDimensionsError, UnsupportedError, UsageError
from lepton_compiler.feeds import random_feeds
from lepton_compiler.identity import (
    FOLDER_KINDS,
    check_name,
    compiler_files,
    default_name,
    default_out,
    identify,
    manifest_bytes,
    weights_bytes,
)
from lepton_compiler.ir.graph import Graph
from lepton_compiler.job import Job, Outcome, job_options, parse_level, parse_precision, refuse_planned
from lepton_compiler.ops.evaluator import check_feeds
from lepton_compiler.output import depfile_text, publish_files, publish_folder, replace_file, staging, write_files
from lepton_compiler.pipeline import Instrument
from lepton_compiler.ram import Fitting
from lepton_compiler.several import Choices, Dims
from lepton_compiler.sources import bind, files_of, kind_of, read_model
from lepton_compiler.states import States
from lepton_compiler.streaming import check_states
from lepton_compiler.target import Target, parse_target, runs_here
from lepton_compiler.tuning import Request, check_tunable, decide
from lepton_compiler.verification import Verification, check_models, compare, reference_outputs, tolerance_of, tolerance_with

if TYPE_CHECKING:
    import numpy as np

    from lepton_compiler.pipeline import Pass, Pipeline
    from lepton_compiler.quantization import Report
    from lepton_compiler.runtime.model import CompiledModel

CONVERTED = ("hoist-invariants", "fold-constants{dequantize=false,small=0}", "simplify-casts", "dce")
"""After conversions were put in: those of weights are done here, before loops and not in each iteration, and those there and back go."""
PRECISION_PASSES = {
    "fp32": (),
    "tf32": (),
    "fp16": ("lower-precision{to=float16}", *CONVERTED),
    "bf16": ("lower-precision{to=bfloat16}", *CONVERTED),
}
"""Passes that lower the precision of a graph before a backend's own passes."""

# -- the Python API


def import_model(source: Any, inputs: Mapping[str, Any] | None = None, dims: Mapping[str, int] | None = None) -> Graph:
    """Import a model: see `lepton_compiler.sources.read_model` for what is accepted and raised."""
    return read_model(source, inputs, dims)


def optimize(
    graph: Graph,
    level: int | str = 2,
    target: str | Target = "native",
    passes: str | Sequence[Pass] | None = None,
    instruments: Sequence[Instrument] = (),
    bounds: Mapping[str, int] | None = None,
) -> Graph:
    """An optimised copy of `graph` that computes the same.

    Args:
        graph: any valid graph; it stays as it is.
        level: 0 to 3, or "s" for size.
        target: what the passes may reckon with.
        passes: run these instead of the level's, as text (`"fold-constants,fuse{depth=3}"`) or as objects.
        instruments: told about every pass.
        bounds: by node name, the largest size that its result of data-dependent size takes.

    Raises:
        UsageError: an unknown level, target or pass.
    """
    from lepton_compiler.pipeline import PassContext, Pipeline, parse_pipeline

    named = parse_level(level)
    if passes is None:
        pipeline = level_pipeline(named)
    else:
        pipeline = parse_pipeline(passes) if isinstance(passes, str) else Pipeline(tuple(passes))
    machine = target if isinstance(target, Target) else parse_target(target)
    return pipeline.run(graph.copy(), PassContext(machine, named, tuple(instruments), bounds=bounds or {}))


def compile(
    source: Any,
    target: str | Target = "native",
    level: int | str = 2,
    inputs: Mapping[str, Any] | None = None,
    threads: int = 1,
    *,
    dims: Dims | None = None,
    bounds: Mapping[str, int] | None = None,
    cpu: str | None = None,
    name: str | None = None,
    passes: str | None = None,
    verify: bool = False,
    jobs: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    quantize: str | None = None,
    calibration: Any = None,
    prune: str | None = None,
    recover: str | None = None,
    max_drop: str | float | None = None,
    metric: Any = None,
    tune: float | None = None,
    tune_db: str | os.PathLike[str] | None = None,
    tune_tracker: str | None = None,
    profile: bool = False,
    ram: int | None = None,
    flash: int | None = None,
    states: Mapping[str, str] | None = None,
    initial: Mapping[str, np.ndarray] | None = None,
    precision: str = "fp32",
) -> CompiledModel:
    """Compile a model and load it.

    Args:
        source: what `import_model` takes.
        target: target name, or a `Target`.
        level: 0 to 3, or "s" for size.
        inputs: shapes (or constants) by input name.
        threads: that one call may use.
        dims: by dimension name a size, or several: then the model holds all of them and no other.
        bounds: by node name, the largest size that its result of data-dependent size takes; a run that exceeds it fails.
        cpu: LLVM processor name.
        name: C identifier of the artefact.
        passes: a pipeline that runs instead of the level's.
        verify: compare with a reference on random inputs first.
        jobs: compiler processes at once.
        cache_dir: where compiled kernels are kept.
        profile: let the model measure each of its kernel calls, for `lepton_compiler.profile`.
        ram: bytes that arena and stack of firmware may take together; more is refused.
        flash: bytes that its code and constants may take.
        states: by the name of an output, the input that reads it in the next run: the model keeps both, until `reset`.
        initial: by the name of such an input, its value in the first run; zeros where nothing is said.
        precision: on a GPU, of products: `fp32`, `tf32`, or `fp16` or `bf16`, in which what is between layers is stored, too.
        tune: seconds to measure other choices for the kernels that take longest; what was measured goes into a database.
        tune_db: that database; without `tune` the choices in it are taken, and nothing is measured.
        tune_tracker: `HOST:PORT[,KEY]` of TVM's RPC tracker, to measure on its boards.
        quantize: `int8`, `int16x8`, `dynamic`, `w8`, `w4`, with options as in `int8{observer=entropy}`; see docs/quantization.md.
        calibration: samples of the inputs, for `int8`, `int16x8` and `max_drop`; see `lepton_compiler.calibration.open_samples`.
        max_drop: the largest loss that is accepted, as `1%` or 0.01; layers stay in floating point until it is met.
        metric: the user's measure of a model, `module:function` or a function of a function that runs one sample; higher is better.
        prune: with `recover`: accepted by name, refused by this version.

    Returns:
        A model whose `run(feeds)` gives outputs by name. Where dimensions are unbound it compiles for each new shape on first use.

    Raises:
        LeptonError: see the subclasses.
    """
    refuse_planned({"prune": prune, "recover": recover})
    machine = target if isinstance(target, Target) else parse_target(target, cpu)
    job = Job(
        machine, parse_level(level), name=name, threads=threads, passes=passes, inputs=inputs or {}, dims=dims or {}, bounds=bounds or {}, jobs=jobs,
        cache_dir=Path(cache_dir) if cache_dir is not None else None, verify=verify, profile=profile, ram=ram, flash=flash,
        tuning=Request.of(machine, tune, tune_db, tune_tracker),
        compression=compression(quantize, calibration, max_drop, metric), states=States(states or {}, initial or {}),
        precision=parse_precision(precision, machine),
    )  # fmt: skip
    return compile_job(source, job)


def compile_job(source: Any, job: Job) -> CompiledModel:
    """`compile` for a `Job`.

    Raises:
        LeptonError: see the subclasses.
    """
    from lepton_compiler.runtime.model import CompiledModel

    check_tunable(registry.get(job.machine.backend), job.machine, job.tuning)
    name = check_name(job.name) if job.name else default_name(source)
    choices = Choices.of(job.dims)
    graphs: dict[tuple[int, ...], Graph] = {}
    with contextlib.nullcontext() if choices.dimensions else contextlib.suppress(OpenDimensionsError):
        graphs = {sizes: read_model(source, job.inputs, choices.bound(sizes)) for sizes in choices.sizes}
    source, graphs, _ = _compressed(source, graphs, job)

    def specialise(feeds: Mapping[str, np.ndarray]) -> Artifact:
        bound = _bound_to_feeds(source, graphs.get(()), feeds, job)
        return complete(build(_optimised(bound, job), name, job), identify(name, job_options(job), bound, None))

    check_states(job.states, graphs)
    if not graphs or (not choices.dimensions and graphs[()].free_symbols):
        if job.tuning.seconds is not None:
            raise UsageError("tuning needs known sizes, and the model has open dimensions", hint="bind them with inputs or dims")
        return CompiledModel(None, specialise)
    identity = identify(name, job_options(job), graphs[choices.sizes[-1]], source)
    model = CompiledModel(complete(_build_choices(graphs, choices, name, job), identity))
    if job.verify:
        check_models(source, graphs, model, job.feeds, job.inputs, runs_here(job.target), job.states, tolerance_with(job.precision)).check()
    return model


def load(folder: str | os.PathLike[str]) -> CompiledModel:
    """Load an artefact that `leptonc` or `CompiledModel.save` wrote for this machine."""
    from lepton_compiler.runtime import model

    return model.load(Path(folder))


def emit(graph: Graph, path: str | os.PathLike[str], backend: str = "onnx", opset: int = 21) -> Path:
    """Write a graph in an exchange format.

    Args:
        graph: any graph whose operators the format has.
        path: the file; ONNX models over 2 GB get their weights beside it.
        backend: `onnx`, or `ir` for lepton's text form.
        opset: of ONNX output.

    Raises:
        UnsupportedError: the format cannot express the graph.
        UsageError: no such format.
    """
    if backend not in ("onnx", "ir", "tflite"):
        raise UsageError(f"no exchange format '{backend}'", hint="known: onnx, ir")
    out = Path(path)
    with staging(out) as staged:
        _write_exchange(graph, staged / out.name, backend, opset)
        publish_files(staged, out)
    return out


# -- the whole way, for the command line


def run_job(source: Any, out: Path | None, job: Job, depfile: Path | None = None, extra_sources: Sequence[str] = ()) -> Outcome:
    """Compile `source` and write the result; on any failure nothing is written.

    A failed verification is such a failure, but no exception: `Outcome.failure` is, so that its numbers can be shown.

    Args:
        source: what `import_model` takes.
        out: where to; None derives it from the source's name.
        job: what to do.
        depfile: also write a rule in Make's syntax there: the artefact depends on the model, its external weights and the compiler.
        extra_sources: further files that the rule names.

    Raises:
        LeptonError: see the subclasses.
    """
    start = time.perf_counter()
    name = job.name or default_name(source)
    out = out or default_out(source, name, job.emit)
    choices = Choices.of(job.dims)
    if job.tuning != Request() and (job.emit not in FOLDER_KINDS or job.emit == "c"):
        raise UsageError(f"--emit {job.emit} has no kernels to tune", hint="tuning is for native code")
    check_tunable(registry.get(job.machine.backend), job.machine, job.tuning)
    if choices.dimensions and job.emit not in FOLDER_KINDS:
        raise UsageError(f"--emit {job.emit} takes one size of dimension '{choices.dimensions[0]}'", hint="libraries hold several")
    job.stage("import")
    every = {sizes: read_model(source, job.inputs, choices.bound(sizes)) for sizes in choices.sizes}
    model, every, report = _compressed(source, every, job)
    check_states(job.states, every, job.emit)
    imported = every[choices.sizes[-1]]
    identity = identify(name, job_options(job), imported, source)
    check = None
    with staging(out) as staged:
        if job.emit in FOLDER_KINDS:
            artifact = complete(_build_choices(every, choices, name, job), identity)
            manifest, main = artifact.manifest, out / f"{name}.json"
            write_files(staged, {**artifact.files, main.name: manifest_bytes(manifest)})
            seconds = time.perf_counter() - start
            check = _verify_native(model, every, choices, artifact, job) if job.verify else None
        else:
            graph = _optimised(imported, job)
            job.stage("emit")
            manifest, main = {**identity, "weights_bytes": weights_bytes(graph)}, out
            _write_exchange(graph, staged / out.name, job.emit, job.opset)
            seconds = time.perf_counter() - start
            check = _verify_file(model, imported, staged / out.name, job) if job.verify else None
        if check is None or check.ok:
            publish = publish_folder if job.emit in FOLDER_KINDS else publish_files
            publish(staged, out)
            if depfile is not None:
                sources = [*files_of(source, imported), *extra_sources, *compiler_files()]
                replace_file(depfile, depfile_text(str(main), sources).encode())
    return Outcome(out, job, manifest, seconds, check, report)


def build(graph: Graph, name: str, job: Job) -> Artifact:
    """Run the native backend's required passes on a copy of `graph`, then the backend.

    Raises:
        UnsupportedError: unbound dimensions, or nodes that the backend cannot compile; each one named.
    """
    return build_sizes((), {(): graph}, name, job)


def build_sizes(
    dimensions: Sequence[str],
    graphs: Mapping[tuple[int, ...], Graph],
    name: str,
    job: Job,
    scales: Mapping[str, tuple[float, int]] | None = None,
) -> Artifact:
    """`build` for several sizes of some dimensions: one artefact that holds the graph of each choice of sizes.

    `scales` says what integers of inputs and outputs mean, for the header.

    Raises:
        UnsupportedError: see `build`; or the backend makes artefacts of one size only.
    """
    backend = registry.get(job.machine.backend)
    legal = {}
    for sizes, graph in graphs.items():
        require_bound(graph)
        job.stage("legalise")
        required = (*PRECISION_PASSES[job.precision], *getattr(backend, "REQUIRED_PASSES", ()))
        legal[sizes] = optimize(graph, job.level, job.machine, ",".join(required), job.instruments, job.bounds) if required else graph
    options = BuildOptions(
        name, job.machine, job.threads, job.emit, job.jobs, job.cache_dir, job.level, job.profile, job.ram, job.flash, dict(scales or {}),
        states=job.states,
    )  # fmt: skip
    if job.tuning.seconds is not None:
        job.stage("tune")
    tuned, report = decide(backend, legal, options, job.tuning, job.detail)
    if report is not None:
        job.tuned(report)
    options = replace(options, choices=tuned)
    job.stage("generate code")

    def progress(done: int, total: int, label: str) -> None:
        job.detail(f"kernel {done} of {total}, {label}")

    if dimensions and not hasattr(backend, "build_sizes"):
        raise UnsupportedError("this backend makes artefacts of one size only", hint=f"give one size of {', '.join(dimensions)}")

    def make(graphs: Mapping[tuple[int, ...], Graph]) -> Artifact:
        built = backend.build_sizes(dimensions, graphs, options, progress) if dimensions else backend.build(graphs[()], options, progress)
        return cast(Artifact, built)

    return Fitting(backend, options, make, job.instruments).build(legal)


def complete(artifact: Artifact, identity: Mapping[str, Any]) -> Artifact:
    """The artefact with what it was made from in its manifest."""
    return Artifact(artifact.files, {**identity, **artifact.manifest})


def bind_to_feeds(graph: Graph, feeds: Mapping[str, Any]) -> Graph:
    """A copy of `graph` with the dimensions of its inputs bound to those of the feeds.

    Raises:
        UsageError: feeds that do not fit.
    """
    arrays = check_feeds(graph, feeds)
    return bind(graph, {v.name: a.shape for v, a in zip(graph.inputs, arrays, strict=True)}, {})


def _bound_to_feeds(source: Any, graph: Graph | None, feeds: Mapping[str, np.ndarray], job: Job) -> Graph:
    """`graph` for the shapes of these feeds; imported again where it has branches that these shapes rule out."""
    if graph is not None:
        try:
            return bind_to_feeds(graph, feeds)
        except InferenceError:
            if kind_of(source) != "onnx":
                raise
    shapes = {name: array.shape for name, array in feeds.items()}
    return read_model(source, {**job.inputs, **shapes}, Choices.of(job.dims).fixed)


def require_bound(graph: Graph) -> None:
    """Refuse a graph with symbolic input dimensions.

    Raises:
        UnsupportedError: names every unbound dimension, with the option that binds it.
    """
    if not graph.free_symbols:
        return
    problems = []
    for symbol in sorted(graph.free_symbols):
        users = [v for v in graph.inputs if symbol in {repr(d) for d in v.type.shape}]
        where = f"input '{users[0].name}' {users[0].type}" if users else ""
        problems.append(
            Diagnostic(
                f"dimension '{symbol}' must be known to compile ahead of time", where, f"say --dim {symbol}=N, or dims={{'{symbol}': N}}"
            )
        )
    raise UnsupportedError(problems)


def level_pipeline(level: Level) -> Pipeline:
    """The `Pipeline` that a level stands for."""
    from lepton_compiler.passes.levels import passes_for_level
    from lepton_compiler.pipeline import Pipeline, parse_pipeline

    found = passes_for_level(level)
    if isinstance(found, Pipeline):
        return found
    return parse_pipeline(found) if isinstance(found, str) else Pipeline(tuple(found))


# -- inside


def _compressed(source: Any, graphs: dict[tuple[int, ...], Graph], job: Job) -> tuple[Any, dict[tuple[int, ...], Graph], Report | None]:
    """What is compiled instead of an imported model: its quantized graph, where quantization is asked for."""
    if job.compression is None:
        return source, graphs, None
    plain = replace(job, compression=None)
    here = job.target if job.target.arch == parse_target("native").arch else parse_target("native")

    def build(graph: Graph) -> CompiledModel:
        return compile(graph, here, job.level, threads=os.cpu_count() or 1, jobs=job.jobs, cache_dir=job.cache_dir)

    def optimised(graph: Graph, partly: bool) -> Graph:
        return _optimised(graph, plain, keep_codes=partly)

    tools = Tools(optimised, build, job.target.arch, job.emit, job.level == "Os", job.stage, job.detail)
    result = compress(graphs, job.compression, tools)
    return result.graph, dict.fromkeys(graphs, result.graph), result.report


def _optimised(graph: Graph, job: Job, *, keep_codes: bool = False) -> Graph:
    if job.compression is not None and not job.compression.optimised_again(job.emit):
        return graph
    job.stage("optimise")
    passes: str | Sequence[Pass] | None = job.passes
    if keep_codes and passes is None:
        from lepton_compiler.passes.levels import keeping_codes

        passes = keeping_codes(level_pipeline(job.level).passes)
    return optimize(graph, job.level, job.machine, passes, job.instruments)


def _write_exchange(graph: Graph, file: Path, kind: str, opset: int) -> None:
    match kind:
        case "onnx":
            from lepton_compiler.backends.onnx import emit_onnx

            emit_onnx(graph, file, opset=opset)
        case "ir":
            from lepton_compiler.ir.text import write_lir

            write_lir(graph, file)
        case "tflite":
            raise UnsupportedError("TFLite output is not there yet", hint="emit onnx, or native code with --emit lib")


def _build_choices(graphs: Mapping[tuple[int, ...], Graph], choices: Choices, name: str, job: Job) -> Artifact:
    """Optimise and build the graphs of all choices of sizes."""
    scales = scales_of(next(iter(graphs.values())))
    return build_sizes(choices.dimensions, {sizes: _optimised(graph, job) for sizes, graph in graphs.items()}, name, job, scales)


def _verify_native(source: Any, graphs: Mapping[tuple[int, ...], Graph], choices: Choices, artifact: Artifact, job: Job) -> Verification:
    """Run the artefact, in an emulator if it is for another machine; other kinds of output through a library of the same kernels."""
    from lepton_compiler.runtime.model import CompiledModel
    from lepton_compiler.runtime.portable import host_artifact

    job.stage("verify")
    if job.emit == "c":
        artifact = host_artifact(artifact)
    elif job.emit != "lib":
        again = replace(
            job, emit="lib", tuning=Request(fixed={row["kernel"]: row["choice"] for row in artifact.manifest.get("tuning", ())})
        )
        artifact = complete(_build_choices(graphs, choices, artifact.manifest["name"], again), artifact.manifest)
    here = job.emit == "c" or runs_here(job.target)
    return check_models(source, graphs, CompiledModel(artifact), job.feeds, job.inputs, here, job.states, tolerance_with(job.precision))


def _verify_file(source: Any, imported: Graph, file: Path, job: Job) -> Verification:
    """Run an emitted file: ONNX in ONNX Runtime where that is installed, text by importing it again."""
    job.stage("verify")
    feeds = random_feeds(imported.inputs, fixed=job.feeds)
    reference, expected = reference_outputs(source, imported, feeds, job.inputs)
    _, actual = reference_outputs(file, read_model(file), feeds)
    return compare(expected, actual, reference, tolerance_of(imported))
