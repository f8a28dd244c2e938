"""Candidates of tuning, compiled where there need be no GPU and measured where there need be no compiler: what `--tune` does, in two places."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.gpu.archive import read_members, write_members
from bench.gpu.cases import Case
from lepton_compiler.backends.tvm.kernels import Kernel
from lepton_compiler.backends.tvm.spec import KernelSpec
from lepton_compiler.cuda_driver import CudaError, DeviceSession
from lepton_compiler.tuning import Row

if TYPE_CHECKING:
    from lepton_compiler.target import Target

CONFIRMED = 41
"""Rounds in which all candidates are timed."""


@dataclass(frozen=True)
class Kernels:
    """One kernel of a case, and others that compute the same.

    Attributes:
        row: of the tuning database, but for what measuring finds.
        spec: what it computes.
        calls: how often the case calls it.
        choices: parameters of the contenders; the first one has none.
        contenders: the kernels.
        image: a cubin with all of them.
    """

    row: Mapping[str, Any]
    spec: KernelSpec
    calls: int
    choices: tuple[Mapping[str, int], ...]
    contenders: tuple[Kernel, ...]
    image: bytes


@dataclass(frozen=True)
class Collection:
    """All products and convolutions of a case with their candidates.

    Attributes:
        case: which one.
        stamp: of the compiler and the benchmark that made it.
        touched: bytes that the case goes through in a run.
        kernels: that have something to choose.
    """

    case: Case
    stamp: str
    touched: int
    kernels: tuple[Kernels, ...]

    def write(self, path: Path) -> None:
        """Write the file; `archive.facts_of` reads its beginning."""
        facts = {"case": vars(self.case), "stamp": self.stamp, "kernels": len(self.kernels)}
        members = {"facts.json": json.dumps(facts).encode(), "kernels.pickle": pickle.dumps((self.touched, self.kernels))}
        write_members(path, members)

    @staticmethod
    def read(path: Path) -> Collection:
        """The inverse of `write`; for files of one's own, since unpickling runs what the file says."""
        members = read_members(path)
        facts = json.loads(members["facts.json"])
        touched, kernels = pickle.loads(members["kernels.pickle"])
        return Collection(Case(**facts["case"]), facts["stamp"], touched, kernels)


def collect(case: Case, model: Path, target: str, stamp: str, jobs: int, folder: Path) -> Collection:
    """Compile the candidates of all products and convolutions of a model in ONNX's format; `folder` keeps code by content.

    Raises:
        LeptonError: the model, or an analytic kernel, cannot be compiled.
    """
    import lepton_compiler as lc
    from lepton_compiler.backend import registry
    from lepton_compiler.backends.tvm import kernel_nodes
    from lepton_compiler.backends.tvm.cuda.tuning.stage import touched_bytes
    from lepton_compiler.backends.tvm.spec import spec_of
    from lepton_compiler.driver import PRECISION_PASSES, optimize
    from lepton_compiler.target import parse_target

    machine = parse_target(target)
    machine = replace(machine, extensions=("tf32",)) if case.precision == "tf32" else machine
    passes = (*PRECISION_PASSES[case.precision], *registry.get(machine.backend).REQUIRED_PASSES)
    graph = optimize(optimize(lc.import_model(model), 3, machine), 3, machine, ",".join(passes))
    every = [spec_of(node, gpu=True) for node in kernel_nodes(graph)]
    specs = {spec.structure: spec for spec in every}
    found = [_kernels(spec, sum(s.structure == name for s in every), machine, jobs, folder) for name, spec in specs.items()]
    return Collection(case, stamp, touched_bytes(graph), tuple(k for k in found if k is not None))


def _kernels(spec: KernelSpec, calls: int, target: Target, jobs: int, folder: Path) -> Kernels | None:
    """The contenders of one kernel; None where it is no product."""
    from lepton_compiler.backends.tvm.cuda.compilers import compile_cubin
    from lepton_compiler.backends.tvm.cuda.tuning.candidates import candidates
    from lepton_compiler.backends.tvm.cuda.unit import unit
    from lepton_compiler.backends.tvm.cuda.version import schedule_version
    from lepton_compiler.backends.tvm.kernels import KernelCache, build_kernels
    from lepton_compiler.tuning import describe

    tried = [choice for choice in candidates(spec, target) if choice.block_rows]
    if not tried:
        return None
    wanted = [spec, *(replace(spec, choice=choice) for choice in tried)]
    ready = build_kernels(wanted, target, jobs=jobs, cache=KernelCache(folder))
    distinct: dict[bytes, tuple[Mapping[str, int], Kernel]] = {}
    for contender in wanted:
        kernel = ready[contender.key(target)]
        distinct.setdefault(kernel.object.replace(kernel.symbol.encode(), b""), (contender.choice.to_json(), kernel))
    choices, kernels = zip(*distinct.values(), strict=True)
    code = compile_cubin(unit(kernels), target.gpus[-1], folder)
    numbers = [*range(spec.inputs), *spec.outputs]
    row = {
        "kernel": spec.structure, "label": spec.label, "shapes": " ".join(str(spec.types[k]) for k in numbers),
        "schedules": schedule_version(), "target": describe(target), "threads": 1,
    }  # fmt: skip
    return Kernels(row, spec, calls, choices, kernels, code)


def measured(session: DeviceSession, kernels: Kernels, touched: int, skipped: Sequence[int]) -> dict[str, Any]:
    """Time the contenders of a kernel, but for those that are to be skipped.

    Returns:
        `broken`, the number of a contender that the driver refuses or that fails, after which the process is of no use; or `row`, the line for a
        tuning database, `calls`, `choices`, `seconds` by contender, and `left_out`, the reasons by contender.
    """
    from lepton_compiler.backends.tvm.cuda.tuning.bench import KernelBench
    from lepton_compiler.backends.tvm.cuda.tuning.fastest import fastest

    bench, kept, left_out = KernelBench(session, kernels.spec, touched), list[int](), dict[int, str]()
    for number, kernel in enumerate(kernels.contenders):
        if number in skipped:
            continue
        try:
            problem = bench.add(kernel, kernels.image)
        except CudaError as error:
            return {"broken": number, "reason": error.diagnostics[0].message}
        if problem and number == 0:
            return {"broken": number, "reason": problem}
        if problem:
            left_out[number] = problem
        else:
            kept.append(number)
    best, ratio = fastest(bench.samples, len(kept))
    medians = np.median(bench.samples(range(len(kept)), CONFIRMED), axis=0)
    bench.close()
    choice = dict(kernels.choices[kept[best]])
    row = Row(**kernels.row, cpu=session.facts.identity, choice=choice, ratio=round(ratio, 4), candidates=len(kept) - 1)
    return {
        "row": row,
        "calls": kernels.calls,
        "choices": kernels.choices,
        "seconds": {k: float(s) for k, s in zip(kept, medians, strict=True)},
        "left_out": left_out,
    }
