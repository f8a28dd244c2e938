"""The backend for GPUs of NVIDIA: fused kernels as CUDA C, compiled for each architecture, in a library that needs the driver only."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from lepton_compiler.backend import Artifact, BuildOptions
from lepton_compiler.backends import tvm
from lepton_compiler.backends.tvm import check_static, check_supported, choices_of_rows, default_cache, kernel_nodes, with_choices
from lepton_compiler.backends.tvm.cuda.tensor_cores.attention import LARGEST_HEAD
from lepton_compiler.errors import UnsupportedError
from lepton_compiler.ir.graph import Graph
from lepton_compiler.states import States
from lepton_compiler.target import Target
from lepton_compiler.tuning import Database, Request, TuningReport

__all__ = ["REQUIRED_PASSES", "build", "build_sizes", "check_tunable", "choices_known", "tune"]

HEADS = ",".join(f"{kind}={n}" for kind, n in LARGEST_HEAD.items())
ADDED: dict[str, tuple[str, ...]] = {
    "legalize-native": ("persistent-layers",),
    "fuse": (f"merge-products{{moves=True,{HEADS}}}", f"fuse-attention{{{HEADS}}}"),
}
"""By the pass of processors that they run before: layers whose steps are one kernel, before others are taken apart; one product of the same data
for all that attention reads, and attention as one kernel.
"""
CHANGED = {"fuse": "fuse{slices=16,moves=True}"}
"""What stands for passes of processors: memory is not scarce, and a launch dear; addresses that kernels get are multiples of 16."""
REQUIRED_PASSES: tuple[str, ...] = tuple(item for step in tvm.REQUIRED_PASSES for item in (*ADDED.get(step, ()), CHANGED.get(step, step)))
"""Pipeline items that run before `build`: those of processors, `CHANGED`, and `ADDED`."""

Progress = Callable[[int, int, str], None]


def build(graph: Graph, options: BuildOptions, progress: Progress | None = None) -> Artifact:
    """Compile a graph of static shapes to a library, header, C source and CUDA C.

    Raises:
        UnsupportedError: every node that has no kernel, and every dimension that is not bound.
    """
    return build_sizes((), {(): graph}, options, progress)


def build_sizes(
    dimensions: Sequence[str], graphs: Mapping[tuple[int, ...], Graph], options: BuildOptions, progress: Progress | None = None
) -> Artifact:
    """Compile one model for several sizes of some dimensions into one artefact: see `backends.tvm.build_sizes`.

    Raises:
        UnsupportedError: every node that has no kernel, and every dimension that is not bound.
    """
    from lepton_compiler.backends.tvm.cuda.package.build import package
    from lepton_compiler.backends.tvm.cuda.package.conditions import without_true_conditions
    from lepton_compiler.backends.tvm.cuda.package.source import ALIGNMENT
    from lepton_compiler.backends.tvm.kernels import KernelCache, build_kernels
    from lepton_compiler.backends.tvm.package.build import Package
    from lepton_compiler.backends.tvm.package.interface import Interface, Variant
    from lepton_compiler.backends.tvm.program import build_program
    from lepton_compiler.backends.tvm.spec import chosen, spec_of
    from lepton_compiler.backends.tvm.weights import WeightStore

    _check_options(options)
    specs = []
    for graph in graphs.values():
        check_static(graph)
        nodes = kernel_nodes(graph)
        check_supported(nodes, options.target)
        specs.append({n: chosen(spec_of(n, gpu=True), options.choices) for n in nodes})
    jobs, folder = options.jobs or os.cpu_count() or 1, options.cache_dir or default_cache()
    every = [spec for found in specs for spec in found.values()]
    ready = build_kernels(every, options.target, jobs=jobs, cache=KernelCache(folder), progress=progress)
    interface, weights = Interface.of(options.name, dimensions, list(graphs.values()), list(graphs), options.states), WeightStore()
    reported = [k for k, port in enumerate(interface.outputs) if port.loose]
    variants = []
    for (sizes, graph), found in zip(graphs.items(), specs, strict=True):
        kernels = {n: (s, ready[s.key(options.target)]) for n, s in found.items()}
        program = build_program(graph, kernels, weights, reported, 1, options.states, ALIGNMENT)
        program.statements = without_true_conditions(program.statements, weights)
        variants.append(Variant(sizes, graph, program))
    return with_choices(package(Package(interface, variants, weights, options), folder, jobs), every, ready, options.target)


def choices_known(graphs: Iterable[Graph], target: Target, database: Database, threads: int) -> dict[str, Mapping[str, int]]:
    """What a tuning database chose for the kernels of some graphs, whichever GPU measured it; nothing is measured.

    Raises:
        UsageError: it was several GPUs.
    """
    from lepton_compiler.backends.tvm.cuda.version import schedule_version

    return choices_of_rows(graphs, database.find(schedule_version(), target, None, threads))


def check_tunable(target: Target) -> None:
    """Refuse to tune where nothing could measure.

    Raises:
        MissingDependency: there is no driver, or no compiler.
        LeptonError: there is no GPU.
        UnsupportedError: the GPU does not run what is compiled.
    """
    from lepton_compiler.backends.tvm.cuda.compilers import find_compiler
    from lepton_compiler.backends.tvm.cuda.tuning.device import code_for
    from lepton_compiler.cuda_driver import Driver

    code_for(target, Driver().facts())
    find_compiler()


def tune(
    graphs: Mapping[tuple[int, ...], Graph], options: BuildOptions, request: Request, database: Database, detail: Callable[[str], None]
) -> tuple[dict[str, Mapping[str, int]], TuningReport]:
    """Measure choices for the kernels of some graphs on GPU 0 of this machine: see `backends.tvm.tune`.

    Raises:
        UnsupportedError: as `build_sizes` does; or the GPU does not run what is compiled.
        LeptonError: there is no driver or no GPU, or the model cannot be measured.
    """
    from lepton_compiler.backends.tvm.cuda.tuning.device import GpuDevice
    from lepton_compiler.backends.tvm.cuda.tuning.stage import Tuning, report
    from lepton_compiler.backends.tvm.spec import spec_of

    assert request.seconds is not None
    start, folder = time.monotonic(), options.cache_dir or default_cache()
    options = replace(options, choices={}, states=States())
    _check_options(options)
    choices, results = dict[str, Mapping[str, int]](), []
    with GpuDevice() as device:
        for graph in graphs.values():
            check_static(graph)
            nodes = kernel_nodes(graph)
            check_supported(nodes, options.target)
            tuning = Tuning(options, database, device, request.seconds / len(graphs), folder, build, detail)
            results.append(tuning.run(graph, [spec_of(node, gpu=True) for node in nodes]))
            choices |= results[-1].choices
    return choices, report(results, time.monotonic() - start)


def _check_options(options: BuildOptions) -> None:
    """Refuse what this backend does not make.

    Raises:
        UnsupportedError: an output kind, or an option, that a GPU has no use for.
    """
    if options.emit not in ("lib", "static", "obj"):
        raise UnsupportedError(f"--emit {options.emit} is not there for GPUs", hint="--emit lib writes the CUDA C as well")
    if options.threads > 1:
        raise UnsupportedError("a GPU has no use for --threads", hint="compile with --threads 1")
    if options.profile:
        raise UnsupportedError("an artefact for a GPU measures no kernels", hint="profile it with nsys, which shows them by name")
    if options.ram is not None or options.flash is not None:
        raise UnsupportedError("budgets of memory are for firmware", hint="compile without --ram and --flash")
