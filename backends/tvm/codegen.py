"""TVM's lowering passes and its LLVM code generator: the only place in lepton that calls them.

A scheduled `PrimFunc` goes through a list of public passes of our own choosing instead of `tvm.compile`, so
that the object depends on no runtime: `int32_t SYMBOL(T *p0, ..., T *pN)`, raw pointers, no descriptors.
"""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.ir import Call, PointerType, PrimType, StringImm
from tvm.tirx.analysis import undefined_vars
from tvm.tirx.build import codegen_build

from lepton_compiler.backends.tvm import outline
from lepton_compiler.backends.tvm.c99.statements import kernel_source
from lepton_compiler.backends.tvm.phases import Phase, phase_symbols
from lepton_compiler.backends.tvm.schedules.work import parallel_work
from lepton_compiler.errors import UnsupportedError
from lepton_compiler.target import Target

PrimFunc = Any
"""`tvm.tirx.PrimFunc`; TVM carries no types."""

RAW_CALLING_CONVENTION = 3
"""A calling convention that TVM's code generator does not wrap, so that the parameters stay as they are."""

UNROLLED = 50
"""Size, as LLVM estimates instructions, up to which it unrolls loops in firmware; it takes 150 otherwise, and 300 where code may be large."""

NO_LOOP_VECTORS = "-vectorize-loops:bool=false"
"""LLVM's own vectors are left out with Helium: where it predicates the tail of an inner loop, it miscounted the rounds of the loop around it
(LLVM 22; a padded 3 x 3 filter of two channels, whose loops over rows and columns begin where the data decides)."""

ALIGNED_STACK = "lepton_aligned_stack"
UNALIGNED_BITS = 128
"""Registers up to which the stack is aligned for by the calling convention of x86-64. LLVM spills longer ones to wherever the stack happens to be,
across lines and pages of the memory, unless something else in the function asks for alignment; so a variable does, which is otherwise unused."""

STACK_BYTES = 256 << 10
"""Most that a kernel may keep on the stack; larger intermediates must be workspaces, which are parameters."""


@dataclass(frozen=True)
class CompiledKernel:
    """One kernel as a relocatable object, or as C text for a portable target.

    Attributes:
        symbol: the name of the function in the object, or what the names of its phases begin with.
        object: the bytes of the ELF `.o`, or of the C text.
        phases: what threads may share. None: one function that takes its buffers only. Else there is a function for each
            (`phase_symbols`) with two extra `int32_t` arguments (begin, end), a part of [0, extent). Disjoint parts may run at the same time.
        stack_bytes: size of the buffers that the kernel keeps on the stack, unless registers hold them.
    """

    symbol: str
    object: bytes
    phases: tuple[Phase, ...]
    stack_bytes: int = 0


def compile_kernel(func: PrimFunc, symbol: str, target: Target) -> CompiledKernel:
    """Compile a scheduled `PrimFunc` to an object that defines `symbol`.

    The C signature is `int32_t symbol(T *p0, ..., T *pN [, int32_t begin, int32_t end])`, for each phase if there are
    several, parameters in the order of the `PrimFunc`. Pointers need the alignment of their elements, and are fastest at 64 bytes. The result is 0.

    Raises:
        UnsupportedError: an intermediate buffer is too large for the stack and is not a parameter.
    """
    module, phases, stack = _lower(func, symbol, target)
    if target.is_portable:
        text = kernel_source(module[symbol], symbol, f"kernel {symbol}")
        return CompiledKernel(symbol, text.encode(), phases, stack)
    built = codegen_build(module, tvm_target(target))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.o"
        built.write_to_file(str(path))
        return CompiledKernel(symbol, path.read_bytes(), phases, stack)


def assembly(func: PrimFunc, symbol: str, target: Target) -> str:
    """The target's assembly text of the kernel, for reading and for tests that count instructions."""
    module, _, _ = _lower(func, symbol, target)
    return str(codegen_build(module, tvm_target(target)).inspect_source("asm"))


def lowered_text(func: PrimFunc, symbol: str, target: Target) -> str:
    """TIR after all passes, as the code generator sees it."""
    module, _, _ = _lower(func, symbol, target)
    return str(module.script())


