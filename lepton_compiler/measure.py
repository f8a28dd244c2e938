"""Measuring the time of one call, so that two runs of the same machine can be compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_compiler.feeds import random_feeds
from lepton_compiler.verification import compare, onnxruntime_session

Call = Callable[[], Any]
WARM_UP = 2
FEWEST = 5
"""Rounds that are measured even where the time is up."""


@dataclass(frozen=True)
class Timing:
    """Seconds of every measured call of one contender."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median, in seconds."""
        return statistics.median(self.seconds)

    @property
    def best(self) -> float:
        """Fastest call, in seconds."""
        return min(self.seconds)

    def as_json(self) -> dict[str, Any]:
        """Median and best in milliseconds, and how many calls there were."""
        return {"median_ms": round(self.median * 1e3, 4), "best_ms": round(self.best * 1e3, 4), "count": len(self.seconds)}


def interleaved(calls: Mapping[str, Call], seconds: float) -> dict[str, Timing]:
    """Measure all contenders round by round, each once per round, so that noise meets them alike.

    Args:
        calls: contender to a function that does the work once.
        seconds: how long to measure altogether, warm-up not counted.
    """
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    samples: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    rounds = 0
    names = list(calls)
    while rounds < FEWEST or time.perf_counter() < end:
        for name in names if rounds % 2 == 0 else reversed(names):
            start = time.perf_counter()
            calls[name]()
            samples[name].append(time.perf_counter() - start)
        rounds += 1
    return {name: Timing(tuple(values)) for name, values in samples.items()}


def ratio(timings: Mapping[str, Timing], name: str, other: str) -> float:
    """How many times as long `name` takes as `other`: the median of the ratios of each round."""
    return statistics.median(a / b for a, b in zip(timings[name].seconds, timings[other].seconds, strict=True))


def native_call(model: Any, feeds: Mapping[str, np.ndarray]) -> Call:
    """The bare call of a compiled model on dense arrays, as a C program makes it."""
    rows = model.manifest["inputs"], model.manifest["outputs"]
    inputs = [np.ascontiguousarray(feeds[row["name"]]) for row in rows[0]]
    outputs = [np.empty(row["shape"], _numpy(row["dtype"])) for row in rows[1]]
    library = model.library
    return lambda: library.call(inputs, outputs)


def onnxruntime_call(source: Any, feeds: Mapping[str, np.ndarray], threads: int) -> tuple[Call, dict[str, np.ndarray]]:
    """A call of ONNX Runtime with inputs and outputs bound to memory, and the outputs of a first run.

    Raises:
        MissingDependency: onnxruntime is not installed.
    """
    session = onnxruntime_session(source, threads)
    names = [out.name for out in session.get_outputs()]
    wanted = {i.name for i in session.get_inputs()}
    given = {name: array for name, array in feeds.items() if name in wanted}
    outputs = dict(zip(names, session.run(names, given), strict=True))
    binding = session.io_binding()
    for name, array in given.items():
        binding.bind_cpu_input(name, array)
    for name in names:
        binding.bind_output(name)
    try:
        for _ in range(2):  # the first run makes the buffers, the second one reuses them
            session.run_with_iobinding(binding)
    except RuntimeError:  # models whose declared output ranks are wrong run without bound outputs only
        return lambda: session.run(names, given), outputs
    return lambda: session.run_with_iobinding(binding), outputs


def measure_model(
    source: Any,
    given: Mapping[str, np.ndarray],
    *,
    target: str = "native",
    cpu: str | None = None,
    level: int | str = 2,
    threads: int = 1,
    inputs: Mapping[str, Any] | None = None,
    dims: Mapping[str, int] | None = None,
    against: Sequence[str] = (),
    seconds: float = 3.0,
    stage: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """Compile a model and measure it, beside other runtimes if wanted.

    Args:
        source: a model.
        given: inputs by name; random ones for those that are missing.
        target: with `cpu`, `level`, `threads`, `inputs`, `dims`: as `lepton_compiler.compile` takes them.
        against: `onnxruntime`.
        seconds: how long to measure altogether.
        stage: called with the name of each stage as it begins.

    Returns:
        `{"runs": {name: {median_ms, best_ms, count[, lepton_ratio, max_rel]}}, "threads", "compile_seconds"}`.
    """
    from lepton_compiler import driver

    stage("compile")
    shapes = {**{name: array.shape for name, array in given.items()}, **(inputs or {})}
    start = time.perf_counter()
    graph = driver.import_model(source, shapes, dims)
    model = driver.compile(graph, target, level, threads=threads, cpu=cpu)
    compile_seconds = time.perf_counter() - start
    feeds = random_feeds(graph.inputs, fixed=given)
    actual = model.run(feeds)
    calls, errors = {"lepton": native_call(model, feeds)}, {}
    if "onnxruntime" in against:
        calls["onnxruntime"], expected = onnxruntime_call(source, feeds, threads)
        errors["onnxruntime"] = compare(expected, actual).as_json()["max_rel"]
    stage("measure")
    timings = interleaved(calls, seconds)
    runs = {name: timing.as_json() for name, timing in timings.items()}
    for name, error in errors.items():
        runs[name] |= {"lepton_ratio": round(ratio(timings, "lepton", name), 4), "max_rel": error}
    return {"runs": runs, "threads": threads, "compile_seconds": round(compile_seconds, 3)}


def _numpy(name: str) -> np.dtype:
    from lepton_compiler.ir.types import dtype

    return dtype(name).numpy
