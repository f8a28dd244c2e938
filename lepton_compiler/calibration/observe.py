"""Running a model on samples and keeping statistics of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lepton_compiler.calibration.histogram import Histogram
from lepton_compiler.errors import UsageError
from lepton_compiler.ir.graph import Graph, Node
from lepton_compiler.ops.evaluator import evaluate

Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
"""Runs a model on one sample and gives tensors by name."""


@dataclass
class Statistics:
    """What is kept of one tensor.

    Attributes:
        histogram: counts of all its elements.
        channel_low: smallest element per index of the channel axis, if that is watched.
        channel_high: largest element per index.
        channel_square: mean of the squares per index.
    """

    histogram: Histogram = field(default_factory=Histogram)
    channel_low: np.ndarray | None = None
    channel_high: np.ndarray | None = None
    channel_square: np.ndarray | None = None
    _channel_count: int = 0

    def add_channels(self, array: np.ndarray, axis: int) -> None:
        """Widen the extremes per index of `axis`, and take the squares into account."""
        others = tuple(a for a in range(array.ndim) if a != axis % array.ndim)
        low, high = array.min(others), array.max(others)
        self.channel_low = low if self.channel_low is None else np.minimum(self.channel_low, low)
        self.channel_high = high if self.channel_high is None else np.maximum(self.channel_high, high)
        count = array.size // len(low)
        self._channel_count += count
        square = np.square(array, dtype=np.float64).sum(others) / count
        known = square if self.channel_square is None else self.channel_square
        self.channel_square = known + (square - known) * (count / self._channel_count)


def observe(
    run: Run,
    samples: Iterable[Mapping[str, np.ndarray]],
    channels: Mapping[str, int | None],
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Statistics]:
    """Run a model on samples, one at a time.

    Args:
        run: gives, for one sample, the tensors to observe.
        samples: feeds.
        channels: by name of the tensors to observe, the axis whose indices are watched one by one, or None.
        progress: told after each sample how many are done.

    Raises:
        UsageError: a tensor is not finite, so the model does not work on these samples; or there is no sample.
    """
    found = {name: Statistics() for name in channels}
    done = 0
    for number, feeds in enumerate(samples):
        tensors = {**feeds, **run(feeds)}
        for name, axis in channels.items():
            array = np.asarray(tensors[name])
            if not found[name].histogram.add(array):
                raise UsageError(
                    f"sample {number + 1} of the calibration data makes '{name}' infinite or not a number",
                    hint="check that the samples are preprocessed as the model expects",
                )
            if axis is not None and array.size:
                found[name].add_channels(array, axis)
        done = number + 1
        progress(done)
    if not done:
        raise UsageError("the calibration data holds no sample")
    return found


def evaluator_run(graph: Graph, names: Sequence[str]) -> Run:
    """A run through the evaluator that gives the tensors `names` of the outermost graph."""
    wanted = {v for v in _values(graph) if v.name in set(names)}

    def run(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        kept: dict[str, np.ndarray] = {}

        def watch(node: Node, results: Sequence[Any]) -> None:
            kept.update({v.name: r for v, r in zip(node.outputs, results, strict=True) if v in wanted})

        outputs = evaluate(graph, feeds, watch)
        return {**outputs, **kept}

    return run


def _values(graph: Graph) -> Iterable[Any]:
    yield from graph.inputs
    for node in graph:
        yield from node.outputs
