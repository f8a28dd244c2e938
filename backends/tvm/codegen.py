"""TVM's lowering passes and its LLVM code generator: the only place in lepton that calls them.

A scheduled `PrimFunc` goes through a list of public passes of our own choosing instead of `tvm.compile`, so
that the object depends on no runtime: `int32_t SYMBOL(T *p0, ..., T *pN)`, raw pointers, no descriptors.
"""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.ir import PointerType, PrimType
from tvm.tirx.build import codegen_build

from lepton_compiler.target import Target

RAW_CALLING_CONVENTION = 3
"""TVM's `CallingConv::kCHostFunction`-like value under which the code generator keeps our own parameter list."""

CONFIG = {"tirx.enable_buffer_level_predication": True}
"""Vector tails become masked loads and stores."""


@dataclass(frozen=True)
class CompiledKernel:
    """One kernel as a relocatable object.

    Attributes:
        symbol: the name of the function in the object.
        object: the bytes of the ELF `.o`.
        parallel_extent: N where the function takes two extra `int32_t` arguments (begin, end), a part of
            [0, N); None where it takes its buffers only. Disjoint parts may run at the same time.
    """

    symbol: str
    object: bytes
    parallel_extent: int | None


def compile_kernel(func: Any, symbol: str, target: Target) -> CompiledKernel:
    """Compile a scheduled `PrimFunc` to an object that defines `symbol`.

    The C signature is `int32_t symbol(T *p0, ..., T *pN [, int32_t begin, int32_t end])`, parameters in the
    order of the `PrimFunc`, every pointer aligned to 64 bytes. The result is 0.
    """
    module, extent = _lower(func, symbol, target)
    built = codegen_build(module, tvm_target(target))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.o"
        built.write_to_file(str(path))
        return CompiledKernel(symbol, path.read_bytes(), extent)


def assembly(func: Any, symbol: str, target: Target) -> str:
    """The target's assembly text of the kernel, for reading and for tests that count instructions."""
    module, _ = _lower(func, symbol, target)
    return str(codegen_build(module, tvm_target(target)).inspect_source("asm"))


def lowered_text(func: Any, symbol: str, target: Target) -> str:
    """TIR after all passes, as the code generator sees it."""
    module, _ = _lower(func, symbol, target)
    return str(module.script())


@functools.cache
def tvm_target(target: Target) -> Any:
    """TVM's description of `target`: 512-bit registers are used where the target says so."""
    features = list(target.features)
    if target.arch == "x86_64" and target.vector_bits == 512:
        features.append("-prefer-256-bit")
    return tvm.target.Target({"kind": "llvm", "mtriple": target.triple, "mcpu": target.cpu, "mattr": features})


def _passes(target: Target) -> list[Any]:
    """Scheduled TensorIR to loops over flat buffers, vectorised, unrolled and simplified."""
    scheduled, tir = s_tir.transform, tirx.transform
    return [
        tir.BindTarget(tvm_target(target)),
        scheduled.CanonicalizeLoop(),
        scheduled.LowerInitBlock(),
        scheduled.PlanAndUpdateBufferAllocationLocation(),
        scheduled.ConvertBlocksToOpaque(),
        scheduled.CompactBufferAllocation(),
        scheduled.LowerMatchBuffer(),
        scheduled.StmtSimplify(),
        scheduled.LowerOpaqueBlock(),
        tir.FlattenBuffer(),
        tir.BF16ComputeLegalize(),
        tir.NarrowDataType(32),
        scheduled.LoopPartition(),
        tir.VectorizeLoop(),
        tir.StorageRewrite(),
        scheduled.HoistIfThenElse(),
        tir.UnrollLoop(),
        scheduled.RenormalizeSplitPattern(),
        tir.StmtSimplify(),
        tir.RemoveNoOp(),
        scheduled.RewriteUnsafeSelect(),
        tir.CommonSubexprElim(),
        tir.VerifyMemory(),
    ]


def _lower(func: Any, symbol: str, target: Target) -> tuple[Any, int | None]:
    """Run all passes; returns the module for the code generator and the extent of the parallel loop, if any."""
    module = tvm.IRModule({symbol: func.with_attr("global_symbol", symbol)})
    with tvm.transform.PassContext(opt_level=3, config=CONFIG):
        module = tvm.ir.transform.Sequential(_passes(target))(module)
        raw, extent = _raw_abi(module[symbol], symbol)
        module = tvm.IRModule({symbol: raw})
        return tirx.transform.LowerIntrin()(module), extent


def _raw_abi(func: Any, symbol: str) -> tuple[Any, int | None]:
    """Give a lowered function plain pointer parameters, and (begin, end) where its one outer loop is parallel."""
    body = list(func.body.seq) if isinstance(func.body, tirx.SeqStmt) else [func.body]
    pointers = {param: tirx.Var(param.name, PointerType(param.ty.dtype)) for param in func.params}
    declarations: list[Any] = []
    work: list[Any] = []
    for stmt in body:
        if isinstance(stmt, tirx.DeclBuffer):
            declarations.append(_with_pointer(stmt, pointers))
        else:
            work.append(stmt)
    params = list(pointers.values())
    extent: int | None = None
    loops = [stmt for stmt in work if isinstance(stmt, tirx.For)]
    if len(work) == 1 and loops and loops[0].kind == tirx.ForKind.PARALLEL:
        begin, end = tirx.Var("begin", "int32"), tirx.Var("end", "int32")
        extent = int(loops[0].extent)
        params += [begin, end]
        work = [_serial(loops[0], begin, end - begin)]
    else:
        work = [_serial(s, s.min, s.extent) if isinstance(s, tirx.For) and s.kind == tirx.ForKind.PARALLEL else s for s in work]
    stmt: Any = tirx.SeqStmt([*declarations, *work, tirx.Return(tirx.IntImm("int32", 0))])
    raw = tirx.PrimFunc(params, stmt, ret_type=PrimType("int32"), attrs=func.attrs)
    return raw.with_attr("calling_conv", RAW_CALLING_CONVENTION).with_attr("global_symbol", symbol), extent


def _with_pointer(declaration: Any, pointers: dict[Any, Any]) -> Any:
    """Bind a flat buffer to the pointer parameter that takes the place of its buffer parameter."""
    parameter = declaration.data.args[0]
    return tirx.DeclBuffer(declaration.buffer, data=pointers[parameter])


def _serial(loop: Any, start: Any, extent: Any) -> Any:
    return tirx.For(loop.loop_var, start, extent, tirx.ForKind.SERIAL, loop.body)
