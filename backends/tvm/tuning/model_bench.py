"""A whole model as it would run, with its choices and without: time of the call, and of each kernel within it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lepton_compiler.backend import Artifact, BuildOptions
from lepton_compiler.backends.tvm.tuning import harness
from lepton_compiler.backends.tvm.tuning.device import Device
from lepton_compiler.feeds import random_feeds
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.types import dtype

NAME = "lepton_tuned"
LIMIT_SECONDS = 120.0
"""Time that one measurement of a model may take beyond what it should."""
FEWEST, MOST = 9, 61
"""Rounds of a measurement."""

Build = Callable[[Graph, BuildOptions], Artifact]


@dataclass(frozen=True)
class ModelTimes:
    """Seconds of some runs: `whole [rounds]` of the call, and `calls [rounds, kernel calls]` of the kernels in order."""

    whole: np.ndarray
    calls: np.ndarray


class ModelBench:
    """One graph, built with several sets of choices.

    Args:
        device: what measures.
        graph: of static shapes, legal for the backend.
        options: of the artefact that is wanted.
        build: the backend.
    """

    def __init__(self, device: Device, graph: Graph, options: BuildOptions, build: Build) -> None:
        self.device, self.graph, self.build = device, graph, build
        self.options = replace(options, name=NAME, emit="obj", profile=True)
        self.calls, self.seconds, self.touched = 0, 0.0, 0

    def load(self, names: Sequence[str], choices: Mapping[str, Mapping[str, int]]) -> list[str]:
        """Build with these choices and load once for each name; returns the symbol of each kernel call.

        Raises:
            LeptonError: the build failed.
            MeasureError: the library crashed or hung.
        """
        artifact = self.build(self.graph.copy(), replace(self.options, choices=choices))
        facts = artifact.manifest
        symbols = [row["symbol"] for row in facts["calls"]]
        sizes, arguments = self._arguments(facts)
        inputs, results = len(facts["inputs"]) or 1, len(arguments) - 1 - (len(facts["inputs"]) or 1)
        call = f"{NAME}_run(p, p + {inputs}, p[{inputs + results}])"
        contender = harness.Contender(f"extern int {NAME}_run(const void *, void *, void *);", call, tuple(arguments))
        table = harness.Table(tuple(sizes), (), 0)
        profiled = (f"{NAME}_profile", max(1, len(symbols)))
        code = harness.library(harness.source([contender], table, profiled), [artifact.files[f"{NAME}.o"]], self.options.target)
        feeds = random_feeds(self.graph.inputs)
        for name in names:
            self.device.load(name, code)
            for k, row in enumerate(facts["inputs"]):
                self.device.put(name, k, feeds[row["name"]])
        self.calls, self.touched = len(symbols), facts["weights_bytes"] + facts["arena_bytes"]
        return symbols

    @staticmethod
    def _arguments(facts: Mapping[str, Any]) -> tuple[list[int], list[int | tuple[str, int]]]:
        """Sizes of the buffers, and what the two structs and the arena are made of."""
        rows = [*facts["inputs"], *facts["outputs"]]
        sizes = [int(np.prod(row["shape"], dtype=np.int64)) * dtype(row["dtype"]).numpy.itemsize for row in rows]
        count = len(facts["inputs"])
        inputs: list[int | tuple[str, int]] = [*range(count)] or [("number", 0)]
        outputs: list[int | tuple[str, int]] = [*range(count, len(rows))] or [("number", 0)]
        loose = sum(len(row["shape"]) for row in facts["outputs"] if "dynamic" in row)
        return [*sizes, facts["arena_bytes"]], [*inputs, *outputs, *[("number", 0)] * loose, len(rows)]

    def times(self, names: Sequence[str], seconds: float) -> list[ModelTimes]:
        """Run the libraries in turns for about so many seconds."""
        shape = (1, 1 + max(1, self.calls))
        if not self.seconds:
            warm = self.device.run(list(names), 3, shape, 1, LIMIT_SECONDS)
            self.seconds = max(1e-7, float(warm[-1, :, 0, 0].max()))
        rounds = max(FEWEST, min(MOST, int(seconds / (self.seconds * len(names)))))
        samples = self.device.run(list(names), rounds, shape, 1, LIMIT_SECONDS + 10 * rounds * len(names) * self.seconds)
        return [ModelTimes(samples[:, k, 0, 0], samples[:, k, 0, 1 : 1 + self.calls]) for k in range(len(names))]
