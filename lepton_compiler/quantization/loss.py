"""What a quantized graph has lost, on the samples and by the measure of the user."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from lepton_compiler.calibration import Samples
from lepton_compiler.calibration.observe import Run
from lepton_compiler.ir.graph import Graph
from lepton_compiler.quantization import metric as measures

Runner = Callable[[Graph, Sequence[str], int], Run]
"""Makes a run of a graph that gives the tensors of these names; told how many samples will be run."""
KEPT = 128 << 20
"""Bytes of the float model's outputs that are kept from one measurement to the next; the others are computed again."""


class Loss:
    """Measures quantized graphs against the float graph that they come from; one sample is in memory at a time.

    Args:
        graph: the float graph.
        samples: what to measure on.
        runner: runs graphs.
        metric: the user's measure; None for agreement with the float model.
        detail: told how far it is.
    """

    def __init__(
        self, graph: Graph, samples: Samples, runner: Runner, metric: measures.Metric | None, detail: Callable[[str], None]
    ) -> None:
        self.graph, self.samples, self.runner, self.metric, self.detail = graph, samples, runner, metric, detail
        self.names = [v.name for v in graph.outputs]
        self._float_run: Run | None = None
        self._float_score: float | None = None
        self._kept: list[Mapping[str, np.ndarray]] = []
        self._room = KEPT

    def of(self, quantized: Graph) -> float:
        """The loss as a fraction: of the score, or of agreement.

        Raises:
            UsageError: the user's metric fails.
        """
        run = self.runner(quantized, self.names, self.samples.limit)
        if self.metric is not None:
            if self._float_score is None:
                self._float_score = measures.score(self.metric, self._run_float())
            lost = self._float_score - measures.score(self.metric, run)
            return lost / abs(self._float_score) if self._float_score else lost
        agreement = measures.Agreement(self.graph)
        for number, (feeds, expected) in enumerate(self._expected()):
            agreement.add(expected, run(feeds))
            self.detail(f"sample {number + 1}")
        return 1 - agreement.value

    def _expected(self) -> Iterator[tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]]:
        """Each sample with the outputs of the float model."""
        for number, feeds in enumerate(self.samples):
            if number < len(self._kept):
                yield feeds, self._kept[number]
                continue
            outputs = self._run_float()(feeds)
            found = {name: outputs[name] for name in self.names}
            size = sum(a.nbytes for a in found.values())
            if number == len(self._kept) and size <= self._room:
                self._kept.append(found)
                self._room -= size
            yield feeds, found

    def _run_float(self) -> Run:
        if self._float_run is None:
            self._float_run = self.runner(self.graph, self.names, self.samples.limit)
        return self._float_run
