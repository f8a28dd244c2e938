"""The native backend: fused kernels through TVM to objects, a static plan for memory, one library without a runtime."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_compiler.backend import Artifact, BuildOptions
from lepton_compiler.backends.tvm.capabilities import CONTROL, computes_nothing, is_view, joins, refusal
from lepton_compiler.errors import Diagnostic, UnsupportedError
from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.states import States
from lepton_compiler.target import Target
from lepton_compiler.tuning import Database, Request, Row, TuningReport, this_cpu

if TYPE_CHECKING:
    from lepton_compiler.analysis.memory import Plan
    from lepton_compiler.backends.tvm.kernels import Kernel
    from lepton_compiler.backends.tvm.spec import KernelSpec
    from lepton_compiler.target import Target

REQUIRED_PASSES: tuple[str, ...] = (
    "bound-sizes",
    "split-transposed",
    "integer-layers",
    "integer-products",
    "legalize-native",
    "layout",
    "simplify-transposes{sink=False}",
    "dce",
    "quantize-early",
    "split-resize",
    "tabulate",
    "scale-activations",
    "canonicalize",
    "dce",
    "fuse",
    "round-inside",
)
"""Pipeline items that run before `build`."""

MOST_THREADS = 256
"""The pool counts threads in a byte."""

Progress = Callable[[int, int, str], None]


def build(graph: Graph, options: BuildOptions, progress: Progress | None = None) -> Artifact:
    """Compile a graph of static shapes to a library, header and C source.

    Raises:
        UnsupportedError: every node that has no native kernel, and every dimension that is not bound.
    """
    return build_sizes((), {(): graph}, options, progress)


def build_sizes(
    dimensions: Sequence[str], graphs: Mapping[tuple[int, ...], Graph], options: BuildOptions, progress: Progress | None = None
) -> Artifact:
    """Compile one model for several sizes of some dimensions into one artefact, which picks by what its caller says.

    Args:
        dimensions: their names.
        graphs: for each choice of their sizes the graph, of static shapes.
        options: what is asked for.
        progress: told how many kernels of how many are done, and the name of the last.

    Raises:
        UnsupportedError: every node that has no native kernel, and every dimension that is not bound.
    """
    from lepton_compiler.backends.tvm.kernels import KernelCache, build_kernels
    from lepton_compiler.backends.tvm.package.build import Package, package
    from lepton_compiler.backends.tvm.package.interface import Interface, Variant
    from lepton_compiler.backends.tvm.program import build_program
    from lepton_compiler.backends.tvm.spec import chosen, spec_of
    from lepton_compiler.backends.tvm.weights import WeightStore

    check_options(options)
    specs: list[dict[Node, KernelSpec]] = []
    for graph in graphs.values():
        check_static(graph)
        nodes = kernel_nodes(graph)
        check_supported(nodes, options.target)
        specs.append({n: chosen(spec_of(n, small=options.level == "Os"), options.choices) for n in nodes})
    every = [spec for found in specs for spec in found.values()]
    if options.emit in ("tir", "asm"):
        return _texts(every, options)
    jobs, cache = options.jobs or os.cpu_count() or 1, KernelCache(options.cache_dir or default_cache())
    ready = build_kernels(every, options.target, jobs=jobs, cache=cache, progress=progress)
    interface, weights = Interface.of(options.name, dimensions, list(graphs.values()), list(graphs), options.states), WeightStore()
    reported = [k for k, port in enumerate(interface.outputs) if port.loose]
    variants = [
        Variant(
            chosen,
            graph,
            build_program(
                graph, {n: (s, ready[s.key(options.target)]) for n, s in found.items()}, weights, reported, options.threads, options.states
            ),
        )
        for (chosen, graph), found in zip(graphs.items(), specs, strict=True)
    ]
    return with_choices(package(Package(interface, variants, weights, options)), every, ready, options.target)


def with_choices(artifact: Artifact, specs: Iterable[KernelSpec], ready: Mapping[str, Kernel], target: Target) -> Artifact:
    """An artefact whose manifest lists the kernels whose choice is not the analytic one; `ready` has all kernels by key."""
    tuned = {spec.structure: [ready[spec.key(target)].symbol, spec.choice.to_json()] for spec in specs if spec.choice}
    if not tuned:
        return artifact
    rows = [{"kernel": name, "symbol": symbol, "choice": choice} for name, (symbol, choice) in sorted(tuned.items())]
    return Artifact(artifact.files, {**artifact.manifest, "tuning": rows})


def plan(graph: Graph, options: BuildOptions) -> Plan:
    """The memory plan of a graph that the required passes have made legal; no kernel is compiled. Workspaces are not in it.

    Raises:
        UnsupportedError: as `build` does.
    """
    from lepton_compiler.backends.tvm.arena import plan_of

    check_static(graph)
    check_supported(kernel_nodes(graph), options.target)
    return plan_of(graph, options.states)


def smaller_arena(room: int) -> str:
    """The passes that make the arena of a legal graph take no more than `room` bytes, if they can."""
    return f"patches{{arena={room}}}"


def overhead(before: Graph, after: Graph) -> dict[str, Any]:
    """What `smaller_arena` did to a graph: the work of both, and the values that are computed in patches."""
    from lepton_compiler.backends.tvm.package.work import work

    whole, macs = (sum(work(node)["macs"] for node in kernel_nodes(graph)) for graph in (before, after))
    results = [node for node in after if "patches" in node.loc.rules and node.op.name == "Concat"]
    runs = [{"result": node.output.name, "patches": len(node.inputs)} for node in results]
    return {"macs": macs, "macs_without": whole, "overhead": round(macs / whole - 1, 4) if whole else 0.0, "runs": runs}


def choices_known(graphs: Iterable[Graph], target: Target, database: Database, threads: int) -> dict[str, Mapping[str, int]]:
    """What a tuning database chose for the kernels of some graphs; nothing is measured.

    On a `native` target rows of this processor count; for others those of whichever processor measured them.

    Raises:
        UsageError: it was several processors.
    """
    from lepton_compiler.backends.tvm.spec import schedule_version

    return choices_of_rows(graphs, database.find(schedule_version(), target, this_cpu() if target.host else None, threads))


def choices_of_rows(graphs: Iterable[Graph], rows: Mapping[str, Row]) -> dict[str, Mapping[str, int]]:
    """The choices of a database's rows for the kernels of some graphs, where they are not the analytic ones."""
    from lepton_compiler.backends.tvm.spec import spec_of

    kernels = {spec_of(node).structure for graph in graphs for node in kernel_nodes(graph)} if rows else set()
    return {name: rows[name].choice for name in sorted(kernels & rows.keys()) if rows[name].choice}


