"""The process that emulates one model: `python -m bench.cuda_emulated_run PRECISION MOST CHECKED GPU`, with a `Case` as JSON on standard input.

It compiles the model, runs it once on the stand-in for the driver, with its kernels in the emulator, and prints one JSON object. Of more than MOST
millions of multiply-accumulates nothing is run; up to CHECKED millions every access is checked.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

import lepton_compiler as lc
from bench.cuda_cases import TARGET, Case
from lepton_compiler.driver import PRECISION_PASSES
from lepton_compiler.errors import LeptonError
from lepton_compiler.gpus import GPUS
from lepton_compiler.testing.cuda_driver import NVCC, FakeGpu
from lepton_compiler.verification import Verification, compare, reference_outputs, tolerance_of, tolerance_with

MEMORY = 1 << 36
"""Bytes that the stand-in claims to have."""


def measure(case: Case, precision: str, most: float, checked: float, architecture: str) -> dict[str, Any]:
    """Compile, run, compare.

    Raises:
        LeptonError: the model does not compile, or a kernel did what it must not do.
    """
    os.environ["LEPTON_NVCC"] = str(NVCC)
    gpu, graph = FakeGpu(), case.graph()
    macs = multiply_accumulates(graph) / 1e6
    row: dict[str, Any] = {"mmacs": round(macs, 1), "checked": macs <= checked}
    if macs > most:
        return row | {"error": "too large"}
    model = lc.compile(case.path, TARGET, 3, case.inputs or None, dims=case.dims or None, bounds=case.bounds or None, precision=precision)
    facts = model.manifest
    row["launches"] = facts["launches"]
    gpu.configure(capability=GPUS[architecture].capability, memory=MEMORY)
    gpu.checks = row["checked"]
    gpu.know(model.artifact.files[f"{facts['name']}.cu"].decode(), facts)  # type: ignore[union-attr]
    feeds = case.feeds(graph)
    begin = time.perf_counter()
    try:
        outputs = model.run(feeds)
    except LeptonError as error:
        raise LeptonError("; ".join(gpu.faults) or str(error)) from error
    row["seconds"] = round(time.perf_counter() - begin, 1)
    check, own = _checked(case, graph, feeds, outputs, precision)
    if own is not None and not math.isfinite(own):
        return row | {"error": "overflows"}
    row["own"] = own
    return row | {"max_rel": check.as_json()["max_rel"], "tolerance": check.tolerance, "reference": check.reference}


def multiply_accumulates(graph: lc.Graph) -> int:
    """Of one run; those of nodes whose sizes are not known are not counted."""
    nodes = [n for n in graph.walk() if all(v.type.is_static for v in (*n.present_inputs, *n.outputs))]
    return sum(n.op.cost([v.type if v else None for v in n.inputs], [o.type for o in n.outputs]).macs for n in nodes)


def _checked(
    case: Case, graph: lc.Graph, feeds: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray], precision: str
) -> tuple[Verification, float | None]:
    """The comparison with ONNX Runtime, or with the evaluator where that passes; and what the precision costs by itself, where neither does.

    That is how far the evaluator's result for the graph in the lower precision is from the model's.
    """
    tolerance = max(tolerance_of(graph), tolerance_with(precision))
    reference, expected = reference_outputs(case.path, graph, feeds)
    first = compare(expected, outputs, reference, tolerance)
    if first.ok:
        return first, None
    meant = lc.evaluate(graph, feeds)
    second = compare(meant, outputs, "evaluator", tolerance)
    if second.ok or not PRECISION_PASSES[precision]:
        return second if second.ok else first, None
    lowered = lc.optimize(lc.optimize(graph, 3, TARGET, bounds=case.bounds or None), 0, TARGET, ",".join(PRECISION_PASSES[precision]))
    own = compare(meant, lc.evaluate(lowered, feeds)).max_rel
    return compare(meant, outputs, "evaluator", tolerance), own


def main(arguments: list[str]) -> int:
    """Emulate, and print; a failure is part of what is printed."""
    precision, most, checked, architecture = arguments
    case = Case.from_json(sys.stdin.read())
    try:
        row = measure(case, precision, float(most), float(checked), architecture)
    except LeptonError as error:
        row = {"error": str(error).strip()}
    print(json.dumps(row))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
