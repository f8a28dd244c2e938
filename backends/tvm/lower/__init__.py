"""Lowering: a kernel's operators become one TensorIR function through TE, one rule per operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tvm import te

from lepton_compiler.backends.tvm.carriers import carrier
from lepton_compiler.backends.tvm.lower import (
    deform,
    dense,
    determinant,
    dynamic_quantize,
    elementwise,
    grid_sample,
    integer_product,
    integer_winograd,
    interleave,
    lookup,
    micro_product,
    movement,
    pool,
    quantize,
    quantize_micro,
    reductions,
    regions,
    resize,
    scan,
    scatter,
    topk,
    winograd,
)
from lepton_compiler.backends.tvm.lower.context import ELEMENTS, RULES, Arg, Body, Context, Packed, Rule, element_rule, identity
from lepton_compiler.backends.tvm.lower.whole import Result
from lepton_compiler.backends.tvm.spec import KernelSpec, Step
from lepton_compiler.ir.op import Op
from lepton_compiler.ir.types import TensorType, dtype
from lepton_compiler.target import Target

__all__ = ["FAMILIES", "Lowered", "Parameter", "lower"]

FAMILIES = (
    dense,
    deform,
    determinant,
    dynamic_quantize,
    elementwise,
    grid_sample,
    integer_product,
    lookup,
    movement,
    pool,
    quantize,
    quantize_micro,
    reductions,
    regions,
    resize,
    scan,
    scatter,
    topk,
)
"""The modules whose rules are registered."""


@dataclass(frozen=True)
class Parameter:
    """One pointer that a kernel takes.

    Attributes:
        kind: `input`, `packed`, `table`, `workspace`, `scratch` or `output`.
        index: which operand or output it is.
        type: element type and shape of the buffer.
        packed: how the weight is rearranged, for `packed`.
        table: the contents, for `table`.
    """

    kind: str
    index: int
    type: TensorType
    packed: Packed | None = None
    table: bytes = b""


@dataclass(frozen=True)
class Lowered:
    """An unscheduled `PrimFunc` and what its parameters are, in order."""

    function: Any
    parameters: tuple[Parameter, ...]


def lower(spec: KernelSpec, target: Target, own: Mapping[str, Rule] | None = None) -> Lowered:
    """Build the `PrimFunc` of a kernel.

    Args:
        spec: the kernel.
        target: the machine.
        own: rules of another backend, which count before those that are here; nothing is then written as loops around an epilogue, and
            intermediate tensors are no parameters.

    Raises:
        UnsupportedError: a rule refuses the form of its operator.
    """
    interleaved = interleave.flattened(spec, target) if own is None else None
    spec = interleaved or _flattened(spec)
    ctx = Context(target, spec.choice, spec.sum_bits, internal=own is not None)
    args: dict[int, Arg] = {}
    for k in range(spec.inputs):
        kind = spec.types[k]
        args[k] = Arg(kind, te.placeholder(kind.static_shape, carrier(kind.dtype).name, f"in{k}"), operand=k, constant=k in spec.constants)
        ways = [apart for operand, lanes, apart in spec.in_windows if (operand, lanes) == (k, target.lanes(32))]
        args[k].in_windows, args[k].signs_apart = bool(ways), any(ways)
    for k, value in spec.scalars:
        args[k] = Arg(spec.types[k], number=value)
    bounded = spec.bounded if target.arch == "x86_64" else frozenset()
    rules = RULES if own is None else {**RULES, **own}
    if interleaved is not None:
        return _finish(spec, ctx, args, _interleaved(spec, ctx, args, bounded))
    if own is None and (whole := _whole(spec, ctx, args, bounded)) is not None:
        return _finish(spec, ctx, args, whole)
    for step in spec.steps:
        kinds = tuple(spec.types[o] for o in step.outputs)
        operands = [None if i is None else args[i] for i in step.inputs]
        for operand in operands:
            if operand is not None:
                operand.uses += 1
        if step.op.name in ELEMENTS:
            args[step.outputs[0]] = Arg(
                kinds[0], body=_body(step.op, kinds[0], operands, target), stored=stored_weight(step.op, operands[0])
            )
            args[step.outputs[0]].scales = scales_of_groups(step.op, operands)
            args[step.outputs[0]].bounded = step.outputs[0] in bounded
            continue
        ctx.outputs = kinds
        for operand in operands:
            if operand is not None and operand.body is not None:
                ctx.tensor(operand)
        results = rules[step.op.name](ctx, step.op, *operands)
        for number, kind, tensor in zip(step.outputs, kinds, results, strict=True):
            args[number] = Arg(kind, tensor)
            if isinstance(tensor.op, te.ExternOp) and number not in spec.outputs:
                ctx.workspace(tensor)
    outputs = [_own(args[o], ctx) for o in spec.outputs]
    return _finish(spec, ctx, args, outputs)


def _flattened(spec: KernelSpec) -> KernelSpec:
    """An element-wise kernel over arrays of one shape, as one over vectors: TVM does not see through several axes in one loop."""
    shape = spec.types[spec.outputs[0]].shape
    tables = {s.inputs[1] for s in spec.steps if s.op.name == "Lookup"}
    alike = all(t.shape == shape or t.static_shape == () for k, t in enumerate(spec.types) if k not in tables)
    if len(shape) < 2 or not alike or any(s.op.name not in ELEMENTS for s in spec.steps):
        return spec
    flat = (spec.types[spec.outputs[0]].size,)
    return replace(spec, types=tuple(TensorType(t.dtype, flat) if t.shape and k not in tables else t for k, t in enumerate(spec.types)))


def _whole(spec: KernelSpec, ctx: Context, args: dict[int, Arg], bounded: frozenset[int]) -> list[Any] | None:
    """The results of a kernel that is one convolution or product written as loops, and element-wise operators after it; else None."""
    first = next((s for s in spec.steps if s.op.name not in ELEMENTS), spec.steps[0])
    rest = [s for s in spec.steps if s is not first]
    kind = spec.types[first.outputs[0]]
    if len(spec.outputs) != 1 or any(s.op.name not in ELEMENTS or spec.types[s.outputs[0]].shape != kind.shape for s in rest):
        return None
    operands = [None if i is None else args.get(i) for i in first.inputs]
    write = _loops(first.op, operands, kind, ctx)
    if write is None:
        return None
    result = Result()
    local = {**args, first.outputs[0]: result.arg(kind)}
    read = _express(rest, spec, local, ctx.target, bounded)
    return write([args[i] for i in sorted(read & args.keys())], result, local[spec.outputs[0]])


def _interleaved(spec: KernelSpec, ctx: Context, args: dict[int, Arg], bounded: frozenset[int]) -> list[Any]:
    """The result of a kernel that ends in channels put side by side."""
    *before, last = spec.steps
    local = dict(args)
    read = _express(before, spec, local, ctx.target, bounded) | {i for i in last.inputs if i is not None}
    return interleave.lower_interleaved(ctx, local[last.inputs[0] or 0], [args[i] for i in sorted(read & args.keys())])


def _express(steps: Sequence[Step], spec: KernelSpec, known: dict[int, Arg], target: Target, bounded: frozenset[int]) -> set[int]:
    """Add the results of element-wise operators, as expressions, to the known values; returns what they read."""
    read: set[int] = set()
    for step in steps:
        inputs = [None if i is None else known[i] for i in step.inputs]
        read.update(i for i in step.inputs if i is not None)
        for operand in inputs:
            if operand is not None:
                operand.uses += 1
        number, kind = step.outputs[0], spec.types[step.outputs[0]]
        known[number] = Arg(kind, body=_body(step.op, kind, inputs, target), bounded=number in bounded)
    return read


def _loops(op: Op, operands: Sequence[Arg | None], kind: TensorType, ctx: Context) -> Callable[..., list[Any]] | None:
    """What writes an operator as loops around the operators that follow, or None where other kernels are better."""
    if op.name in ("ConvInteger", "MatMulInteger") and micro_product.suits(ctx.target, op, operands):
        return lambda others, result, last: micro_product.lower_micro(ctx, op, operands, others, result, last)
    if (exact := integer_winograd.plan_for(op, operands, kind, ctx)) is not None:
        return lambda others, result, last: integer_winograd.lower_exact(ctx, op, exact, operands, others, result, last)
    if op.name in ("ConvInteger", "MatMulInteger") and getattr(op, "layout", "NHWC") == "NHWC":
        return lambda others, result, last: integer_product.lower_product(ctx, op, operands, others, result, last)
    x, w, *bias = (*operands, None, None)[:3]
    if op.name != "Conv" or x is None or w is None or not w.is_weight or w.stored is not None:
        return None
    how = winograd.plan_for(op, x.type, w.type, kind, ctx.target, ctx.choice)
    if how is None:
        return None
    return lambda others, result, last: winograd.lower_winograd(ctx, op, how, x, w, bias[0], others, result, last)


def _body(op: Op, kind: TensorType, operands: Sequence[Arg | None], target: Target) -> Body:
    rule = element_rule(op.name, target)
    return lambda index, read: rule(op, kind, index, read, *operands)


def stored_weight(op: Op, source: Arg | None) -> Arg | None:
    """The weight that an operator converts, if that is all it does."""
    whole = op.name == "Cast" or (op.name == "DequantizeLinear" and bool(vars(op)["block_size"]))
    return source if whole and source is not None and source.is_weight and source.stored is None else None


def scales_of_groups(op: Op, operands: Sequence[Arg | None]) -> tuple[Arg, int] | None:
    """The scales of groups of weights, and how many weights are a group."""
    size = int(getattr(op, "block_size", 0))
    scales = operands[1] if size else None
    return (scales, size) if scales is not None and scales.is_weight else None


def _own(arg: Arg, ctx: Context) -> Any:
    """A result that is a computation of its own: neither an operand nor an intermediate that others reuse."""
    tensor = ctx.tensor(arg)
    if isinstance(tensor.op, te.PlaceholderOp) or identity(tensor) in map(identity, ctx.workspaces):
        return te.compute(tensor.shape, lambda *i: tensor(*i), "copy")
    return tensor


def _finish(spec: KernelSpec, ctx: Context, args: dict[int, Arg], outputs: list[Any]) -> Lowered:
    used = _reachable(outputs)
    parameters: list[Parameter] = []
    tensors: list[Any] = []

    def add(parameter: Parameter, tensor: Any) -> None:
        parameters.append(parameter)
        tensors.append(tensor)

    for k in range(spec.inputs):
        if identity(args[k].tensor) in used:
            add(Parameter("input", k, spec.types[k]), args[k].tensor)
    for packed, tensor in ctx.packed.items():
        add(Parameter("packed", packed.operand, packed.type, packed), tensor)
    for k, (values, tensor) in enumerate(ctx.tables.values()):
        add(Parameter("table", k, _type_of(tensor), table=values.tobytes()), tensor)
    results = {identity(o) for o in outputs}
    spaces = [w for i, w in {identity(w): w for w in ctx.workspaces}.items() if i in used and i not in results]
    for k, tensor in enumerate(spaces):
        add(Parameter("scratch" if identity(tensor) in map(identity, ctx.private) else "workspace", k, _type_of(tensor)), tensor)
    for k, tensor in enumerate(outputs):
        add(Parameter("output", k, spec.types[spec.outputs[k]]), tensor)
    function = te.create_prim_func(tensors)
    return Lowered(function.with_attr("tirx.noalias", not spec.shares), tuple(parameters))


def _type_of(tensor: Any) -> TensorType:
    return TensorType(dtype(str(tensor.dtype)), tuple(int(d) for d in tensor.shape))


def _reachable(outputs: list[Any]) -> set[tuple[int, int]]:
    """Identities of the tensors that the outputs depend on, and of all results of their stages."""
    seen: set[tuple[int, int]] = set()
    pending = list(outputs)
    while pending:
        tensor = pending.pop()
        if identity(tensor) not in seen:
            seen.update(identity(tensor.op.output(k)) for k in range(tensor.op.num_outputs))
            pending.extend(tensor.op.input_tensors)
    return seen
