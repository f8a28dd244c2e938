"""The measuring process for GPUs: requests come in on standard input, answers go out on standard output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lepton_compiler.backends.tvm.cuda.tuning.bench import KernelBench
from lepton_compiler.backends.tvm.cuda.tuning.model_bench import Model, model_times
from lepton_compiler.backends.tvm.kernels import Kernel
from lepton_compiler.backends.tvm.spec import KernelSpec
from lepton_compiler.backends.tvm.tuning.process import serve
from lepton_compiler.cuda_driver import DeviceSession


class Runner:
    """Answers requests: `begin`, `add`, `samples` for kernels, `model`, `times` for models."""

    def __init__(self) -> None:
        self.session = DeviceSession()
        self.bench: KernelBench | None = None
        self.models: dict[str, Model] = {}

    def begin(self, spec: KernelSpec, touched: int) -> None:
        """Measure the kernels of a spec from now on."""
        if self.bench is not None:
            self.bench.close()
        self.bench = KernelBench(self.session, spec, touched)

    def add(self, kernel: Kernel, image: bytes) -> str:
        """See `KernelBench.add`."""
        assert self.bench is not None
        return self.bench.add(kernel, image)

    def samples(self, active: Sequence[int], rounds: int) -> np.ndarray:
        """See `KernelBench.samples`."""
        assert self.bench is not None
        return self.bench.samples(active, rounds)

    def model(self, name: str, code: bytes, manifest: Mapping[str, Any], feeds: Mapping[str, np.ndarray]) -> None:
        """Load a model under a name; another one of this name is given up."""
        if name in self.models:
            self.models.pop(name).close()
        self.models[name] = Model(self.session, code, manifest, feeds)

    def times(self, names: Sequence[str], seconds: float) -> np.ndarray:
        """See `model_times`."""
        return model_times(self.session, [self.models[name] for name in names], seconds)

    def close(self) -> None:
        """Give everything back."""
        if self.bench is not None:
            self.bench.close()
        for model in self.models.values():
            model.close()
        self.session.close()


def main() -> None:
    """Serve until standard input ends."""
    made: list[Runner] = []

    def answer(request: str, arguments: Sequence[Any]) -> Any:
        if not made:
            made.append(Runner())
        return getattr(made[0], request)(*arguments)

    serve(answer)


if __name__ == "__main__":
    main()
