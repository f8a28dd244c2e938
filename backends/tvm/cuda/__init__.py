"""The backend for GPUs of NVIDIA: fused kernels as CUDA C, compiled for each architecture, in a library that needs the driver only."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from lepton_compiler.backend import Artifact, BuildOptions
from lepton_compiler.backends.tvm import REQUIRED_PASSES, check_static, check_supported, default_cache, kernel_nodes
from lepton_compiler.errors import UnsupportedError
from lepton_compiler.ir.graph import Graph

__all__ = ["REQUIRED_PASSES", "build", "build_sizes"]

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
    from lepton_compiler.backends.tvm.spec import spec_of
    from lepton_compiler.backends.tvm.weights import WeightStore

    _check_options(options)
    specs = []
    for graph in graphs.values():
        check_static(graph)
        nodes = kernel_nodes(graph)
        check_supported(nodes, options.target)
        specs.append({n: spec_of(n, gpu=True) for n in nodes})
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
    return package(Package(interface, variants, weights, options), folder, jobs)


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
