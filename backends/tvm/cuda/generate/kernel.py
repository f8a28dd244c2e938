"""A whole kernel: which generator takes which of its stages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lepton_compiler.backends.tvm.choice import ANALYTIC, Choice
from lepton_compiler.backends.tvm.cuda.generate.columns import column_stage, goes_across, shares_of, split_columns
from lepton_compiler.backends.tvm.cuda.generate.elementwise import element_stage, reduction_stage
from lepton_compiler.backends.tvm.cuda.generate.function import KernelText
from lepton_compiler.backends.tvm.cuda.generate.procedures import procedure_stage
from lepton_compiler.backends.tvm.cuda.generate.rows import combiner, fills_gpu, fits_rows, row_reduction, row_stage
from lepton_compiler.backends.tvm.cuda.generate.stages import Procedure, Stages, loads, stages_of
from lepton_compiler.backends.tvm.cuda.generate.transposed import find_transposition, transposed_stage
from lepton_compiler.backends.tvm.cuda.text.writer import Block

DEEP = 64
"""Elements of a sum that a single thread would take long for."""


def generate(func: Any, symbol: str, where: str, choice: Choice = ANALYTIC, weights: frozenset[int] = frozenset()) -> KernelText:
    """CUDA C for a `PrimFunc` of TE, as tuning chose; of its parameters, `weights` are constants.

    Raises:
        UnsupportedError: it has something that has no text.
    """
    found = stages_of(func)
    kernel = KernelText(symbol, where, list(found.parameters), found.alone, choice, weights)
    blocks = [s for s in found.stages if isinstance(s, Block)]
    if len(blocks) == len(found.stages) and fits_rows(blocks, found.shared, found.along) and fills_gpu(blocks, found.shared):
        row_stage(kernel, blocks, found.shared)
        return kernel
    if len(blocks) == len(found.stages):
        split = [split_columns(kernel, s) if goes_across(s, found.along) else s for s in blocks]
        found = replace(found, stages=tuple(split))
    virtual = _virtual(found, kernel)
    for stage in found.stages:
        if isinstance(stage, Procedure):
            procedure_stage(kernel, stage)
        elif hash(stage.target) in virtual or stage.size == 0:
            continue
        elif stage.initial is None and not virtual and (transposition := find_transposition(stage)) is not None:
            transposed_stage(kernel, stage, transposition)
        elif stage.initial is None and (shares := _shares(stage, _read(stage, virtual), found.along)) > 1:
            column_stage(kernel, stage, _read(stage, virtual), shares)
        elif stage.initial is None:
            element_stage(kernel, stage, _read(stage, virtual))
        elif _is_deep(stage, found.along):
            row_reduction(kernel, stage)
        elif goes_across(stage, found.along) and (shares := shares_of(stage)) > 1:
            column_stage(kernel, stage, virtual, shares)
        else:
            reduction_stage(kernel, stage, virtual)
    return kernel


def _shares(stage: Block, virtual: dict[int, Block], along: frozenset[str]) -> int:
    """Threads that share each element of an element-wise stage, which reads one reduction that is not stored, if that goes across rows."""
    one = next(iter(virtual.values())) if len(virtual) == 1 else None
    return shares_of(one) if one is not None and goes_across(one, along) and one.size == stage.size else 1


def _is_deep(stage: Block, along: frozenset[str]) -> bool:
    """Whether several threads share each sum of a reduction."""
    return stage.name in along and stage.depth >= DEEP and combiner(stage) is not None


def _virtual(found: Stages, kernel: KernelText) -> dict[int, Block]:
    """The reductions that are computed where they are read: each element once. Buffers of the others become parameters."""
    parameters = {hash(p) for p in kernel.buffers}
    chosen: dict[int, Block] = {}
    for stage in found.stages:
        if not isinstance(stage, Block) or hash(stage.target) in parameters:
            continue
        readers = [s for s in found.stages if isinstance(s, Block) and s is not stage and loads(s, stage.target)]
        once = len(readers) == 1 and readers[0].initial is None and readers[0].size <= stage.size
        if (
            once
            and stage.initial is not None
            and not _is_deep(stage, found.along)
            and not any(isinstance(s, Procedure) for s in found.stages)
        ):
            chosen[hash(stage.target)] = stage
        else:
            kernel.space(stage.target)
    return chosen


def _read(stage: Block, virtual: dict[int, Block]) -> dict[int, Block]:
    """Those of the virtual reductions that a stage reads, by way of others too."""
    found: dict[int, Block] = {}
    pending = [stage]
    while pending:
        block = pending.pop()
        for key, other in virtual.items():
            if key not in found and loads(block, other.target):
                found[key] = other
                pending.append(other)
    return found
