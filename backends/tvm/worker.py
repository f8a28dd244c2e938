"""The worker process: kernel specs come in on standard input, compiled kernels go out on standard output."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable

from lepton_compiler.backend import BACKENDS
from lepton_compiler.backends.tvm.kernels import Kernel, KernelParameter, PackedWeight
from lepton_compiler.backends.tvm.spec import KernelSpec
from lepton_compiler.backends.tvm.workers import read_message, write_message
from lepton_compiler.errors import Diagnostic, LeptonError
from lepton_compiler.target import Target


def symbol_of(spec: KernelSpec, target: Target) -> str:
    """The name of the kernel's function."""
    return f"lepton_{spec.label}_{spec.key(target)[:12]}"


def compile_spec(key: str, spec: KernelSpec, target: Target) -> Kernel:
    """Lower, schedule and compile one kernel.

    Raises:
        LeptonError: a rule refuses the form of its operator.
    """
    from lepton_compiler.backends.tvm.codegen import compile_kernel
    from lepton_compiler.backends.tvm.lower import lower
    from lepton_compiler.backends.tvm.schedules import schedule

    lowered = lower(spec, target)
    compiled = compile_kernel(schedule(lowered.function, target, spec.choice), symbol_of(spec, target), target)
    parameters = tuple(
        KernelParameter(p.kind, p.index, p.type, PackedWeight(p.packed.function, p.packed.arguments) if p.packed else None, p.table)
        for p in lowered.parameters
    )
    return Kernel(compiled.symbol, compiled.object, parameters, compiled.phases)


def kernel_text(key: str, spec: KernelSpec, target: Target, kind: str) -> str:
    """One kernel as `tir` (after all passes) or `asm`."""
    from lepton_compiler.backends.tvm.codegen import assembly, lowered_text
    from lepton_compiler.backends.tvm.lower import lower
    from lepton_compiler.backends.tvm.schedules import schedule

    scheduled = schedule(lower(spec, target).function, target, spec.choice)
    return (assembly if kind == "asm" else lowered_text)(scheduled, symbol_of(spec, target), target)


def compiler_of(target: Target) -> Callable[[str, KernelSpec, Target], Kernel]:
    """What compiles the kernels of a target: the module `compile` of its backend, where that is another one."""
    if target.backend == "tvm":
        return compile_spec
    module = importlib.import_module(f"{BACKENDS[target.backend]}.compile")
    compiler: Callable[[str, KernelSpec, Target], Kernel] = module.compile_spec
    return compiler


def main() -> None:
    """Serve until standard input ends. Whatever TVM prints goes to standard error."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    sys.modules["torch"] = None  # type: ignore[assignment]  # tvm_ffi imports it if it can, which takes longer than TVM itself
    while (message := read_message(sys.stdin.buffer)) is not None:
        key, spec, target = message
        try:
            answer: Kernel | Diagnostic = compiler_of(target)(key, spec, target)
        except LeptonError as error:
            answer = Diagnostic(error.diagnostics[0].message, where=f"kernel {spec.label}", hint=error.diagnostics[0].hint)
        except Exception as error:
            if os.environ.get("LEPTON_DEBUG"):
                traceback.print_exc()
            last = traceback.extract_tb(error.__traceback__)[-1]
            shapes = ", ".join(str(t) for t in spec.types[: spec.inputs])
            reason = str(error).strip().splitlines()
            detail = f"{type(error).__name__}: {reason[-1] if reason else ''} ({last.name})"
            answer = Diagnostic(
                f"TVM cannot compile it: {detail}", where=f"kernel {spec.label} ({shapes})", hint="set LEPTON_DEBUG=1 for the trace"
            )
        write_message(answers, answer)


if __name__ == "__main__":
    main()
