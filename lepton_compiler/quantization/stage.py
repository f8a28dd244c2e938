"""The whole of a quantization: calibrate, choose, place, mend, measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lepton_compiler.calibration import Range, Samples, Statistics, choose_range, evaluator_run, observe, open_samples
from lepton_compiler.calibration.observe import Run
from lepton_compiler.errors import LeptonError, UnsupportedError, UsageError
from lepton_compiler.ir.graph import Graph, Node
from lepton_compiler.ir.traverse import bodies
from lepton_compiler.passes.quantize import activation_type
from lepton_compiler.passes.quantize.place import needed
from lepton_compiler.passes.quantize.profile import profile, profile_for
from lepton_compiler.passes.quantize.recurrent import expand_recurrent, products, states
from lepton_compiler.passes.quantize.roles import layer_name
from lepton_compiler.passes.quantize.tables import is_table
from lepton_compiler.quantization import metric as measures
from lepton_compiler.quantization.candidate import Candidate, make_candidate
from lepton_compiler.quantization.lockstep import float_results, relative_error
from lepton_compiler.quantization.recipe import Recipe
from lepton_compiler.quantization.report import LayerRow, Report
from lepton_compiler.quantization.sensitivity import shares
from lepton_compiler.quantization.smooth import equalize, smooth, smoothable

Runner = Callable[[Graph, Sequence[str], int], Run]
"""Makes a run of a graph that gives the tensors of these names; told how many samples will be run."""
QUANTIZED = frozenset("QuantizeLinear DequantizeLinear DynamicQuantizeLinear MatMulInteger ConvInteger".split())


@dataclass(frozen=True)
class Request:
    """What is wanted.

    Attributes:
        recipe: how to quantize.
        data: samples, see `calibration.open_samples`; None for schemes without.
        max_drop: the largest loss that is accepted, as a fraction.
        metric: the user's measure; None for agreement with the float model.
        arch: architecture of the target.
        emit: kind of output.
        runner: runs graphs.
        analyse: work out which layer causes which part of the error.
        stage: told what is going on.
        detail: told how far it is.
    """

    recipe: Recipe
    data: Any = None
    max_drop: float | None = None
    metric: measures.Metric | None = None
    arch: str = "x86_64"
    emit: str = "lib"
    runner: Runner = field(default=lambda graph, names, count: evaluator_run(graph, names))
    analyse: bool = False
    stage: Callable[[str], None] = lambda name: None
    detail: Callable[[str], None] = lambda text: None


@dataclass(frozen=True)
class Quantized:
    """A quantized graph, what was done, and the ranges of data by value name."""

    graph: Graph
    report: Report
    ranges: Mapping[str, Range]


def refuse_quantized(graph: Graph) -> None:
    """Refuse a model that somebody has quantized already.

    Raises:
        UnsupportedError: it is.
    """
    found = [node for part in bodies(graph) for node in part if node.op.name in QUANTIZED]
    if found:
        raise UnsupportedError(
            f"the model is quantized already: {len(found)} of its nodes are, the first one here",
            where=found[0].describe(),
            hint="compile it without --quantize, or quantize the float model that it was made from",
        )


def quantize(graph: Graph, request: Request) -> Quantized:
    """Quantize an optimised float graph; it stays as it is.

    Raises:
        UsageError: data is missing or does not fit.
        UnsupportedError: there is nothing to quantize, or `max_drop` cannot be met.
    """
    recipe = request.recipe
    graph = graph.copy()
    expand_recurrent(graph)
    samples = None if request.data is None else open_samples(request.data, graph.inputs, recipe.samples)
    if samples is None and (recipe.is_static or request.max_drop is not None):
        what = f"--quantize {recipe.scheme}" if recipe.is_static else "--max-drop"
        raise UsageError(f"{what} needs samples of the model's inputs", hint="give --calibrate DATA, or calibration= in Python")
    work = _Work(graph, request, samples)
    work.prepare()
    work.settle()
    best = work.within_bound()
    if not best.layers:
        raise UnsupportedError(
            "the model has no layer that can be quantized", hint="layers are convolutions and products by float32 constants"
        )
    return Quantized(best.graph, work.report(best), work.ranges)


class _Work:
    """The state of one quantization."""

    def __init__(self, graph: Graph, request: Request, samples: Samples | None) -> None:
        self.graph, self.request, self.recipe, self.samples = graph, request, request.recipe, samples
        self.count = 0
        self.ranges: dict[str, Range] = {}
        self.warnings: list[str] = []
        self.shares: dict[str, float] = {}
        self.drop: float | None = None
        self._float_outputs: list[Mapping[str, np.ndarray]] = []
        self._float_score: float | None = None
        self._few: list[dict[str, np.ndarray]] = []
        self._others: list[dict[str, np.ndarray]] = []
        self._wanted: dict[str, list[np.ndarray]] | None = None
        self._statistics: dict[str, Statistics] = {}

    # -- before

    def prepare(self) -> None:
        """Move factors, choose ranges."""
        if self.recipe.equalize:
            equalize(self.graph)
        if self.samples is None:
            return
        self._few, self._others = self._few_samples(self.samples)
        if self.recipe.smooth:
            wide = {v.name: -1 for v in smoothable(self.graph)}
            smooth(self.graph, self._observe("watch channels", wide), self.recipe.smooth)
        if self.recipe.is_static:
            self._choose_ranges()

    def _few_samples(self, samples: Samples) -> tuple[list[dict[str, np.ndarray]], list[dict[str, np.ndarray]]]:
        """Samples to mend layers with, and others to compare candidates on; the same where there are no others."""
        first = samples.take(1)
        if not first:
            raise UsageError(f"{samples.what} holds no sample")
        rows = max(1, max((len(a) for a in first[0].values() if a.ndim), default=1)) if self.graph.free_symbols else 1
        count = max(1, self.recipe.refine_samples // rows)
        taken = samples.take(2 * count)
        return taken[:count], taken[count:] or taken

    def _observe(self, what: str, channels: Mapping[str, int | None]) -> dict[str, Statistics]:
        assert self.samples is not None
        self.request.stage(what)
        run = self.request.runner(self.graph, list(channels), self.recipe.samples)

        def progress(done: int) -> None:
            self.count = done
            self.request.detail(f"sample {done}")

        return observe(run, self.samples, channels, progress)

    def _choose_ranges(self) -> None:
        rules = profile(profile_for(self.request.arch, self.request.emit) if self.recipe.profile == "auto" else self.recipe.profile)
        element = activation_type(self.recipe, self.request.arch, self.request.emit)
        names: dict[str, int | None] = {v.name: None for v in needed(self.graph, rules)}
        names |= {v.name: None for scan, _ in products(self.graph) for v in states(scan)}
        names |= {v.name: 1 for v in self.graph.inputs if v.type.dtype.is_float and v.type.rank > 1}
        found = self._observe("calibrate", names)
        self._warn(found)
        self._statistics = found
        if element.bits > 8:
            self.recipe = replace(self.recipe, observer="minmax")
        if self.recipe.observer != "auto":
            self.ranges = self._ranges(self.recipe.observer)

    def _ranges(self, observer: str) -> dict[str, Range]:
        element = activation_type(self.recipe, self.request.arch, self.request.emit)
        wide = element.bits > 8
        return {name: choose_range(s.histogram, observer, element.bits, wide) for name, s in self._statistics.items()}

    def settle(self) -> None:
        """Decide what the recipe leaves open, by the error of the model's outputs: how ranges are chosen first, then biases."""
        if not self._few or self.recipe.scheme == "dynamic":
            return
        if self.recipe.is_static and self.recipe.observer == "auto":
            open_bias = self.recipe.correct_bias == "auto"
            tried = [(o, self._ranges(o)) for o in ("minmax", "mse")]
            costs = [
                self._cost(replace(self.recipe, observer=o, correct_bias="off" if open_bias else self.recipe.correct_bias), r)
                for o, r in tried
            ]
            observer, self.ranges = tried[int(np.argmin(costs))]
            self.recipe = replace(self.recipe, observer=observer)
        if self.recipe.correct_bias == "auto":
            choices = [replace(self.recipe, correct_bias="off"), replace(self.recipe, correct_bias="on")]
            costs = [self._cost(choice, self.ranges) for choice in choices]
            self.recipe = choices[int(np.argmin(costs))]

    def _cost(self, recipe: Recipe, ranges: Mapping[str, Range]) -> float:
        """The squared error of the outputs of a candidate, relative to these, on samples that it was not made with."""
        self.request.stage(f"try {recipe.observer} ranges, biases {'as they are' if recipe.correct_bias == 'off' else 'corrected'}")
        found = make_candidate(self.graph, recipe, ranges, self._few, self.request.arch, self.request.emit)
        names = [v.name for v in self.graph.outputs if v.type.dtype.is_float]
        if self._wanted is None:
            self._wanted = float_results(self.graph, names, self._others)
        return relative_error(self._wanted, float_results(found.graph, names, self._others))

    def _warn(self, found: Mapping[str, Statistics]) -> None:
        for value in self.graph.inputs:
            low, high = (getattr(found.get(value.name), f"channel_{end}", None) for end in ("low", "high"))
            if low is not None and high is not None and (still := np.flatnonzero(low == high)).size:
                shown = ", ".join(map(str, still[:5])) + (", ..." if still.size > 5 else "")
                self.warnings.append(f"index {shown} of axis 1 of input '{value.name}' never changes in the calibration data")
        constant = [n for n, s in found.items() if s.histogram.low == s.histogram.high and n not in {v.name for v in self.graph.inputs}]
        if constant:
            self.warnings.append(
                f"{len(constant)} values inside the model never change on the calibration data, the first is '{constant[0]}'"
            )

    # -- the search

    def candidate(self, keep: tuple[str, ...] = ()) -> Candidate:
        """The graph quantized with some layers in floating point, mended."""
        self.request.stage("quantize")
        return make_candidate(self.graph, self.recipe.keeping(keep), self.ranges, self._few, self.request.arch, self.request.emit)

    def within_bound(self) -> Candidate:
        """The quantized graph with as few layers in floating point as the bound on the loss asks for."""
        best = self.candidate()
        request = self.request
        if self.samples is None:
            return best
        if best.layers and best.placement is not None and (request.analyse or request.max_drop is not None):
            request.stage("find sensitive layers")
            self.shares = shares(self.graph, best.placement, self._few)
        self.drop = self._drop(best)
        if request.max_drop is None or self.drop <= request.max_drop:
            return best
        return self._search(best, request.max_drop)

    def _search(self, whole: Candidate, bound: float) -> Candidate:
        """Keep the layers that cause most of the error for the least work, as few as it takes: a doubling, then a bisection."""
        order = self._order(whole)
        low, high, best = 0, 1, whole
        while True:
            best, self.drop = self._try(order[:high])
            if self.drop <= bound:
                break
            if high >= len(order) - 1:
                self._unreachable(order, bound)
            low, high = high, min(2 * high, len(order) - 1)
        while high - low > 1:
            middle = (low + high) // 2
            found, drop = self._try(order[:middle])
            if drop <= bound:
                high, best, self.drop = middle, found, drop
            else:
                low = middle
        return best

    def _try(self, keep: Sequence[str]) -> tuple[Candidate, float]:
        found = self.candidate(tuple(keep))
        drop = self._drop(found)
        self.request.detail(f"{len(keep)} layers in floating point: {100 * drop:.3g} % lost")
        return found, drop

    def _order(self, whole: Candidate) -> list[str]:
        """Layers by error per multiplication, the worst first."""
        macs = dict(whole.work)
        total = sum(macs.values()) or 1
        worth = {layer.name: self._share(layer.name, whole) / (macs.get(layer.name, 0) / total + 0.01) for layer in whole.layers}
        return sorted(worth, key=lambda name: -worth[name])

    def _share(self, name: str, whole: Candidate) -> float:
        if name in self.shares:
            return self.shares[name]
        error = whole.errors.get(name)
        return error.noise / error.signal if error is not None and error.signal else 0.0

    def _unreachable(self, order: Sequence[str], bound: float) -> None:
        raise UnsupportedError(
            f"a loss of at most {100 * bound:.3g} % cannot be met: with all but one layer in floating point {100 * (self.drop or 0):.3g} % are lost",
            where=f"layer '{order[-1]}'",
            hint="allow a larger --max-drop, or use --quantize int16x8 or w8",
        )

    # -- after

    def _drop(self, found: Candidate) -> float:
        """What a candidate has lost, as a fraction."""
        assert self.samples is not None
        self.request.stage("measure")
        names = [v.name for v in self.graph.outputs]
        run = self.request.runner(found.graph, names, self.recipe.samples)
        if self.request.metric is not None:
            if self._float_score is None:
                self._float_score = measures.score(self.request.metric, self.request.runner(self.graph, names, self.recipe.samples))
            lost = self._float_score - measures.score(self.request.metric, run)
            return lost / abs(self._float_score) if self._float_score else lost
        agreement = measures.Agreement(self.graph)
        if not self._float_outputs:
            float_run = self.request.runner(self.graph, names, self.recipe.samples)
            self._float_outputs = [{n: o for n, o in float_run(feeds).items() if n in names} for feeds in self._measured()]
        for feeds, expected in zip(self._measured(), self._float_outputs, strict=True):
            agreement.add(expected, run(feeds))
        return 1 - agreement.value

    def _measured(self) -> list[dict[str, np.ndarray]]:
        """The samples that the loss is measured on."""
        assert self.samples is not None
        return self.samples.take(self.recipe.samples)

    def report(self, best: Candidate) -> Report:
        """What was done."""
        rows = tuple(self._row(node, best) for node in best.order)
        measure = "the metric" if self.request.metric is not None else "agreement with the float model"
        return Report(
            str(self.recipe),
            rows,
            self.count or len(self._few),
            self.drop,
            measure,
            self.request.max_drop,
            best.weight_bytes,
            tuple(self.warnings),
        )

    def _row(self, node: Node, best: Candidate) -> LayerRow:
        name = layer_name(node)
        weight = node.inputs[0 if is_table(node) else 1]
        shape = weight.type.static_shape if weight is not None else ()
        done = best.rows.get(name)
        share = self.shares.get(name)
        if done is None:
            reason = (
                "the recipe keeps it" if name in self.recipe.keep else f"kept to lose at most {100 * (self.request.max_drop or 0):.3g} %"
            )
            reason = reason if name in best.kept else "it is too small, or its data is not float32"
            return LayerRow(name, node.op.name, shape, "float32", reason, share=share)
        covered = done.range or (self.ranges.get(done.data) if done.data else None)
        error = best.errors.get(name)
        return LayerRow(
            name, node.op.name, shape, done.precision, done.reason,
            covered.low if covered else None, covered.high if covered else None, done.scale, done.zero_point,
            done.weights_sqnr, error.sqnr if error else None, share,
        )  # fmt: skip


__all__ = ["LeptonError", "Quantized", "Request", "quantize", "refuse_quantized"]
