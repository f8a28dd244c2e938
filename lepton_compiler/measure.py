"""Measuring the time of one call, beside that of other runtimes on the same machine at the same time."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lepton_compiler import peers
from lepton_compiler.errors import UsageError
from lepton_compiler.feeds import random_feeds
from lepton_compiler.ir.types import dtype
from lepton_compiler.verification import compare

Call = Callable[[], Any]
WARM_UP = 3
FEWEST = 5
"""Rounds that are measured even where the time is up."""

QUICK = 0.02
"""Seconds. A call that takes less is repeated in its turn, since the one before has left its own data in the caches."""

REPEATS = 5
TURN = 1e-3
"""Measured calls in the turn of a quick contender, after one that is not measured; more of very short ones, until they took so many seconds."""

PAUSE = 0.03
"""Seconds between contenders with several threads: the threads of a runtime look for work in a loop for some time after a call, and
would take the processors from the next one."""


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


def interleaved(calls: Mapping[str, Call], seconds: float, threads: int = 1) -> dict[str, Timing]:
    """Measure all contenders round by round, each in its turn, so that noise meets them alike.

    The sample of a round is one call, or the median of some where calls are quick. The order turns round after each round.

    Args:
        calls: contender to a function that does the work once.
        seconds: how long to measure altogether, warm-up not counted.
        threads: of each contender; with more than one there is a pause before each turn.
    """
    repeats = {}
    for name, call in calls.items():
        once = min(_timed(call) for _ in range(WARM_UP))
        repeats[name] = max(REPEATS, math.ceil(TURN / once)) if once < QUICK else 1
    samples: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    rounds, names = 0, list(calls)
    while rounds < FEWEST or time.perf_counter() < end:
        for name in names if rounds % 2 == 0 else reversed(names):
            if threads > 1 and len(calls) > 1:
                time.sleep(PAUSE)
            samples[name].append(_turn(calls[name], repeats[name]))
        rounds += 1
    return {name: Timing(tuple(values)) for name, values in samples.items()}


def _turn(call: Call, repeats: int) -> float:
    """Seconds of one call: the median of some."""
    if repeats == 1:
        return _timed(call)
    call()
    return statistics.median(_timed(call) for _ in range(repeats))


def _timed(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def speedup(timings: Mapping[str, Timing], name: str, other: str) -> float:
    """How many times as fast `name` is as `other`: the median over the rounds of other's time divided by name's. Above 1, `name` is faster."""
    return statistics.median(b / a for a, b in zip(timings[name].seconds, timings[other].seconds, strict=True))


def geometric_mean(ratios: Sequence[float]) -> float:
    """The mean for ratios: NaN of none."""
    return math.exp(statistics.fmean(map(math.log, ratios))) if ratios else math.nan


def native_call(model: Any, feeds: Mapping[str, np.ndarray], caller: Callable[[Any, Any, Any, Any], int] | None = None) -> Call:
    """The bare call of a compiled model on dense arrays that stay where they are, as a C program makes it; `caller`: see `NativeLibrary.bound`."""
    rows = model.manifest["inputs"], model.manifest["outputs"]
    inputs = [np.ascontiguousarray(feeds[row["name"]]) for row in rows[0]]
    outputs = [np.empty(row["shape"], dtype(row["dtype"]).numpy) for row in rows[1]]
    return model.library.bound(inputs, outputs, caller)  # type: ignore[no-any-return]


def load_peers(
    names: Sequence[str], source: Any, feeds: Mapping[str, np.ndarray], threads: int
) -> tuple[dict[str, peers.Loaded], dict[str, str]]:
    """Load a model in each peer.

    Args:
        names: of peers.
        source: path of an ONNX model.
        feeds: its inputs.
        threads: that one run may use.

    Returns:
        What was loaded, and for each of the others why it was not, both by name.

    Raises:
        UsageError: the source is no ONNX file, or there is no such peer.
        MissingDependency: one is not installed.
    """
    wanted = {name: peers.find(name) for name in names}
    if not wanted:
        return {}, {}
    if not isinstance(source, (str, Path)) or Path(source).suffix == ".lir":
        raise UsageError("other runtimes take ONNX files only", hint="write the model as one: --emit onnx")
    loaded, failures = {}, {}
    for name, peer in wanted.items():
        try:
            loaded[name] = peer.load(Path(source), feeds, threads)
        except peers.PeerError as error:
            failures[name] = error.diagnostics[0].message
    return loaded, failures


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
        against: names of peers.
        seconds: how long to measure altogether.
        stage: called with the name of each stage as it begins.

    Returns:
        `{"runs": {name: {median_ms, best_ms, count[, speedup, max_rel]} or {error}}, "threads", "compile_seconds"}`; `speedup` is the
        time of that runtime divided by lepton's.

    Raises:
        MissingDependency: a peer is not installed.
    """
    from lepton_compiler import driver

    for name in against:
        peers.find(name)
    stage("compile")
    shapes = {**{name: array.shape for name, array in given.items()}, **(inputs or {})}
    start = time.perf_counter()
    graph = driver.import_model(source, shapes, dims)
    model = driver.compile(graph, target, level, threads=threads, cpu=cpu)
    compile_seconds = time.perf_counter() - start
    feeds = random_feeds(graph.inputs, fixed=given)
    actual = model.run(feeds)
    stage("load others")
    loaded, failures = load_peers(against, source, feeds, threads)
    stage("measure")
    timings = interleaved({"lepton": native_call(model, feeds), **loaded}, seconds, threads)
    runs = {name: timing.as_json() for name, timing in timings.items()}
    for name, peer in loaded.items():
        error = compare(peer.outputs, actual).as_json()["max_rel"]
        runs[name] |= {"speedup": round(speedup(timings, "lepton", name), 4), "max_rel": error}
    runs |= {name: {"error": reason} for name, reason in failures.items()}
    return {"runs": runs, "threads": threads, "compile_seconds": round(compile_seconds, 3)}