@functools.cache
def tvm_target(target: Target) -> Any:
    """TVM's description of `target`: 512-bit registers are used where the target says so. For firmware, LLVM unrolls shorter loops only."""
    if target.is_portable:
        return tvm.target.Target({"kind": "c"})
    features = list(target.features)
    if target.arch == "x86_64" and target.vector_bits == 512:
        features.append("-prefer-256-bit")
    abi = {"mfloat-abi": target.float_abi} if target.float_abi else {"mabi": "lp64d"} if target.arch == "riscv64" else {}
    width = {"vector-width": target.vector_bits or 32}
    helium = [NO_LOOP_VECTORS] if target.has_helium else []
    small = (
        {"opt-level": 2, "cl-opt": [f"-unroll-threshold-default:uint={0 if target.small else UNROLLED}", *helium]}
        if target.is_firmware
        else {}
    )
    return tvm.target.Target({"kind": "llvm", "mtriple": target.triple, "mcpu": target.cpu, "mattr": features, **abi, **width, **small})


def _passes(target: Target) -> list[Any]:
    """Scheduled TensorIR to loops over flat buffers, vectorised, unrolled and simplified.

    `StorageRewrite` is left out on purpose: it lets a tile and its copy share memory, and then the tile is no longer
    in registers (see `schedules.epilogue`).
    """
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
        tir.NarrowDataType(32),
        scheduled.LoopPartition(),
        *([] if target.is_portable else [tir.VectorizeLoop()]),
        scheduled.HoistIfThenElse(),
        tir.UnrollLoop(),
        scheduled.RenormalizeSplitPattern(),
        tir.StmtSimplify(),
        tir.RemoveNoOp(),
        scheduled.RewriteUnsafeSelect(),
        tir.CommonSubexprElim(),
        tir.VerifyMemory(),
    ]


