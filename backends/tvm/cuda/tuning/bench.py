"""Several kernels of one spec beside each other on a GPU: the same operands, results compared, launches recorded as in a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lepton_compiler.backends.tvm.kernels import Kernel
from lepton_compiler.backends.tvm.launches import Launch
from lepton_compiler.backends.tvm.spec import KernelSpec
from lepton_compiler.backends.tvm.tuning.operands import Key, buffer_of, close, random_operand
from lepton_compiler.cuda_driver import DeviceSession
from lepton_compiler.errors import LeptonError

SAMPLE_SECONDS = 200e-6
"""Time of the launches between two events, at least."""
MOST_LAUNCHES = 256
MOST_COPIES = 64
"""Copies of constants that launches go through in turn."""
ENOUGH_SECONDS = 1.0
"""Time for the rounds of one measurement; with slow kernels there are fewer rounds, but not fewer than `FEWEST`."""
FEWEST = 7
UNWRITTEN = 0xA5
"""What results hold before a run, so that nobody is right by leaving what the one before wrote."""
CONSTANT = ("packed", "table")


@dataclass
class Contender:
    """A kernel on the device.

    Attributes:
        module: that holds it.
        steps: its launches with their functions.
        keys: the buffers that it takes, in order.
        seconds: of one run, roughly.
        recording: a graph of some runs, and how many; made when it is needed.
    """

    module: int
    steps: list[tuple[Launch, int]]
    keys: list[Key]
    seconds: float = 0.0
    recording: tuple[int, int] | None = None


class KernelBench:
    """Kernels that compute the same.

    Args:
        session: on the device.
        spec: what they compute.
        touched: bytes that the model goes through in a run: where that is more than the level-2 cache holds, constants come from memory.
    """

    def __init__(self, session: DeviceSession, spec: KernelSpec, touched: int) -> None:
        self.session, self.spec = session, spec
        self.is_cold = touched > session.facts.l2_bytes
        self.operands = [random_operand(t, k in spec.constants, k) for k, t in enumerate(spec.types[: spec.inputs])]
        self.buffers: dict[Key, tuple[int, list[int]]] = {}
        self.contenders: list[Contender] = []
        self.expected: list[np.ndarray] = []
        self.marks = session.event(), session.event()

    def close(self) -> None:
        """Give back all memory and code."""
        for contender in self.contenders:
            if contender.recording is not None:
                self.session.forget(contender.recording[0])
            self.session.unload(contender.module)
        for _, addresses in self.buffers.values():
            for address in addresses:
                self.session.free(address)

    def add(self, kernel: Kernel, image: bytes) -> str:
        """Load a kernel, run it twice and compare its results with those of the first kernel; returns what is wrong with it, or nothing.

        Raises:
            CudaError: it cannot be loaded, started, or finished.
        """
        contender = self._loaded(kernel, image)
        results, again = self._run_once(contender), self._run_once(contender)
        problem = ""
        if any(a.tobytes() != b.tobytes() for a, b in zip(results, again, strict=True)):
            problem = "its results differ from run to run"
        elif not all(close(actual, wanted) for actual, wanted in zip(results, self.expected or results, strict=True)):
            problem = "its results differ from those of the analytic kernel"
        if problem:
            self.session.unload(contender.module)
            return problem
        self.expected = self.expected or results
        self.contenders.append(contender)
        return ""

    def samples(self, active: Sequence[int], rounds: int) -> np.ndarray:
        """Seconds `[rounds, len(active)]` of a run of these contenders, in turns; their order turns round after each round.

        Raises:
            LeptonError: the clock is too coarse.
        """
        recorded = [self._recorded(self.contenders[k]) for k in active]
        once = sum(self.contenders[k].seconds * count for k, (_, count) in zip(active, recorded, strict=True))
        rounds = max(FEWEST, min(rounds, int(ENOUGH_SECONDS / max(once, 1e-9))))
        samples = np.zeros((rounds, len(active)))
        for graph, _ in recorded:
            self.session.replay(graph)
        for r in range(rounds):
            for k in range(len(active)) if r % 2 == 0 else reversed(range(len(active))):
                graph, count = recorded[k]
                samples[r, k] = self._timed(graph) / count
        if not (samples > 0).all():
            raise LeptonError("the clock of the GPU is too coarse")
        return samples

    def _loaded(self, kernel: Kernel, image: bytes) -> Contender:
        session, keys = self.session, []
        for parameter in kernel.parameters:
            key, content = buffer_of(parameter, self.operands)
            self._make_room(key, parameter.type.nbytes, content)
            keys.append(key)
        module = session.module(image)
        needed = [launch for launch in kernel.launches if launch.is_needed(session.facts.capability)]
        steps = [(launch, session.function(module, launch.symbol, launch.shared_bytes)) for launch in needed]
        return Contender(module, steps, keys)

    def _make_room(self, key: Key, size: int, content: np.ndarray | None) -> None:
        """Have a buffer of at least this size; one that grows has no contents."""
        if key in self.buffers and self.buffers[key][0] >= size:
            return
        for address in self.buffers.pop(key, (0, []))[1]:
            self.session.free(address)
        for contender in self.contenders:
            if key in contender.keys and contender.recording is not None:  # it was recorded with the address that is gone
                self.session.forget(contender.recording[0])
                contender.recording = None
        self.buffers[key] = size, [self.session.allocate(size)]
        if content is not None:
            self.session.upload(self.buffers[key][1][0], np.ascontiguousarray(content))

    def _run_once(self, contender: Contender) -> list[np.ndarray]:
        """The results of one run, in memory that held something else."""
        session, begin, end = self.session, *self.marks
        for key, (size, addresses) in self.buffers.items():
            if key[0] == "output":
                session.fill(addresses[0], UNWRITTEN, size)
        session.record(begin)
        self._launch(contender, 0)
        session.record(end)
        session.synchronize()
        contender.seconds = max(session.seconds(begin, end), 1e-7)
        results = []
        for output, number in enumerate(self.spec.outputs):
            kind = self.spec.types[number]
            array = np.empty(kind.nbytes, np.uint8)
            session.download(array, self.buffers["output", output][1][0])
            results.append(array.view(kind.dtype.numpy) if kind.dtype.bits >= 8 else array)
        return results

    def _launch(self, contender: Contender, turn: int) -> None:
        places = [addresses[turn % len(addresses)] for _, addresses in (self.buffers[key] for key in contender.keys)]
        for launch, function in contender.steps:
            for k in launch.cleared:
                self.session.fill(places[k], 0, self.buffers[contender.keys[k]][0])
            given = [places[k] for k in launch.arguments]
            self.session.launch(function, launch.grid, launch.block, launch.shared_bytes, given, launch.together)

    def _recorded(self, contender: Contender) -> tuple[int, int]:
        """A graph of enough runs to be timed, each with other copies of the constants where those are to come from memory."""
        if contender.recording is None:
            copies = self._copy_constants(contender) if self.is_cold else 1
            count = min(MOST_LAUNCHES, max(copies, math.ceil(SAMPLE_SECONDS / contender.seconds)))
            with self.session.recording() as graph:
                for turn in range(count):
                    self._launch(contender, turn)
            contender.recording = graph[0], count
        return contender.recording

    def _copy_constants(self, contender: Contender) -> int:
        """Let there be so many copies that a round through them fills the level-2 cache twice, as far as memory goes."""
        session = self.session
        constant = [k for k in dict.fromkeys(contender.keys) if k[0] in CONSTANT or (k[0] == "input" and k[1] in self.spec.constants)]
        size = sum(self.buffers[key][0] for key in constant)
        if not size:
            return 1
        count = max(1, min(MOST_COPIES, math.ceil(2 * session.facts.l2_bytes / size), session.free_bytes // 4 // size))
        for key in constant:
            bytes_of_one, addresses = self.buffers[key]
            content = np.empty(bytes_of_one, np.uint8)
            session.download(content, addresses[0])
            while len(addresses) < count:
                addresses.append(session.allocate(bytes_of_one))
                session.upload(addresses[-1], content)
        return count

    def _timed(self, graph: int) -> float:
        begin, end = self.marks
        self.session.record(begin)
        self.session.replay(graph)
        self.session.record(end)
        return self.session.seconds(begin, end)
