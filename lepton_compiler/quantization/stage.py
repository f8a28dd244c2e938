"""The whole of a quantization: calibrate, choose, place, mend, measure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np

from lepton_compiler.calibration import Range, Samples, Statistics, choose_range, evaluator_run, observe, open_samples
from lepton_compiler.calibration.observe import Run
from lepton_compiler.errors import LeptonError, UnsupportedError, UsageError
from lepton_compiler.ir.graph import Graph, Node
from lepton_compiler.ops.evaluator import evaluate
from lepton_compiler.passes.quantize import activation_type
from lepton_compiler.passes.quantize.place import needed
from lepton_compiler.passes.quantize.profile import Profile, profile, profile_for
from lepton_compiler.passes.quantize.recurrent import expand_recurrent, products, states
from lepton_compiler.passes.quantize.roles import layer_name
from lepton_compiler.passes.quantize.tables import is_table
from lepton_compiler.quantization import metric as measures
from lepton_compiler.quantization.balance import balance, readable, trials, watched
from lepton_compiler.quantization.candidate import Candidate, make_candidate, weight_bytes
from lepton_compiler.quantization.derived import derive_bias_scales
from lepton_compiler.quantization.held import samples_at_once
from lepton_compiler.quantization.lockstep import relative_error
from lepton_compiler.quantization.loss import Loss, Runner
from lepton_compiler.quantization.recipe import Recipe
from lepton_compiler.quantization.report import LayerRow, Report
from lepton_compiler.quantization.search import Step, Tried, raised, search
from lepton_compiler.quantization.sensitivity import shares
from lepton_compiler.quantization.smooth import equalize, smooth, smoothable


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
        quantized: how many nodes of the model are quantized already.
        small: size counts more than time.
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
    quantized: int = 0
    small: bool = False
    stage: Callable[[str], None] = lambda name: None
    detail: Callable[[str], None] = lambda text: None


@dataclass(frozen=True)
class Quantized:
    """A quantized graph, what was done, and the ranges of data by value name."""

    graph: Graph
    report: Report
    ranges: Mapping[str, Range]


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
    if request.emit != "tflite":  # its files have no place for expressions
        derive_bias_scales(best.graph)
    return Quantized(best.graph, work.report(best), work.ranges)


class _Work:
    """The state of one quantization."""

    def __init__(self, graph: Graph, request: Request, samples: Samples | None) -> None:
        self.graph, self.request, self.recipe, self.samples = graph, request, request.recipe, samples
        self.count = 0
        self.ranges: dict[str, Range] = {}
        here = f"{request.quantized} nodes of the model are quantized already and stay as they are"
        self.warnings = [here] if request.quantized else []
        self.shares: dict[str, float] = {}
        self.balanced: set[str] = set()
        self.drop: float | None = None
        self._few: list[dict[str, np.ndarray]] = []
        self._others: list[dict[str, np.ndarray]] = []
        self._wanted: list[dict[str, np.ndarray]] = []
        self._statistics: dict[str, Statistics] = {}
        self._made: tuple[Recipe, Candidate, float] | None = None

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
            if self.recipe.balance and self.recipe.per_channel and self.recipe.scheme == "int8":
                self._balance()
            self._choose_ranges()

    def _balance(self) -> None:
        reads = readable(self.graph, self.rules, self.recipe.keep)
        assert self.samples is not None
        count = sum(1 for _ in self.samples) if reads else 0
        if count > 1:
            names = {value.name: read.axis for value, read in reads.items()}
            run = self.request.runner(self.graph, list(names), self.recipe.samples)
            first = self._observe("watch channels", names, run, islice(self.samples, count // 2))
            tried = trials(reads, first)
            second = self._observe("watch channels", names, watched(run, tried), islice(self.samples, count // 2, None))
            self.balanced = balance(reads, (first, second), tried)

    @property
    def rules(self) -> Profile:
        """Of the target."""
        return profile(profile_for(self.request.arch, self.request.emit) if self.recipe.profile == "auto" else self.recipe.profile)

    def _few_samples(self, samples: Samples) -> tuple[list[dict[str, np.ndarray]], list[dict[str, np.ndarray]]]:
        """Samples to mend layers with, and others to compare candidates on; the same where there are no others."""
        first = samples.take(1)
        if not first:
            raise UsageError(f"{samples.what} holds no sample")
        rows = max(1, max((len(a) for a in first[0].values() if a.ndim), default=1)) if self.graph.free_symbols else 1
        count = samples_at_once(self.graph, first[0], max(1, self.recipe.refine_samples // rows))
        taken = samples.take(2 * count)
        return taken[:count], taken[count:] or taken

    def _observe(
        self, what: str, channels: Mapping[str, int | None], run: Run | None = None,
        samples: Iterable[Mapping[str, np.ndarray]] | None = None,
    ) -> dict[str, Statistics]:  # fmt: skip
        """Statistics of values on some samples, or on all."""
        assert self.samples is not None
        self.request.stage(what)
        run = run or self.request.runner(self.graph, list(channels), self.recipe.samples)

        def progress(done: int) -> None:
            self.count = done
            self.request.detail(f"sample {done}")

        return observe(run, self.samples if samples is None else samples, channels, progress)

    def _choose_ranges(self) -> None:
        element = activation_type(self.recipe, self.request.arch, self.request.emit)
        names: dict[str, int | None] = {v.name: None for v in needed(self.graph, self.rules)}
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
        open_bias = self.recipe.correct_bias == "auto"
        if self.recipe.is_static and self.recipe.observer == "auto":
            bias = "off" if open_bias else self.recipe.correct_bias
            self._choose([(replace(self.recipe, observer=o, correct_bias=bias), self._ranges(o)) for o in ("minmax", "mse")])
        elif open_bias:
            self._choose([(replace(self.recipe, correct_bias="off"), self.ranges)])
        if open_bias:
            self._choose([(self.recipe, self.ranges), (replace(self.recipe, correct_bias="on"), self.ranges)])

    def _choose(self, choices: Sequence[tuple[Recipe, dict[str, Range]]]) -> None:
        """Take the recipe and the ranges of the least cost; what was made with them is kept."""
        for number, (recipe, ranges) in enumerate(choices):
            if self._made is not None and self._made[0] == recipe:
                continue
            made, cost = self._cost(recipe, ranges)
            if not number or self._made is None or cost < self._made[2]:
                self.recipe, self.ranges, self._made = recipe, ranges, (recipe, made, cost)

    def _cost(self, recipe: Recipe, ranges: Mapping[str, Range]) -> tuple[Candidate, float]:
        """A candidate, and the squared error of its outputs, relative to these, on samples that it was not made with."""
        self.request.stage(f"try {recipe.observer} ranges, biases {'as they are' if recipe.correct_bias == 'off' else 'corrected'}")
        found = make_candidate(self.graph, recipe, ranges, self._few, self.request.arch, self.request.emit)
        names = [v.name for v in self.graph.outputs if v.type.dtype.is_float]
        if not self._wanted:
            self._wanted = [evaluate(self.graph, feeds) for feeds in self._others]
        return found, relative_error(self._wanted, (evaluate(found.graph, feeds) for feeds in self._others), names)

    def _make(self, recipe: Recipe, ranges: Mapping[str, Range]) -> Candidate:
        """A candidate; the last one that was decided for is not made again."""
        if self._made is not None and self._made[0] == recipe:
            return self._made[1]
        return make_candidate(self.graph, recipe, ranges, self._few, self.request.arch, self.request.emit)

    def _warn(self, found: Mapping[str, Statistics]) -> None:
        seen = [found[v.name].histogram for v in self.graph.inputs if v.name in found]
        if seen and len(seen) == len(self.graph.inputs) and all(h.low == h.high for h in seen):
            raise UsageError(
                f"the calibration data is {seen[0].low:.6g} throughout: it says nothing about the numbers inside the model",
                hint="give samples of what the model will meet, preprocessed as it expects",
            )
        if self.count == 1:
            self.warnings.append("there is one sample only: values that it does not show will be cut off at its extremes")
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

    def within_bound(self) -> Candidate:
        """The quantized graph with as few layers in higher precision as the bound on the loss asks for.

        Raises:
            UnsupportedError: the bound cannot be met.
        """
        request = self.request
        request.stage("quantize")
        best = self._make(self.recipe, self.ranges)
        if self.samples is None or not best.layers:
            return best
        if best.placement is not None and (request.analyse or request.max_drop is not None):
            request.stage("find sensitive layers")
            self.shares = shares(self.graph, best.placement, self._few)
        loss = Loss(self.graph, self.samples, request.runner, request.metric, request.detail)
        request.stage("measure")
        self.drop = loss.of(best.graph)
        if request.max_drop is None or self.drop <= request.max_drop:
            return best
        return self._search(Tried((), best, self.drop), request.max_drop, loss)

    def _search(self, whole: Tried, bound: float, loss: Loss) -> Candidate:
        lost = [whole.drop]

        def attempt(steps: Sequence[Step]) -> Tried:
            recipe = raised(self.recipe, steps)
            self.request.stage(f"{100 * lost[-1]:.3g} % lost: try {len(set(recipe.keep + recipe.wide))} layers in higher precision")
            made = make_candidate(self.graph, recipe, self.ranges, self._few, self.request.arch, self.request.emit, whole.candidate.codes)
            found = Tried(tuple(steps), made, loss.of(made.graph))
            lost.append(found.drop)
            return found

        worth = {layer.name: self._share(layer.name, whole.candidate) for layer in whole.candidate.layers}
        wide = self.recipe.higher == "int16x8" or (self.recipe.higher == "auto" and self.request.small)
        rungs = (True, False) if wide and self.recipe.scheme == "int8" else (False,)
        best = search(whole, bound, worth, rungs, attempt)
        self.drop = best.drop
        if best.drop > bound:
            self._unreachable(whole, best, bound)
        return best.candidate

    def _share(self, name: str, whole: Candidate) -> float:
        if name in self.shares:
            return self.shares[name]
        error = whole.errors.get(name)
        return error.noise / error.signal if error is not None and error.signal else 0.0

    def _unreachable(self, whole: Tried, best: Tried, bound: float) -> None:
        kept = {step.layer for step in best.steps}
        left = [layer.name for layer in whole.candidate.layers if layer.name not in kept]
        raise UnsupportedError(
            f"a loss of at most {100 * bound:.3g} % cannot be met: with all but {len(left)} of {len(whole.candidate.layers)} layers in "
            f"floating point {100 * best.drop:.3g} % are lost, with none {100 * whole.drop:.3g} %",
            where=f"layer '{left[0]}'" if left else "",
            hint="allow a larger --max-drop, or use --quantize int16x8 or w8",
        )

    # -- after

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
            (weight_bytes(self.graph), weight_bytes(best.graph)),
            tuple(self.warnings),
            self.graph.name,
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
        reason = f"{done.reason}; channels of its data are balanced against weights" if name in self.balanced else done.reason
        covered = done.range or (self.ranges.get(done.data) if done.data else None)
        error = best.errors.get(name)
        return LayerRow(
            name, node.op.name, shape, done.precision, reason,
            covered.low if covered else None, covered.high if covered else None, done.scale, done.zero_point,
            done.weights_sqnr, error.sqnr if error else None, share,
        )  # fmt: skip


__all__ = ["LeptonError", "Quantized", "Request", "quantize"]
