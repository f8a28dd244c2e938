"""Which pass changed the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lepton_compiler.errors import VerificationError
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ops.evaluator import evaluate
from lepton_compiler.pipeline import Instrument, Pass
from lepton_compiler.testing.compare import compare, random_feeds


class NumericBisect(Instrument):
    """Evaluates the graph after each pass that changed it and stops at the first one whose results differ from the original's.

    Args:
        feeds: inputs; random ones of the right types where absent, with symbolic dimensions taken as `size`.
        rtol: tolerance relative to the largest value of an output.
        size: what symbolic dimensions are bound to in random feeds.
        seed: of the random feeds.

    Raises:
        VerificationError: from `after`, naming the pass and the output.
    """

    def __init__(self, feeds: Mapping[str, Any] | None = None, rtol: float = 1e-4, size: int = 3, seed: int = 0) -> None:
        self.rtol, self.size, self.seed = rtol, size, seed
        self._feeds = feeds
        self._reference: dict[str, np.ndarray] | None = None

    def before(self, step: Pass, graph: Graph) -> None:  # noqa: D102
        if self._reference is None:
            self._feeds = self._feeds or random_feeds(graph, self.seed, self.size)
            self._reference = evaluate(graph, self._feeds)

    def after(self, step: Pass, graph: Graph, changed: bool) -> None:  # noqa: D102
        if not changed or self._feeds is None or self._reference is None:
            return
        difference = compare(self._reference, evaluate(graph, self._feeds), self.rtol)
        if difference:
            raise VerificationError(f"pass '{step.name}' changed the results: {difference}", hint="run it alone with: lepton opt --passes")
