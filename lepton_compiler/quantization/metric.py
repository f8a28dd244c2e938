"""How much a quantized model has lost: by its agreement with the float model, or by a measure of the user's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from lepton_compiler.calibration.observe import Run
from lepton_compiler.errors import UsageError
from lepton_compiler.ir.graph import Graph, Value

Metric = Callable[[Run], float]
"""A score of a model, given a function that runs it on one sample; higher is better."""

SCORES = frozenset({"Softmax", "LogSoftmax", "Gemm", "MatMul", "Add"})


def is_classifier(value: Value) -> bool:
    """Whether an output looks like scores of classes: [N, classes], from a product or a softmax."""
    producer = value.producer
    return (
        value.type.dtype.is_float
        and value.type.rank == 2
        and value.type.shape[1] != 1
        and producer is not None
        and producer.op.name in SCORES
    )


class Agreement:
    """How far outputs agree with those of the float model, from 0 to 1; 1 less it is the drop.

    Of scores of classes, the share of samples with the same first class; of other outputs, the cosine between the two, over all elements.
    The worst output counts.
    """

    def __init__(self, graph: Graph) -> None:
        self.classifiers = {v.name: is_classifier(v) for v in graph.outputs}
        self._same: dict[str, tuple[int, int]] = {}
        self._products: dict[str, np.ndarray] = {}

    def add(self, expected: Mapping[str, Any], actual: Mapping[str, Any]) -> None:
        """Take the outputs of one more sample into account."""
        for name, classes in self.classifiers.items():
            a, b = np.asarray(expected[name]), np.asarray(actual[name])
            if classes:
                same, total = self._same.get(name, (0, 0))
                self._same[name] = same + int((a.argmax(1) == b.argmax(1)).sum()), total + len(a)
            else:
                x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
                self._products[name] = self._products.get(name, np.zeros(3)) + np.array([x @ y, x @ x, y @ y])

    @property
    def value(self) -> float:
        """The agreement of the output that agrees least."""
        shares = [same / max(total, 1) for same, total in self._same.values()]
        shares += [float(xy / np.sqrt(xx * yy)) if xx * yy > 0 else float(xx == yy) for xy, xx, yy in self._products.values()]
        return min(shares, default=1.0)


def agreement(graph: Graph, float_run: Run, run: Run, samples: Iterable[Mapping[str, np.ndarray]]) -> float:
    """The agreement of two models on samples."""
    found = Agreement(graph)
    for feeds in samples:
        found.add(float_run(feeds), run(feeds))
    return found.value


def score(metric: Metric, run: Run) -> float:
    """The user's score of a model.

    Raises:
        UsageError: the user's function fails, or gives no number.
    """
    try:
        value = float(metric(run))
    except Exception as error:
        raise UsageError(f"the metric failed: {type(error).__name__}: {error}", hint="it takes a function that runs one sample") from error
    if not np.isfinite(value):
        raise UsageError(f"the metric gave {value}, not a number")
    return value
