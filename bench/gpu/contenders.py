"""Who takes part on a GPU: lepton's artefact, and PyTorch, eager and compiled, where it is installed.

Everybody's runs are captured, some at a time, into one CUDA graph, and its replays are timed: no host is part of a figure.
"""

from __future__ import annotations

import contextlib
import math
import os
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.gpu.archive import Archive
from bench.patterns import patterned_input
from lepton_compiler.cuda_driver import DeviceSession
from lepton_compiler.runtime.gpu import GpuLibrary

DEFAULT_STREAM = 0
PER_ROUND = 5e-3
"""Seconds of each runtime's turn."""
RUNS = {"net": 1, "layer": 20}
"""Runs in a graph, by kind of case: those of a single layer take no longer than the start of a graph."""


@dataclass(frozen=True)
class Contender:
    """A graph of some runs: `replay` enqueues it in the default stream."""

    replay: Callable[[], object]
    runs: int


class Lepton:
    """An artefact with its tensors on the device.

    Args:
        overlapping: whether kernels may start while the one before them runs, where device and driver can.

    Raises:
        LeptonError: it cannot be opened.
    """

    def __init__(self, session: DeviceSession, archive: Archive, overlapping: bool = True) -> None:
        self.session = session
        self.library = GpuLibrary.from_bytes(archive.library, archive.manifest)
        with contextlib.nullcontext() if overlapping else _no_overlap():
            self.library.session()
        (source,), (result,) = archive.manifest["inputs"], archive.manifest["outputs"]
        x, self.y = patterned_input(source["shape"]), np.empty(result["shape"], np.float32)
        self.places = session.allocate(x.nbytes), session.allocate(self.y.nbytes)
        session.upload(self.places[0], x)
        session.fill(self.places[1], 0xFF, self.y.nbytes)
        session.synchronize()
        self.shapes = [x.shape]
        self.graphs: list[int] = []

    def run(self) -> None:
        """Enqueue one run."""
        self.library.call([self.places[0]], self.shapes, [self.places[1]], 0, self.session.stream, waits=False)

    def result(self) -> np.ndarray:
        """What a run gives."""
        self.run()
        self.session.synchronize()
        self.session.download(self.y, self.places[1])
        return self.y

    def contender(self, runs: int) -> Contender:
        """Some runs as a graph."""
        with self.session.recording() as graph:
            for _ in range(runs):
                self.run()
        self.graphs += graph
        return Contender(lambda: self.session.driver("cuGraphLaunch", graph[0], DEFAULT_STREAM), runs)

    def close(self) -> None:
        """Give all memory back."""
        for graph in self.graphs:
            self.session.forget(graph)
        self.library.close()
        for place in self.places:
            self.session.free(place)


@contextlib.contextmanager
def _no_overlap() -> Iterator[None]:
    """Sessions that are opened inside start each kernel when the one before it is done."""
    before = os.environ.get("LEPTON_CUDA_OVERLAP")
    os.environ["LEPTON_CUDA_OVERLAP"] = "0"
    try:
        yield
    finally:
        del os.environ["LEPTON_CUDA_OVERLAP"]
        if before is not None:
            os.environ["LEPTON_CUDA_OVERLAP"] = before


def peers(subject: str, shape: tuple[int, ...], precision: str, compiled: bool, runs: int) -> tuple[dict[str, Contender], dict[str, str]]:
    """By runtime a graph of some runs, and for those that cannot take part the reason."""
    names = ("eager", "compile") if compiled else ("eager",)
    torch, reason = find_torch()
    if reason:
        return {}, dict.fromkeys(names, reason)
    try:
        net, x = _net(torch, subject, shape, precision)
    except Exception as error:  # whatever a peer fails with, lepton's own figures are worth having
        return {}, dict.fromkeys(names, _line(error))
    found: dict[str, Contender] = {}
    missing: dict[str, str] = {}
    for name in names:
        try:
            if name == "compile":
                torch._dynamo.reset()
            call = torch.compile(net, mode="max-autotune-no-cudagraphs") if name == "compile" else net
            found[name] = Contender(_captured(torch, call, x, runs), runs)
        except Exception as error:
            missing[name] = _line(error)
    return found, missing


def _net(torch: Any, subject: str, shape: tuple[int, ...], precision: str) -> tuple[Any, Any]:
    """A net or layer on the GPU, and its input."""
    from bench.gpu.nets import module

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.benchmark = True
    net, x = module(subject).cuda(), torch.from_numpy(patterned_input(shape)).cuda()
    if precision in ("fp16", "int8"):  # PyTorch has no convolutions of integers on GPUs
        net, x = net.half(), x.half()
    if len(shape) == 4:
        net, x = net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    return net, x


def _line(error: Exception) -> str:
    """An error in a line."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def find_torch() -> tuple[Any, str]:
    """The module torch, or why it cannot be a peer."""
    try:
        import torch
    except ImportError as error:
        return None, "PyTorch is not installed" if isinstance(error, ModuleNotFoundError) else f"PyTorch cannot be loaded: {_line(error)}"
    except OSError as error:  # one of its libraries is not there
        return None, f"PyTorch cannot be loaded: {_line(error)}"
    return (torch, "") if torch.cuda.is_available() else (None, f"PyTorch {torch.__version__} finds no GPU")


def _captured(torch: Any, net: Any, x: Any, runs: int) -> Callable[[], object]:
    """Runs of a net as a CUDA graph: after some runs in a stream beside, in which everything is compiled and chosen."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.no_grad(), torch.cuda.stream(stream):
        for _ in range(3):
            net(x)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        for _ in range(runs):
            kept = net(x)

    def replay(_kept: Any = kept) -> None:
        graph.replay()

    return replay


def interleaved(session: DeviceSession, contenders: Mapping[str, Contender], rounds: int) -> dict[str, list[float]]:
    """Seconds of a run by the GPU's clock, by runtime, in rounds in which all take turns; the order turns round after each round."""
    begin, end = session.event(), session.event()

    def timed(contender: Contender, count: int) -> float:
        session.driver("cuStreamSynchronize", DEFAULT_STREAM)
        session.record(begin, DEFAULT_STREAM)
        for _ in range(count):
            contender.replay()
        session.record(end, DEFAULT_STREAM)
        return session.seconds(begin, end) / (count * contender.runs)

    counts = {}
    for name, contender in contenders.items():
        timed(contender, 3)
        counts[name] = max(1, math.ceil(PER_ROUND / max(1e-6, timed(contender, 3) * contender.runs)))
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for r in range(rounds):
        for name in list(contenders) if r % 2 == 0 else reversed(list(contenders)):
            times[name].append(timed(contenders[name], counts[name]))
    return times


def summary(times: Mapping[str, list[float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Median milliseconds by runtime, and by other runtime the median over rounds of its time divided by lepton's."""
    own = times["lepton"]
    ratios = {name: statistics.median(o / m for o, m in zip(found, own, strict=True)) for name, found in times.items() if name != "lepton"}
    return {name: 1e3 * statistics.median(found) for name, found in times.items()}, ratios
