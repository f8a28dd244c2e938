"""Several kernels of one spec beside each other: the same operands, weights packed as each wants them, results compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lepton_compiler.backends.tvm.kernels import Kernel
from lepton_compiler.backends.tvm.phases import phase_symbols
from lepton_compiler.backends.tvm.spec import KernelSpec
from lepton_compiler.backends.tvm.tuning import harness
from lepton_compiler.backends.tvm.tuning.device import Device
from lepton_compiler.backends.tvm.tuning.operands import Key, buffer_of, close, random_operand
from lepton_compiler.backends.tvm.tuning.process import MeasureError
from lepton_compiler.ir.types import TensorType
from lepton_compiler.target import Target

LIMIT_SECONDS = 20.0
"""Time for measuring beyond what it should take: a kernel that hangs is given up."""
ENOUGH_SECONDS = 1.5
"""Time for the rounds of one measurement; with slow kernels there are fewer rounds, but not fewer than `FEWEST`."""
FEWEST = 7


class KernelBench:
    """Kernels that compute the same, in one library.

    Args:
        device: what measures.
        spec: what they compute.
        target: what they are compiled for.
        kernels: the first one is the reference for the results.
        evicted: bytes of other memory that are read before each call.
    """

    def __init__(self, device: Device, spec: KernelSpec, target: Target, kernels: Sequence[Kernel], evicted: int) -> None:
        self.device, self.spec, self.target, self.kernels = device, spec, target, kernels
        self.sizes: dict[Key, int] = {}
        self.contents: dict[Key, np.ndarray] = {}
        self.seconds = 0.0
        operands = [random_operand(t, k in spec.constants, k) for k, t in enumerate(spec.types[: spec.inputs])]
        contenders = [self._contender(kernel, operands) for kernel in kernels]
        order = list(self.sizes)
        warm = tuple(n for n, key in enumerate(order) if key[0] == "input" and key[1] not in spec.constants)
        self.numbers = {key: n for n, key in enumerate(order)}
        self.table = harness.Table(tuple(self.sizes.values()), warm, evicted)
        self.contenders = contenders

    def _contender(self, kernel: Kernel, operands: Sequence[np.ndarray]) -> harness.Contender:
        arguments: list[int | tuple[str, int]] = []
        for parameter in kernel.parameters:
            key, content = buffer_of(parameter, operands)
            if content is not None:
                self.contents[key] = content
            self.sizes[key] = max(self.sizes.get(key, 0), parameter.type.nbytes)
            arguments.append(list(self.sizes).index(key))
        count = len(arguments)
        symbols = phase_symbols(kernel.symbol, len(kernel.phases))
        formals = ", ".join(["void *"] * count + ["int32_t"] * (2 if kernel.phases else 0)) or "void"
        extents = [["0", str(phase.extent)] for phase in kernel.phases] or [[]]
        calls = [f"{s}({', '.join([*(f'p[{k}]' for k in range(count)), *e])})" for s, e in zip(symbols, extents, strict=True)]
        prototypes = " ".join(f"extern int32_t {symbol}({formals});" for symbol in symbols)
        return harness.Contender(prototypes, f"({', '.join(calls)})", tuple(arguments))

    def load_and_check(self) -> list[int]:
        """Load, run each kernel once and compare the results; returns the kernels that are right, the reference first.

        Raises:
            MeasureError: the library crashed or hung.
        """
        code = harness.library(harness.source(self.contenders, self.table), [k.object for k in self.kernels], self.target)
        self.device.load("kernels", code)
        for key, content in self.contents.items():
            self.device.put("kernels", self.numbers[key], content)
        right, expected = [], list[np.ndarray]()
        for kernel in range(len(self.kernels)):
            for output in range(len(self.spec.outputs)):  # so that nobody is right by leaving what the one before wrote
                self.device.put("kernels", self.numbers["output", output], np.full(self._kind(output).nbytes, 0xA5, np.uint8))
            self.seconds = max(self.seconds, float(self._run([kernel], 2, LIMIT_SECONDS)[1, kernel]))
            results = [self._result(k) for k in range(len(self.spec.outputs))]
            expected = expected or results
            if all(close(actual, wanted) for actual, wanted in zip(results, expected, strict=True)):
                right.append(kernel)
        return right

    def _kind(self, output: int) -> TensorType:
        return self.spec.types[self.spec.outputs[output]]

    def _result(self, output: int) -> np.ndarray:
        kind = self._kind(output)
        data = self.device.get("kernels", self.numbers["output", output], kind.nbytes)
        return np.frombuffer(data, kind.dtype.numpy) if kind.dtype.bits >= 8 else np.frombuffer(data, np.uint8)

    def samples(self, active: Sequence[int], rounds: int) -> np.ndarray:
        """Seconds `[rounds, kernel]`; of kernels that are not active, zero."""
        once = max(1e-9, len(active) * (self.seconds + self.table.evicted / 8e9))
        count = max(FEWEST, min(rounds, int(ENOUGH_SECONDS / once)))
        return self._run(active, count, LIMIT_SECONDS + 10 * count * once)

    def _run(self, active: Sequence[int], rounds: int, limit: float) -> np.ndarray:
        mask = sum(1 << k for k in active)
        samples: np.ndarray = self.device.run(["kernels"], rounds, (len(self.kernels), 1), mask, limit)[:, 0, :, 0]
        if not samples[:, list(active)].all():
            raise MeasureError("the clock of the measuring machine is too coarse")
        return samples