def tune(
    graphs: Mapping[tuple[int, ...], Graph], options: BuildOptions, request: Request, database: Database, detail: Callable[[str], None]
) -> tuple[dict[str, Mapping[str, int]], TuningReport]:
    """Measure choices for the kernels of some graphs; those that are in the database already are not measured again.

    Args:
        graphs: one for each choice of sizes, as `build_sizes` takes them.
        options: of the artefact that is wanted.
        request: how long, and where.
        database: what is known; new rows are added.
        detail: told what is going on.

    Returns:
        The choices that make the model faster, for `BuildOptions.choices`, and what to tell.

    Raises:
        UnsupportedError: as `build_sizes` does.
        LeptonError: the tracker cannot be reached, or has no such board.
    """
    from lepton_compiler.backends.tvm.kernels import KernelCache
    from lepton_compiler.backends.tvm.spec import spec_of
    from lepton_compiler.backends.tvm.tuning.device import Device
    from lepton_compiler.backends.tvm.tuning.stage import Tuning, report
    from lepton_compiler.backends.tvm.worker import symbol_of

    assert request.seconds is not None
    start, cache = time.monotonic(), KernelCache(options.cache_dir or default_cache())
    options = replace(options, choices={}, states=States())
    choices, results = dict[str, Mapping[str, int]](), []
    with Device(request.tracker, request.seconds) as device:
        for graph in graphs.values():
            check_static(graph)
            nodes = kernel_nodes(graph)
            check_supported(nodes)
            specs = {spec.structure: spec for spec in map(spec_of, nodes)}
            tuning = Tuning(options, database, device, request.seconds / len(graphs), cache, build, detail)
            results.append(tuning.run(graph, specs, lambda name, specs=specs: symbol_of(specs[name], options.target)))  # type: ignore[misc]
            choices |= results[-1].choices
    return choices, report(results, time.monotonic() - start)


