"""Lepton compiles neural-network models.

    import lepton_compiler as lc

    model = lc.compile("model.onnx", level=3)
    outputs = model.run({"x": array})

Every public name is imported when it is first used, so `import lepton_compiler` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lepton_compiler.driver import compile, emit, import_model, load, optimize
    from lepton_compiler.errors import (
        Diagnostic,
        InferenceError,
        InvalidIR,
        LeptonError,
        MissingDependency,
        ModelError,
        ParseError,
        UnsupportedError,
        UsageError,
        VerificationError,
    )
    from lepton_compiler.ir.graph import Graph
    from lepton_compiler.ops.evaluator import evaluate
    from lepton_compiler.runtime.model import CompiledModel
    from lepton_compiler.target import Target

__version__ = "0.1.0"

__all__ = [
    "CompiledModel",
    "Diagnostic",
    "Graph",
    "InferenceError",
    "InvalidIR",
    "LeptonError",
    "MissingDependency",
    "ModelError",
    "ParseError",
    "Target",
    "UnsupportedError",
    "UsageError",
    "VerificationError",
    "__version__",
    "compile",
    "emit",
    "evaluate",
    "import_model",
    "load",
    "optimize",
]

_ROOMS = {
    "lepton_compiler.driver": "compile emit import_model load optimize",
    "lepton_compiler.errors": "Diagnostic InferenceError InvalidIR LeptonError MissingDependency ModelError ParseError UnsupportedError "
    "UsageError VerificationError",
    "lepton_compiler.ir.graph": "Graph",
    "lepton_compiler.ops.evaluator": "evaluate",
    "lepton_compiler.runtime.model": "CompiledModel",
    "lepton_compiler.target": "Target",
}
_HOMES = {name: room for room, names in _ROOMS.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lepton_compiler' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
