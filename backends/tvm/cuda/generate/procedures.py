"""Procedures: a thread for each iteration of an outermost parallel loop; what is written one after another runs on one thread."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from lepton_compiler.backends.tvm.codegen import phase_groups
from lepton_compiler.backends.tvm.cuda.generate.function import KernelText
from lepton_compiler.backends.tvm.cuda.generate.stages import Procedure

THREADS = 64
"""Of a block: an iteration is much work, and there may be few."""


def procedure_stage(kernel: KernelText, procedure: Procedure) -> None:
    """Add a function for each phase of a procedure."""
    statements, once = _statements(procedure.body)
    for group in phase_groups(statements):
        *before, last = group
        writer = kernel.writer()
        for variable in once:
            writer.equate(variable, tirx.const(0, "int32"))
        if isinstance(last, tirx.For) and last.kind == tirx.ForKind.PARALLEL:
            extent, start = int(last.extent), int(last.min)
            writer.range(last.loop_var, start + extent, "i")
            writer.sequence([*before, last.body])
            opening = [f"  const int32_t i = {start} + blockIdx.x * {THREADS} + threadIdx.x;", f"  if (i >= {start + extent}) return;"]
            kernel.add(writer, (-(-extent // THREADS), 1, 1), (THREADS, 1, 1), opening)
            continue
        writer.sequence(group)
        kernel.add(writer, (1, 1, 1), (1, 1, 1))
        kernel.notes.append(f"one thread of the GPU does '{procedure.name}': its steps depend on each other")


def _statements(body: Any) -> tuple[list[Any], list[Any]]:
    """The statements of a procedure inside of loops that run once, and the variables of these loops."""
    once: list[Any] = []
    while True:
        if isinstance(body, tirx.For) and body.kind == tirx.ForKind.SERIAL and _is_one(body.extent) and int(body.min) == 0:
            once.append(body.loop_var)
            body = body.body
        elif isinstance(body, tirx.SeqStmt) and len(body.seq) == 1:
            body = body.seq[0]
        else:
            return (list(body.seq) if isinstance(body, tirx.SeqStmt) else [body]), once


def _is_one(extent: Any) -> bool:
    return isinstance(extent, tirx.IntImm) and int(extent.value) == 1