def check_options(options: BuildOptions) -> None:
    """Refuse what this backend does not make yet.

    Raises:
        UnsupportedError: an output kind that is not there, that the target has no use for, or more threads than a pool can have.
    """
    if options.emit == "c":
        check_portable(options)
    if options.threads > MOST_THREADS:
        raise UnsupportedError(f"{options.threads} threads are too many", hint=f"--threads {MOST_THREADS} is the most")
    if options.target.is_firmware and options.threads > 1:
        raise UnsupportedError(f"{options.target.name} has one core: no threads", hint="compile with --threads 1")
    if options.target.is_firmware and options.profile:
        raise UnsupportedError(
            f"{options.target.name} has no clock that the artefact could read", hint="lepton bench --target counts instructions"
        )


def check_portable(options: BuildOptions) -> None:
    """Refuse what C99 sources cannot do.

    Raises:
        UnsupportedError: threads, clocks, or budgets of what only a compiler knows.
    """
    if options.threads > 1:
        raise UnsupportedError("portable C has no threads", hint="compile with --threads 1, or with --emit lib")
    if options.profile:
        raise UnsupportedError("portable C has no clock", hint="profile with --emit lib")
    if options.ram is not None or options.flash is not None:
        raise UnsupportedError(
            "what C sources take of a machine's memory is up to its compiler", hint="compile with --emit static to keep a budget"
        )


def _texts(specs: Sequence[KernelSpec], options: BuildOptions) -> Artifact:
    """Every distinct kernel as text: lowered TensorIR, or assembly."""
    from lepton_compiler.backends.tvm.worker import kernel_text

    distinct = {spec.key(options.target): spec for spec in specs}
    parts = [kernel_text(key, spec, options.target, options.emit) for key, spec in distinct.items()]
    suffix = "s" if options.emit == "asm" else "tir"
    return Artifact({f"{options.name}.{suffix}": "\n".join(parts).encode()}, {"kernels": len(specs), "distinct_kernels": len(distinct)})


def default_cache() -> Path:
    """The folder for compiled kernels: `$LEPTON_CACHE`, else the user's cache folder."""
    base = os.environ.get("LEPTON_CACHE")
    return Path(base) / "kernels" if base else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lepton" / "kernels"


def kernel_nodes(graph: Graph) -> list[Node]:
    """The nodes that become kernel calls: all but views, joins, control flow and those with empty results; nested graphs included."""
    found: list[Node] = []
    for node in graph:
        if node.op.name in CONTROL:
            for region in node.regions:
                found += kernel_nodes(region)
        elif not is_view(node) and not joins(node) and not computes_nothing(node):
            found.append(node)
    return found


def check_static(graph: Graph) -> None:
    """Refuse dimensions that nothing bound.

    Raises:
        UnsupportedError: the names of the free dimensions, or the first values whose size depends on data.
    """
    if graph.free_symbols:
        names = ", ".join(sorted(graph.free_symbols))
        raise UnsupportedError(
            f"dimensions without a size: {names}",
            where=f"graph '{graph.name}'",
            hint="bind them: --dim NAME=N, --input NAME=1x3x224x224, or inputs={...}",
        )
    problems = []
    for inner in graph.graphs():
        for node in inner:
            loose: list[Value] = [o for o in node.outputs if not o.type.is_static and node.op.name != "Sized"]
            if loose:
                problems.append(
                    Diagnostic(
                        f"the size of its result depends on the data: {loose[0].type}",
                        node.describe(),
                        "native code needs sizes that are known at compile time",
                    )
                )
    if problems:
        raise UnsupportedError(problems)


def check_supported(nodes: list[Node], target: Target | None = None) -> None:
    """Refuse operators without a native kernel, on `target` or on any machine, all of them at once.

    Raises:
        UnsupportedError: a diagnostic per node.
    """
    problems = []
    for outer in nodes:
        for node in outer.regions[0] if outer.op.name == "Fused" else [outer]:
            reason = refusal(node, target)
            if reason is not None:
                problems.append(Diagnostic(reason, node.describe(), "emit ONNX instead (--emit onnx), or write a decomposition for it"))
    if problems:
        raise UnsupportedError(problems)
