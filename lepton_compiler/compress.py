"""Compression as the driver sees it: a float model goes in, a quantized one comes out and takes the usual way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from lepton_compiler.calibration import evaluator_run
from lepton_compiler.calibration.observe import Run
from lepton_compiler.calibration.samples import load_function
from lepton_compiler.errors import LeptonError, UsageError
from lepton_compiler.identity import FOLDER_KINDS
from lepton_compiler.ir.graph import Graph
from lepton_compiler.quantization import Quantized, Recipe, Request, parse_drop, parse_recipe, quantize, quantized_nodes
from lepton_compiler.quantization.metric import Metric

NATIVE_FROM = 4e9
"""Multiplications, over all samples, from which compiling a model to calibrate it pays."""


class Runnable(Protocol):
    """A compiled model."""

    def run(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Outputs by name."""
        ...


@dataclass(frozen=True)
class Compression:
    """What the user asked for.

    Attributes:
        recipe: how to quantize.
        data: samples of the inputs.
        max_drop: the largest loss that is accepted.
        metric: the user's measure.
        analyse: work out which layer causes which part of the error.
    """

    recipe: Recipe
    data: Any = None
    max_drop: float | None = None
    metric: Metric | None = None
    analyse: bool = False

    def optimised_again(self, emit: str) -> bool:
        """Whether the level's passes run on the quantized graph: they make kernels of it, but would undo what a file shall say."""
        return emit in FOLDER_KINDS and self.recipe.scheme not in ("w8", "w4")


@dataclass(frozen=True)
class Tools:
    """What compression needs of the driver.

    Attributes:
        optimise: the passes of the level; told whether the model is quantized in part.
        build: native code for this machine.
        arch: architecture of the target.
        emit: kind of output.
        small: size counts more than time.
        stage: told what is going on.
        detail: told how far it is.
    """

    optimise: Callable[[Graph, bool], Graph]
    build: Callable[[Graph], Runnable]
    arch: str
    emit: str
    small: bool
    stage: Callable[[str], None]
    detail: Callable[[str], None]


def compression(
    scheme: str | None, data: Any = None, max_drop: str | float | None = None, metric: Any = None, analyse: bool = False
) -> Compression | None:
    """The options of the command line and of `compile` as one object; None where nothing is to be quantized.

    Raises:
        UsageError: options that make no sense, alone or together.
    """
    if scheme is None:
        given = [n for n, v in (("--calibrate", data), ("--max-drop", max_drop), ("--metric", metric)) if v is not None]
        if given:
            raise UsageError(f"{given[0]} says how to quantize, but not to what", hint="add --quantize int8")
        return None
    function = load_function(metric) if isinstance(metric, str) else metric
    drop = None if max_drop is None else parse_drop(max_drop)
    return Compression(parse_recipe(scheme), data, drop, function, analyse)


def compress(graphs: Mapping[tuple[int, ...], Graph], wanted: Compression, tools: Tools) -> Quantized:
    """Optimise and quantize an imported model.

    Raises:
        UsageError: the model is to be compiled for several sizes at once.
        LeptonError: see `quantization.quantize`.
    """
    if len(graphs) != 1:
        raise UsageError("--quantize takes one size of each dimension", hint="write --emit onnx first, then compile that for several sizes")
    (graph,) = graphs.values()
    already = quantized_nodes(graph)
    request = Request(
        wanted.recipe, wanted.data, wanted.max_drop, wanted.metric, tools.arch, tools.emit,
        lambda g, names, count: _runner(g, names, count, tools.build), wanted.analyse, already, tools.small, tools.stage, tools.detail,
    )  # fmt: skip
    return quantize(tools.optimise(graph, already > 0), request)


def _runner(graph: Graph, names: Sequence[str], count: int, build: Callable[[Graph], Runnable]) -> Run:
    """A run that gives the tensors `names`: in native code where there is much to compute, else through the evaluator."""
    if _work(graph) * count < NATIVE_FROM:
        return evaluator_run(graph, names)
    traced = graph.copy()
    values = {v.name: v for node in traced for v in node.outputs}
    traced.set_outputs(values[name] for name in dict.fromkeys(names) if name in values)
    model = build(traced)
    return model.run


def _work(graph: Graph) -> float:
    """Multiplications of one run, open dimensions being 1."""
    try:
        bound = graph.copy(dict.fromkeys(graph.free_symbols, 1))
    except LeptonError:
        return 0.0
    total = 0.0
    for node in bound:
        types = [None if v is None else v.type for v in node.inputs]
        if all(t is None or t.is_static for t in types) and all(o.type.is_static for o in node.outputs) and not node.regions:
            total += node.op.cost(types, [o.type for o in node.outputs]).macs
    return total


def keeping_report(wanted: Compression | None, report: str | None) -> Compression | None:
    """The same, with the analysis that a report shows.

    Raises:
        UsageError: a report of nothing.
    """
    if report is None:
        return wanted
    if wanted is None:
        raise UsageError("--report shows what quantization did", hint="add --quantize int8")
    return replace(wanted, analyse=True)
