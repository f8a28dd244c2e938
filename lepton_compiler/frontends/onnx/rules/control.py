"""Control flow: nested graphs become isolated regions whose captures are operands; a known condition leaves one branch."""

from __future__ import annotations

import re
from collections.abc import Sequence

import onnx

from lepton_compiler.errors import InferenceError, ModelError, OpenDimensionsError, UnsupportedError
from lepton_compiler.frontends.onnx.call import Call, Result
from lepton_compiler.frontends.onnx.scope import Scope
from lepton_compiler.ir.dim import Dim, symbol
from lepton_compiler.ir.graph import Graph, Value
from lepton_compiler.ir.types import BOOL, INT64, TensorType
from lepton_compiler.ops.control import Fail, If, Loop, Scan

ATTEMPTS = 4
"""How often a loop body is imported until the types of what it carries are general enough."""


def if_(call: Call) -> Result | None:
    """If: the taken branch in place where the condition is known, else two regions."""
    branches = [_graph(call, "then_branch"), _graph(call, "else_branch")]
    known = call.known_ints(call.value(0))
    if known is not None:
        if len(known) != 1:
            raise ModelError("the condition must have one element")
        results = call.importer.import_inline(branches[0 if known[0] else 1], Scope(call.graph, call.scope.opsets, call.scope))
        if results is not None:
            call.importer.named.difference_update(v for v in results if v.producer is not None)
        return results
    imported = _import_branches(call, branches)
    if imported is None:
        return None
    regions, scopes = [region for region, _ in imported], [scope for _, scope in imported]
    captures = list(dict.fromkeys(outer for scope in scopes for outer in scope.captures))
    for region, scope in zip(regions, scopes, strict=True):
        for outer in captures:
            scope.capture(outer)
        region.inputs[:] = [scope.captures[outer] for outer in captures]
    try:
        return call.add_all(If(), call.value(0), *captures, regions=regions)
    except InferenceError as error:
        hint = "if the condition is about shapes, bind the symbolic dimensions with inputs=, --input or --dim"
        raise OpenDimensionsError(error.diagnostics[0].message, hint=hint) from error


def _import_branches(call: Call, branches: Sequence[onnx.GraphProto]) -> list[tuple[Graph, Scope]] | None:
    """Both branches; one whose shapes contradict each other fails when it is taken, as long as the other one is sound."""
    mark = call.importer.mark()
    found: list[tuple[Graph, Scope] | None] = []
    for branch, side in zip(branches, ("then", "else"), strict=True):
        imported = call.importer.import_region(branch, call.scope, [], f"{_label(call)}_{side}")
        found.append(imported and imported[:2])
    sound = [branch for branch in found if branch is not None]
    reason = call.importer.contradiction(mark)
    if len(sound) == 1 and reason:
        call.importer.rewind(mark)
        region = sound[0][0]
        found = [branch or _failing(call, region, f"{_label(call)}_fails", reason) for branch in found]
    complete = [branch for branch in found if branch is not None]
    return complete if len(complete) == 2 else None


def _failing(call: Call, like: Graph, name: str, reason: str) -> tuple[Graph, Scope]:
    """A branch with results of the types of `like` that fails with `reason`."""
    region = Graph(name)
    message = f"the model took a branch that cannot run on these shapes: {reason}"
    nodes = [region.add(Fail(message, v.type.dtype, v.type.shape), names=[v.name], loc=call.loc) for v in like.outputs]
    region.set_outputs([node.output for node in nodes])
    return region, Scope(region, call.scope.opsets, call.scope)


def loop(call: Call) -> Result | None:
    """Loop over a body graph."""
    body, carried = _graph(call, "body"), [call.value(i) for i in range(2, len(call.inputs))]
    imported = _import_body(call, body, [TensorType(INT64, ()), TensorType(BOOL, ())], carried, [], 1)
    if imported is None:
        return None
    region, captures = imported
    op = Loop(carried=len(carried), trips=_trips(call, region))
    return call.add_all(op, call.optional(0), call.optional(1), *carried, *captures, regions=[region])


def _trips(call: Call, region: Graph) -> int | None:
    """The number of iterations, if nothing but the trip count ends the loop."""
    count, start, goes_on = call.optional(0), call.optional(1), region.outputs[0]
    known = call.known_ints(count) if count is not None else None
    begins = call.known_ints(start) if start is not None else (1,)
    endless = goes_on is region.inputs[1] or (goes_on.is_constant and bool(goes_on.numpy().reshape(-1)[0]))
    return max(0, known[0]) if known and begins and begins[0] and endless else None


def scan(call: Call) -> Result | None:
    """Scan; in opset 8 each operand had a batch axis before the others."""
    if call.version < 9:
        return _batched_scan(call)
    return _scan(call, [call.value(i) for i in range(len(call.inputs))])


