"""ONNX Runtime's CPU provider with every graph optimisation, inputs and outputs bound to memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lepton_compiler.peers.peer import Loaded, Peer
from lepton_compiler.verification import onnxruntime_session


class OnnxRuntime(Peer):
    """`onnxruntime`: all graph optimisations, N threads within an operator, one operator at a time."""

    name = "onnxruntime"
    label = "ONNX Runtime"
    modules = ("onnxruntime",)
    package = "onnxruntime"
    install = "pip install 'lepton-compiler[ort]'"

    def _load(self, model: Path, inputs: Mapping[str, np.ndarray], threads: int) -> Loaded:
        session = onnxruntime_session(model, threads)
        names = [out.name for out in session.get_outputs()]
        wanted = {i.name for i in session.get_inputs()}
        given = {name: array for name, array in inputs.items() if name in wanted}
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
            return Loaded(lambda: session.run(names, given), outputs)
        return Loaded(lambda: session.run_with_iobinding(binding), outputs)
