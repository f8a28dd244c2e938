"""The stages of a lowered kernel: blocks, in order, after what is element-wise was taken into its readers; and procedures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.ir.expr import TensorLoad

from lepton_compiler.backends.tvm.cuda.text.writer import Axis, Block
from lepton_compiler.backends.tvm.schedules.epilogue import parts
from lepton_compiler.backends.tvm.schedules.loops import is_reduction, reduces_last_axis, writes_parameter
from lepton_compiler.backends.tvm.schedules.rows import shared_rows
from lepton_compiler.errors import UnsupportedError


@dataclass(frozen=True)
class Procedure:
    """A stage that was written as statements."""

    name: str
    body: Any


@dataclass(frozen=True)
class Stages:
    """What a kernel computes, in order.

    Attributes:
        parameters: the function's buffers.
        alone: whether they do not overlap.
        stages: what writes them, and buffers in between.
        shared: how many leading axes all blocks have in common, each reading results of its own row only; 0 where there are procedures.
        along: names of reductions whose innermost axis of what they read is one that they reduce over.
    """

    parameters: tuple[Any, ...]
    alone: bool
    stages: tuple[Block | Procedure, ...]
    shared: int
    along: frozenset[str]


def stages_of(func: Any) -> Stages:
    """Take apart a `PrimFunc` of TE."""
    alone = bool(func.attrs and func.attrs.get("tirx.noalias", False))
    root = func.body.block
    if root.name_hint != "root":
        return Stages(tuple(func.params), alone, (Procedure(root.name_hint, root.body),), 0, frozenset())
    sch = s_tir.Schedule(tvm.IRModule({"main": func}), debug_mask="none", error_render_level="detail")
    names = _names(sch)
    procedures = {name for name in names if _is_procedure(sch, name)}
    for name in names:
        if name not in procedures and not is_reduction(sch, name) and not writes_parameter(sch, name):
            sch.compute_inline(name)
    sch = s_tir.Schedule(s_tir.transform.ConvertSSA()(sch.mod), debug_mask="none")
    names = _names(sch)
    blocks = [name for name in names if name not in procedures]
    shared = shared_rows(sch, blocks) if blocks and not procedures else 0
    along = frozenset(name for name in blocks if is_reduction(sch, name) and reduces_last_axis(sch, name))
    stages = tuple(_stage(sch.get(sch.get_sblock(name)), name in procedures) for name in names)
    return Stages(tuple(sch.mod["main"].params), alone, stages, shared, along)


def loads(block: Block, buffer: Any) -> bool:
    """Whether the value of a block reads a buffer."""
    pending = [block.value]
    while pending:
        node = pending.pop()
        if isinstance(node, TensorLoad) and hash(node.source) == hash(buffer):
            return True
        pending += list(node.indices) if isinstance(node, TensorLoad) else parts(node)
    return False


def _names(sch: Any) -> list[str]:
    return [sch.get(b).name_hint for b in sch.get_child_blocks(sch.get_sblock("root"))]


def _is_procedure(sch: Any, name: str) -> bool:
    block = sch.get(sch.get_sblock(name))
    return not block.reads and not block.writes


def _stage(block: Any, is_procedure: bool) -> Block | Procedure:
    if is_procedure:
        return Procedure(block.name_hint, block.body)
    store = block.body
    if not isinstance(store, tirx.BufferStore):
        raise UnsupportedError(f"a stage of several results, '{block.name_hint}', has no CUDA C", hint="report the model")
    axes = [(Axis(iv.var, int(iv.dom.extent)), iv.iter_type == tirx.IterVar.DataPar) for iv in block.iter_vars]
    spatial, reduced = tuple(a for a, kept in axes if kept), tuple(a for a, kept in axes if not kept)
    initial = None if block.init is None else block.init.value
    return Block(block.name_hint, spatial, reduced, store.buffer, tuple(store.indices), store.value, initial)
