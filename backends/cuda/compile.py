"""One kernel as CUDA C: what the worker process does for this backend."""

from __future__ import annotations

from lepton_compiler.backends.cuda.generate.kernel import generate
from lepton_compiler.backends.cuda.rules import RULES
from lepton_compiler.backends.tvm.kernels import Kernel, KernelParameter, PackedWeight
from lepton_compiler.backends.tvm.lower import lower
from lepton_compiler.backends.tvm.lower.procedure import parallel_from
from lepton_compiler.backends.tvm.lower.scalar import native_functions
from lepton_compiler.backends.tvm.spec import KernelSpec
from lepton_compiler.backends.tvm.worker import symbol_of
from lepton_compiler.errors import UnsupportedError
from lepton_compiler.target import Target


def compile_spec(key: str, spec: KernelSpec, target: Target) -> Kernel:
    """Lower one kernel and write its text.

    Raises:
        LeptonError: a rule refuses the form of its operator, or something has no text.
    """
    symbol = symbol_of(spec, target)
    with native_functions(), parallel_from(1):
        lowered = lower(spec, target, RULES)
        text = generate(lowered.function, symbol, f"kernel {spec.label}")
    if any(p.kind == "scratch" for p in lowered.parameters):
        raise UnsupportedError(f"{spec.label}: memory of each thread's own is not there on a GPU", hint="report the model")
    parameters = [
        KernelParameter(p.kind, p.index, p.type, PackedWeight(p.packed.function, p.packed.arguments) if p.packed else None, p.table)
        for p in lowered.parameters
    ]
    parameters += [KernelParameter("workspace", len(parameters) + k, kind) for k, kind in enumerate(text.spaces)]
    return Kernel(symbol, text.text.encode(), tuple(parameters), (), tuple(text.launches), tuple(text.notes))
