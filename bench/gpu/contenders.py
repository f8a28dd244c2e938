"""Who takes part on a GPU: lepton's artefact, and PyTorch, eager and compiled, where it is installed; all work goes into the default stream."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bench.gpu.archive import Archive
from bench.patterns import patterned_input
from lepton_compiler.cuda_driver import DeviceSession
from lepton_compiler.runtime.gpu import GpuLibrary

Run = Callable[[], object]
DEFAULT_STREAM = 0
PER_ROUND = 5e-3
"""Seconds of each runtime's turn."""


class Lepton:
    """An artefact with its tensors on the device: a run is a CUDA graph.

    Raises:
        LeptonError: it cannot be opened.
    """

    def __init__(self, session: DeviceSession, archive: Archive) -> None:
        self.session = session
        self.library = GpuLibrary.from_bytes(archive.library, archive.manifest)
        (source,), (result,) = archive.manifest["inputs"], archive.manifest["outputs"]
        x, self.y = patterned_input(source["shape"]), np.empty(result["shape"], np.float32)
        self.places = session.allocate(x.nbytes), session.allocate(self.y.nbytes)
        session.upload(self.places[0], x)
        session.fill(self.places[1], 0xFF, self.y.nbytes)
        session.synchronize()
        self.shapes = [x.shape]

    def run(self) -> None:
        """Enqueue one run."""
        self.library.call([self.places[0]], self.shapes, [self.places[1]], 0, DEFAULT_STREAM, waits=False)

    def result(self) -> np.ndarray:
        """What the last run gave."""
        self.session.driver("cuStreamSynchronize", DEFAULT_STREAM)
        self.session.download(self.y, self.places[1])
        return self.y

    def close(self) -> None:
        """Give all memory back."""
        self.library.close()
        for place in self.places:
            self.session.free(place)


def peers(subject: str, shape: tuple[int, ...], precision: str, compiled: bool) -> tuple[dict[str, Run], dict[str, str]]:
    """By runtime a function that enqueues one run, and for those that cannot take part the reason."""
    names = ("eager", "compile") if compiled else ("eager",)
    torch, reason = find_torch()
    if reason:
        return {}, dict.fromkeys(names, reason)
    from bench.gpu.nets import module

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.benchmark = True
    net, x = module(subject).cuda(), torch.from_numpy(patterned_input(shape)).cuda()
    if precision == "fp16":
        net, x = net.half(), x.half()
    if len(shape) == 4:
        net, x = net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    runs: dict[str, Run] = {}
    missing: dict[str, str] = {}
    for name, make in (("eager", _recorded), ("compile", _compiled)):
        if name in names:
            try:
                runs[name] = make(torch, net, x)
            except Exception as error:  # whatever a peer fails with, lepton's own figures are worth having
                missing[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    return runs, missing


def find_torch() -> tuple[Any, str]:
    """The module torch, or why it cannot be a peer."""
    try:
        import torch
    except ImportError:
        return None, "PyTorch is not installed"
    return (torch, "") if torch.cuda.is_available() else (None, f"PyTorch {torch.__version__} finds no GPU")


def _recorded(torch: Any, net: Any, x: Any) -> Run:
    """Eager PyTorch, with cuDNN and cuBLAS, recorded as a CUDA graph."""
    stream = torch.cuda.Stream()
    with torch.no_grad(), torch.cuda.stream(stream):
        for _ in range(3):
            net(x)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        kept = net(x)

    def run(_kept: Any = kept) -> None:
        graph.replay()

    return run


def _compiled(torch: Any, net: Any, x: Any) -> Run:
    """`torch.compile` as fast as it gets, which records CUDA graphs itself."""
    torch._dynamo.reset()
    fast = torch.compile(net, mode="max-autotune")
    kept: list[Any] = []

    def run() -> None:
        with torch.no_grad():
            kept[:] = [fast(x)]

    for _ in range(5):
        run()
    torch.cuda.synchronize()
    return run


def interleaved(session: DeviceSession, runs: Mapping[str, Run], rounds: int) -> dict[str, list[float]]:
    """Seconds of a run by the GPU's clock, by runtime, in rounds in which all take turns; the order turns round after each round."""
    begin, end = session.event(), session.event()

    def timed(run: Run, count: int) -> float:
        session.driver("cuStreamSynchronize", DEFAULT_STREAM)
        session.record(begin, DEFAULT_STREAM)
        for _ in range(count):
            run()
        session.record(end, DEFAULT_STREAM)
        return session.seconds(begin, end) / count

    counts = {}
    for name, run in runs.items():
        timed(run, 3)
        counts[name] = max(1, math.ceil(PER_ROUND / max(1e-6, timed(run, 3))))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for r in range(rounds):
        for name in list(runs) if r % 2 == 0 else reversed(list(runs)):
            times[name].append(timed(runs[name], counts[name]))
    return times


def summary(times: Mapping[str, list[float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Median milliseconds by runtime, and by other runtime the median over rounds of its time divided by lepton's."""
    own = times["lepton"]
    ratios = {name: statistics.median(o / m for o, m in zip(found, own, strict=True)) for name, found in times.items() if name != "lepton"}
    return {name: 1e3 * statistics.median(found) for name, found in times.items()}, ratios
