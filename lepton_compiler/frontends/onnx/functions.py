"""Function bodies: model-local functions, and the definitions that ONNX itself gives for composite operators."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import onnx

from lepton_compiler.errors import ModelError
from lepton_compiler.frontends.onnx.call import Call
from lepton_compiler.frontends.onnx.load import opset_versions
from lepton_compiler.frontends.onnx.scope import Failed, Scope
from lepton_compiler.frontends.onnx.weights import ONNX_TYPES
from lepton_compiler.ir.graph import Value
from lepton_compiler.ir.types import TensorType

if TYPE_CHECKING:
    from lepton_compiler.frontends.onnx.importer import Importer

CALL_DEPTH_LIMIT = 40


def find_body(call: Call) -> onnx.FunctionProto | None:
    """The definition that the ONNX standard gives for an operator in terms of others, or None."""
    try:
        schema = onnx.defs.get_schema(call.op_type, call.version, call.proto.domain)
    except onnx.defs.SchemaError:
        return None
    if schema.has_context_dependent_function:
        fitting = [v for v in schema.context_dependent_function_opset_versions if v <= call.version]
        types = [_type_proto(v.type).SerializeToString() if v is not None else onnx.TypeProto().SerializeToString() for v in call.inputs]
        version = max(fitting, default=max(schema.context_dependent_function_opset_versions))
        text = schema.get_context_dependent_function_with_opset_version(version, _with_bindings(call).SerializeToString(), types)
        if text:
            return _parsed(text)
    if schema.has_function:
        fitting = [v for v in schema.function_opset_versions if v <= call.version]
        text = schema.get_function_with_opset_version(max(fitting)) if fitting else b""
        return _parsed(text) if text else schema.function_body
    return None


def _with_bindings(call: Call) -> onnx.NodeProto:
    """The node with its references to the attributes of an enclosing function replaced by their values."""
    if not any(a.ref_attr_name for a in call.proto.attribute):
        return call.proto
    node = onnx.NodeProto()
    node.CopyFrom(call.proto)
    del node.attribute[:]
    for attribute in call.proto.attribute:
        bound = call.scope.bindings.get(attribute.ref_attr_name) if attribute.ref_attr_name else attribute
        if bound is not None:
            node.attribute.add().CopyFrom(bound)
            node.attribute[-1].name = attribute.name
    return node


def expanded_size(model: onnx.ModelProto, functions: Mapping[tuple[str, str, str], onnx.FunctionProto]) -> int:
    """Number of nodes of the model once the functions that it defines are inlined; circles count once."""
    sizes: dict[tuple[str, str, str], int] = {}

    def of(nodes: Iterable[onnx.NodeProto], depth: int) -> int:
        return sum(1 if key not in functions else body(key, depth) for key in map(_key, nodes))

    def body(key: tuple[str, str, str], depth: int) -> int:
        if key not in sizes:
            sizes[key] = 1
            sizes[key] = of(functions[key].node, depth + 1) if depth < CALL_DEPTH_LIMIT else 1
        return sizes[key]

    return of(model.graph.node, 0)


def _key(node: onnx.NodeProto) -> tuple[str, str, str]:
    return ("" if node.domain == "ai.onnx" else node.domain, node.op_type, node.overload)


def inline(
    importer: Importer,
    function: onnx.FunctionProto,
    opsets: Iterable[onnx.OperatorSetIdProto],
    proto: onnx.NodeProto,
    scope: Scope,
    operands: Sequence[Value | None],
    label: str,
) -> list[Value | None] | None:
    """Import a function's nodes in place of a call; its outputs, or None if some have errors.

    Raises:
        ModelError: functions that call each other without end, or wrong operands.
    """
    if len(operands) > len(function.input):
        raise ModelError(f"function {function.name} takes {len(function.input)} inputs, not {len(operands)}")
    importer.depth += 1
    if importer.depth > CALL_DEPTH_LIMIT:
        raise ModelError(f"functions call each other more than {CALL_DEPTH_LIMIT} deep, or in a circle")
    given = {
        a.name: scope.bindings[a.ref_attr_name] if a.ref_attr_name else a
        for a in proto.attribute
        if not a.ref_attr_name or a.ref_attr_name in scope.bindings
    }
    bindings = {a.name: a for a in function.attribute_proto} | _schema_defaults(function, proto, scope) | given
    inner = _FunctionScope(scope, dict(scope.opsets) | opset_versions(list(opsets)), bindings, f"{label}/")
    try:
        for name, operand in zip(function.input, [*operands, *[None] * (len(function.input) - len(operands))], strict=True):
            if operand is not None:
                inner.define(name, operand)
            else:
                inner.absent.add(name)
        importer.import_node_list([_without_absent(node, inner.absent) for node in function.node], inner)
        found = [inner.find(name) for name in function.output]
    finally:
        importer.depth -= 1
    wanted = list(zip(found, proto.output, strict=False))
    if any(isinstance(entry, Failed) for entry, name in wanted if name):
        return None
    missing = [name for entry, name in wanted if name and entry is None]
    if missing:
        raise ModelError(f"function {function.name} does not compute output '{missing[0]}'")
    results = [entry for entry in found[: len(proto.output)] if isinstance(entry, Value) or entry is None]
    importer.named.difference_update(v for v in results if v is not None and v not in operands)
    return results


class _FunctionScope(Scope):
    """Names inside a function body: nothing of the caller is in sight except the operands."""

    def __init__(self, caller: Scope, opsets: dict[str, int], bindings: dict[str, onnx.AttributeProto], prefix: str) -> None:
        super().__init__(caller.graph, opsets, None, bindings, prefix)
        self.absent: set[str] = set()


def _without_absent(node: onnx.NodeProto, absent: set[str]) -> onnx.NodeProto:
    """The node with operands that the caller left out marked as absent."""
    if not absent.intersection(node.input):
        return node
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    del copy.input[:]
    copy.input.extend("" if name in absent else name for name in node.input)
    return copy


def _schema_defaults(function: onnx.FunctionProto, proto: onnx.NodeProto, scope: Scope) -> dict[str, onnx.AttributeProto]:
    domain = "" if proto.domain == "ai.onnx" else proto.domain
    try:
        schema = onnx.defs.get_schema(proto.op_type, scope.opsets.get(domain, 1), domain)
    except onnx.defs.SchemaError:
        return {}
    return {name: a.default_value for name, a in schema.attributes.items() if a.default_value.name}


def _parsed(text: bytes) -> onnx.FunctionProto:
    function = onnx.FunctionProto()
    function.ParseFromString(text)
    return function


def _type_proto(type: TensorType) -> onnx.TypeProto:
    shape = [d if isinstance(d, int) else repr(d) for d in type.shape]
    return onnx.helper.make_tensor_type_proto(ONNX_TYPES[type.dtype], shape)