def _lower(func: PrimFunc, symbol: str, target: Target) -> tuple[Any, tuple[Phase, ...], int]:
    """Run all passes; returns the module for the code generator, the phases that threads may share, bytes on the stack."""
    module = tvm.IRModule({symbol: func.with_attr("global_symbol", symbol)})
    with tvm.transform.PassContext(opt_level=3):
        module = tvm.ir.transform.Sequential(_passes(target))(module)
        stack = sum(_buffer_bytes(buffer) for buffer in _allocations(module[symbol].body))
        if stack > STACK_BYTES:
            raise UnsupportedError(
                f"kernel {symbol} needs {stack} bytes of intermediate buffers on the stack",
                hint="make its large intermediate tensors workspaces",
            )
        functions, phases = _raw_abi(module[symbol], symbol, None if target.is_portable else parallel_work(func))
        outline.take_definitions()
        vcvtr = target.arch == "thumb" and "fpu" in target.extensions
        x86 = target.lanes(32) if target.arch == "x86_64" else 0
        built = {}
        for name, raw in functions.items():
            lowered = tirx.transform.LowerIntrin()(tvm.IRModule({name: raw}))
            if target.is_portable:
                built[name] = lowered[name]
                continue
            built[name] = _with_functions(lowered[name], outline.take_definitions(vcvtr, target.has_helium, x86))
            if target.arch == "x86_64" and target.vector_bits > UNALIGNED_BITS:
                built[name] = _aligned(built[name], target.vector_bits // 8)
        return tvm.IRModule(built), phases, stack


def _with_functions(func: PrimFunc, definitions: str) -> PrimFunc:
    """The function with LLVM IR to link behind its body: by then what the body calls is declared."""
    if not definitions:
        return func
    link = tirx.AttrStmt(tirx.IntImm("int32", 0), "pragma_import_llvm", StringImm(definitions), tirx.Evaluate(tirx.IntImm("int32", 0)))
    *work, last = func.body.seq
    return func.with_body(tirx.SeqStmt([*work, link, last]))


def _aligned(func: PrimFunc, size: int) -> PrimFunc:
    """The function with a stack frame whose variables are aligned to `size` bytes."""
    text = f"""define available_externally i32 @{ALIGNED_STACK}() alwaysinline nounwind {{
  %p = alloca [{size} x i8], align {size}
  call void asm sideeffect "", "r"(ptr %p) nounwind
  ret i32 0
}}"""
    call = tirx.Evaluate(tirx.call_extern("int32", ALIGNED_STACK))
    return _with_functions(func.with_body(tirx.SeqStmt([call, *func.body.seq])), text)


def _allocations(stmt: Any) -> Iterator[Any]:
    """The buffers that `stmt` allocates."""
    pending = [stmt]
    while pending:
        node = pending.pop()
        if isinstance(node, tirx.AllocBuffer):
            yield node.buffer
        elif isinstance(node, tirx.SeqStmt):
            pending.extend(node.seq)
        elif isinstance(node, tirx.IfThenElse):
            pending += [case for case in (node.then_case, node.else_case) if case is not None]
        elif isinstance(node, tirx.For | tirx.AttrStmt):
            pending.append(node.body)


def _buffer_bytes(buffer: Any) -> int:
    """Size of a buffer, whose elements may be vectors."""
    element, _, lanes = str(buffer.dtype).partition("x")
    bits = int("".join(character for character in element if character.isdigit()) or 8)
    return math.prod(int(extent) for extent in buffer.shape) * max(8, bits) * int(lanes or 1) // 8


def _raw_abi(func: PrimFunc, symbol: str, work: Sequence[int] | None) -> tuple[dict[str, PrimFunc], tuple[Phase, ...]]:
    """Functions with plain pointer parameters: one for each phase, with (begin, end), or a single one without where nothing is parallel.

    Args:
        func: after all passes.
        symbol: its name.
        work: nanoseconds of each of its parallel loops; None for a machine without threads.
    """
    pointers = {param: tirx.Var(param.name, PointerType(param.ty.dtype)) for param in func.params}
    declarations: list[Any] = []
    statements: list[Any] = []
    for stmt in list(func.body.seq) if isinstance(func.body, tirx.SeqStmt) else [func.body]:
        if isinstance(stmt, tirx.DeclBuffer) and isinstance(stmt.data, Call) and stmt.data.args[0] in pointers:
            declarations.append(tirx.DeclBuffer(stmt.buffer, data=pointers[stmt.data.args[0]]))
        else:
            statements.append(stmt)

    def function(name: str, body: Sequence[Any], extra: Sequence[Any]) -> PrimFunc:
        returned = tirx.SeqStmt([*declarations, *body, tirx.Return(tirx.IntImm("int32", 0))])
        raw = tirx.PrimFunc([*pointers.values(), *extra], returned, ret_type=PrimType("int32"), attrs=func.attrs)
        return raw.with_attr("calling_conv", RAW_CALLING_CONVENTION).with_attr("global_symbol", name)

    groups = phase_groups(statements)
    if work is None or not any(_is_parallel(group[-1]) for group in groups):
        serial = [_serial(stmt, stmt.min, stmt.extent) if _is_parallel(stmt) else stmt for stmt in statements]
        return {symbol: function(symbol, serial, ())}, ()
    begin, end = tirx.Var("begin", "int32"), tirx.Var("end", "int32")
    times = iter(work)
    functions, phases = {}, []
    for name, group in zip(phase_symbols(symbol, len(groups)), groups, strict=True):
        *before, last = group
        if _is_parallel(last):
            phases.append(Phase(int(last.extent), next(times, 0)))
            last = _serial(last, begin, end - begin)
        else:
            phases.append(Phase(1))
        functions[name] = function(name, [*before, last], (begin, end))
    return functions, tuple(phases)


def phase_groups(statements: Sequence[Any]) -> list[list[Any]]:
    """The statements in groups that end with a parallel loop, or are run by one thread.

    They are one group, which nothing can share, where several would use the same variable or buffer on the stack.
    """
    groups: list[list[Any]] = []
    definitions = [stmt for stmt in statements if _defined(stmt) is not None]
    extend = False
    for stmt in statements:
        if _defined(stmt) is None:
            if not extend or _is_parallel(stmt):
                groups.append([])
            groups[-1].append(stmt)
            extend = not _is_parallel(stmt)
    used = [{hash(v) for stmt in group for v in undefined_vars(stmt)} for group in groups]
    for definition in reversed(definitions):
        users = [k for k, names in enumerate(used) if hash(_defined(definition)) in names]
        if len(users) > 1:
            return [[*statements, tirx.Evaluate(tirx.IntImm("int32", 0))]]
        for k in users:
            groups[k].insert(0, definition)
            used[k] |= {hash(v) for v in undefined_vars(definition)}
    return groups


def _defined(stmt: Any) -> Any:
    """The variable that a statement defines for those after it."""
    if isinstance(stmt, tirx.AllocBuffer | tirx.DeclBuffer):
        return stmt.buffer
    return stmt.var if isinstance(stmt, tirx.Bind) else None


def _is_parallel(stmt: Any) -> bool:
    return isinstance(stmt, tirx.For) and stmt.kind == tirx.ForKind.PARALLEL


def _serial(loop: Any, start: Any, extent: Any) -> Any:
    return tirx.For(loop.loop_var, start, extent, tirx.ForKind.SERIAL, loop.body)