def _scan(call: Call, operands: Sequence[Value]) -> Result | None:
    body, count = _graph(call, "body"), _scan_inputs(call, len(operands))
    carried, scanned = operands[: len(operands) - count], operands[len(operands) - count :]
    axes = tuple(call.attr("scan_input_axes", (0,) * count))
    elements = [_element(v.type, axis) for v, axis in zip(scanned, axes, strict=True)]
    imported = _import_body(call, body, [], carried, elements, 0)
    if imported is None:
        return None
    region, captures = imported
    outputs = len(region.outputs) - len(carried)
    op = Scan(
        num_scan_inputs=count,
        input_axes=axes,
        input_directions=tuple(call.attr("scan_input_directions", call.attr("directions", (0,) * count))),
        output_axes=tuple(call.attr("scan_output_axes", (0,) * outputs)),
        output_directions=tuple(call.attr("scan_output_directions", (0,) * outputs)),
        carried=len(carried),
    )
    return call.add_all(op, *carried, *scanned, *captures, regions=[region])


def _scan_inputs(call: Call, operands: int) -> int:
    count = int(call.attr("num_scan_inputs", 0))
    if not 0 < count <= operands:
        raise ModelError(f"num_scan_inputs is {count} for {operands} operands")
    return count


def _batched_scan(call: Call) -> Result | None:
    """A scan of today's kind inside a scan over the batch, which carries nothing."""
    if call.optional(0) is not None:
        raise UnsupportedError("Scan of opset 8 with sequence_lens is not supported", hint="convert the model to opset 9 or later")
    operands = [call.value(i) for i in range(1, len(call.inputs))]
    _scan_inputs(call, len(operands))
    region = Graph(f"{_label(call)}_batch")
    inner = Scope(region, call.scope.opsets, call.scope)
    elements = [region.add_input(v.name, _element(v.type, 0)) for v in operands]
    single = Call(call.importer, inner, call.proto, call.version, elements, call.loc)
    results = _scan(single, elements)
    if results is None:
        return None
    region.set_outputs(list(results) if not isinstance(results, Value) else [results])
    captures = list(inner.captures)
    zeros = (0,) * len(region.outputs)
    op = Scan(len(operands), (0,) * len(operands), (0,) * len(operands), zeros, zeros, carried=0)
    return call.add_all(op, *operands, *captures, regions=[region])


def _element(type: TensorType, axis: int) -> TensorType:
    if not -type.rank <= axis < type.rank:
        raise ModelError(f"scan axis {axis} is out of range for {type}")
    return TensorType(type.dtype, tuple(d for i, d in enumerate(type.shape) if i != axis % type.rank))


def _import_body(
    call: Call, body: onnx.GraphProto, before: list[TensorType], carried: Sequence[Value], after: list[TensorType], skipped: int
) -> tuple[Graph, list[Value]] | None:
    """The body as a region, and the values that it captures.

    Carried dimensions that change from one iteration to the next become symbols of their own, and the body is
    imported again with these.

    Args:
        call: the node.
        body: its graph.
        before: types of the inputs before the carried ones.
        carried: initial values.
        after: types of the inputs after them.
        skipped: number of outputs before the carried ones.
    """
    types, own = [v.type for v in carried], set[Dim]()
    for attempt in range(ATTEMPTS):
        mark = call.importer.mark()
        imported = call.importer.import_region(body, call.scope, [*before, *types, *after], f"{_label(call)}_body")
        if imported is None:
            return None
        region, scope, outputs = imported
        if len(outputs) < skipped + len(carried):
            raise ModelError(f"the body returns {len(outputs)} values, it carries {len(carried)}")
        wider = [
            _wider(old, new.type, f"{_label(call)}_{i}", own, attempt == ATTEMPTS - 2)
            for i, (old, new) in enumerate(zip(types, outputs[skipped:], strict=False))
        ]
        if wider == types:
            return region, list(scope.captures)
        call.importer.rewind(mark)
        types = wider
    raise UnsupportedError("the shapes of what the loop carries do not settle")


def _wider(old: TensorType, new: TensorType, label: str, own: set[Dim], everything: bool) -> TensorType:
    """`old` with a symbol of its own in each dimension that the body changes."""
    if old.dtype != new.dtype or old.rank != new.rank:
        raise UnsupportedError(f"the loop changes a carried value from {old} to {new}")
    if old == new:
        return old
    shape: list[Dim] = []
    for axis, (before, after) in enumerate(zip(old.shape, new.shape, strict=True)):
        if before in own or (before == after and not everything):
            shape.append(before)
        else:
            shape.append(symbol(f"{label}_{axis}"))
            own.add(shape[-1])
    return TensorType(old.dtype, tuple(shape))


def _graph(call: Call, name: str) -> onnx.GraphProto:
    graph = call.attr(name)
    if not isinstance(graph, onnx.GraphProto):
        raise ModelError(f"attribute '{name}' is missing")
    return graph


def _label(call: Call) -> str:
    """The node's name as an identifier."""
    name = re.sub(r"\W", "_", call.loc.sources[0], flags=re.ASCII)
    return name if name[:1].isalpha() or name[:1] == "_" else f"_{name}"


RULES = {"If": if_, "Loop": loop, "Scan": scan}
