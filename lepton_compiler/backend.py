"""What a backend is: a spec of the graphs it takes, and a function from such a graph to files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from lepton_compiler.registry import Registry
from lepton_compiler.states import States

if TYPE_CHECKING:
    from lepton_compiler.ir.graph import Graph
    from lepton_compiler.target import Target

Emit = Literal["lib", "static", "obj", "c", "onnx", "tflite", "ir", "tir", "asm"]
Level = Literal["O0", "O1", "O2", "O3", "Os"]
Precision = Literal["fp32", "tf32", "fp16", "bf16"]
"""What products of float32 tensors are computed in; sums are float32 in any case."""


@dataclass(frozen=True)
class BuildOptions:
    """What a backend is asked for.

    Attributes:
        name: C identifier that prefixes every symbol and file of the artefact.
        target: the machine that will run it.
        threads: number of threads that one call may use.
        emit: kind of output; a backend refuses those it does not make.
        jobs: compiler processes that may run at once; None leaves it to the backend.
        cache_dir: where compiled kernels may be kept between builds; None for the user's cache.
        level: optimisation level; the passes have run already, the backend picks schedules by it.
        profile: let the artefact measure each kernel call, for `lepton bench --profile`.
        ram: bytes that arena and stack may take together; None does not ask.
        flash: bytes that code and constants may take.
        scales: what the integers of inputs and outputs mean, by name: scale and zero point.
        states: outputs that are inputs of the next call, and what they are at first.
        choices: what tuning chose in place of the backend's analysis: by kernel, as the backend names it, parameters by name.
    """

    name: str
    target: Target
    threads: int = 1
    emit: Emit = "lib"
    jobs: int | None = None
    cache_dir: Path | None = None
    level: Level = "O2"
    profile: bool = False
    ram: int | None = None
    flash: int | None = None
    scales: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    choices: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    states: States = field(default_factory=States)


@dataclass(frozen=True)
class Artifact:
    """What a backend made.

    Attributes:
        files: path relative to the output folder, to contents. Two builds give the same bytes.
        manifest: sizes, kernels with their provenance, arena: everything that `NAME.json` tells; JSON values only,
            neither times nor paths of the building machine.
    """

    files: Mapping[str, bytes]
    manifest: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Backend(Protocol):
    """The interface of a backend; a module with these names is one."""

    REQUIRED_PASSES: tuple[str, ...]
    """Pipeline items that must have run, in this order, before `build` sees the graph."""

    def build(self, graph: Graph, options: BuildOptions, progress: Callable[[int, int, str], None] | None = None) -> Artifact:
        """Turn a graph that the required passes have made legal into files.

        Args:
            graph: static shapes only; it may be changed.
            options: what is asked for.
            progress: told how many kernels of how many are done, and the name of the last.

        Raises:
            UnsupportedError: one diagnostic per node that this backend cannot compile.
        """
        ...


BACKENDS = {"cuda": "lepton_compiler.backends.tvm.cuda", "tvm": "lepton_compiler.backends.tvm"}
"""Backends that turn a graph into native code; those that write exchange formats have their own functions."""

registry = Registry("backend", BACKENDS, "lepton.backends")
