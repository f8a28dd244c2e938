"""Graphs to ONNX models of any opset from 13 on, checked by `onnx.checker`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import onnx

from lepton_compiler.backends.onnx.body import ML_DOMAIN, ML_VERSION, Body, Emission, Names, plain_symbol
from lepton_compiler.backends.onnx.legalize import NARROW_FLOATS, is_carried, legalized
from lepton_compiler.backends.onnx.rules import find_rule
from lepton_compiler.backends.onnx.tensors import ExternalFile, stored_bytes, tensor_proto, type_number
from lepton_compiler.errors import Diagnostic, InvalidIR, LeptonError, UnsupportedError, UsageError
from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ir.tensor import Tensor
from lepton_compiler.ir.types import FLOAT32, DType, TensorType
from lepton_compiler.ops.control import Fused, If, Loop, Scan
from lepton_compiler.ops.dynamic import Dynamic

OLDEST_OPSET = 13
EXTERNAL_BYTES = 1_900_000_000
"""Weights above this go to a file beside the model: a protobuf holds at most 2 GiB."""


def emit_onnx(
    graph: Graph, path: os.PathLike[str] | str | None = None, opset: int = 21, external_bytes: int = EXTERNAL_BYTES
) -> onnx.ModelProto:
    """Write a graph as an ONNX model.

    Args:
        graph: any valid graph; it is not changed. `Fused` regions are taken apart again.
        path: the file to write; weights of more than `external_bytes` together go to `<path>.data`. None: no file.
        opset: 13 or newer.
        external_bytes: see `path`.

    Returns:
        The model, which `onnx.checker` has checked in full.

    Raises:
        UnsupportedError: operators or types that this opset cannot express, all of them at once.
        UsageError: an opset that does not exist, or weights too large for a model without a file.
    """
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise UsageError(f"cannot emit ONNX opset {opset}", hint=f"choose {OLDEST_OPSET} to {newest}")
    legal = legalized(graph, opset)
    emitter = Emitter(legal, opset)
    emitter.run()
    total = sum(stored_bytes(tensor) for tensor in emitter.constants.values())
    if total <= external_bytes:
        model = emitter.model(None)
        _check(model)
        if path is not None:
            Path(path).write_bytes(model.SerializeToString(deterministic=True))
        return model
    if path is None:
        raise UsageError(
            f"{total} bytes of weights do not fit into an ONNX model in memory", hint="give a path, the weights go to a file beside it"
        )
    target = Path(path)
    data = target.with_name(target.name + ".data")
    with data.open("wb") as stream:
        model = emitter.model(ExternalFile(data, stream))
    target.write_bytes(model.SerializeToString(deterministic=True))
    _check(str(target))
    return model


def _check(model: onnx.ModelProto | str) -> None:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise InvalidIR(f"the emitted model is not valid ONNX: {error}", hint="this is a bug in lepton, please report it") from error


class Emitter:
    """The state of one emission."""

    def __init__(self, graph: Graph, opset: int) -> None:
        self.graph, self.opset = graph, opset
        self.constants: dict[str, Tensor] = {}
        self.names = Names([v.name for v in graph.inputs] + [v.name for v in graph.outputs])
        self.body = Body(opset, self.names, self.constants)
        self.problems: list[Diagnostic] = []

    def run(self) -> None:
        """Emit all nodes.

        Raises:
            UnsupportedError: what cannot be expressed, all at once.
        """
        for value in self.graph.inputs:
            self.body.bind(value, value.name)
        wanted = {v: v.name for v in self.graph.outputs if v.producer is not None}
        self._emit_nodes(self.graph, self.body, wanted)
        if self.problems:
            raise UnsupportedError(tuple(dict.fromkeys(self.problems)))
        for value in self.graph.outputs:
            if value.tensor is not None:
                self.body.emit("Identity", [self.body.constant(value.tensor, f"{value.name}_value")], [value.name])

    def model(self, external: ExternalFile | None) -> onnx.ModelProto:
        """The model, its weights in `external` if given."""
        graph = onnx.helper.make_graph(
            self.body.nodes,
            self.graph.name or "main",
            [value_info(v.name, v.type) for v in self.graph.inputs],
            [value_info(v.name, v.type) for v in self.graph.outputs],
        )
        graph.initializer.extend(tensor_proto(name, tensor, external) for name, tensor in self.constants.items())
        opsets = [onnx.helper.make_opsetid("", self.opset)]
        if ML_DOMAIN in self.body.domains:
            opsets.append(onnx.helper.make_opsetid(ML_DOMAIN, ML_VERSION))
        version = onnx.helper.find_min_ir_version_for(opsets)
        return onnx.helper.make_model(graph, opset_imports=opsets, producer_name="lepton", ir_version=max(version, 8))

    def _emit_nodes(self, graph: Graph, body: Body, wanted: dict[Value, str]) -> None:
        for node in graph:
            outputs = [wanted[v] if v in wanted else self.names.fresh(v.name) for v in node.outputs]
            if any(v not in body.value_names for v in node.present_inputs if v.tensor is None):
                continue  # it reads the result of a node that cannot be expressed
            try:
                self._emit_node(node, body, outputs)
            except LeptonError as error:
                self.problems += [Diagnostic(d.message, d.where or node.describe(), d.hint) for d in error.diagnostics]
                continue
            for value, name in zip(node.outputs, outputs, strict=True):
                body.bind(value, name)

    def _emit_node(self, node: Node, body: Body, outputs: list[str]) -> None:
        match node.op:
            case If():
                self._emit_if(node, body, outputs)
            case Loop():
                self._emit_loop(node, node.op, body, outputs)
            case Scan():
                self._emit_scan(node, node.op, body, outputs)
            case Fused():
                self._emit_fused(node, body, outputs)
            case Dynamic():
                data, late = node.inputs[: -len(node.op.params)], node.inputs[-len(node.op.params) :]
                given = {name: body.name_of(v) for name, v in zip(node.op.params, late, strict=True) if v is not None}
                self._apply(Emission(body, node, node.op.template, [body.name_of(v) if v else "" for v in data], outputs, given))
            case _:
                self._apply(Emission(body, node, node.op, [body.name_of(v) if v else "" for v in node.inputs], outputs, {}))

    def _apply(self, emission: Emission) -> None:
        for value in emission.node.outputs:
            type_number(value.type.dtype)
        if is_carried(emission.node, self.opset):
            _emit_carried(emission)
        else:
            find_rule(emission.op.name)(emission)

    # -- control flow

    def _emit_if(self, node: Node, body: Body, outputs: list[str]) -> None:
        names = [body.name_of(v) for v in node.present_inputs]
        branches = [self._region(region, body, dict(zip(region.inputs, names[1:], strict=True)), []) for region in node.regions]
        body.emit("If", names[:1], outputs, name="/".join(node.loc.sources[:1]), then_branch=branches[0], else_branch=branches[1])

    def _emit_loop(self, node: Node, op: Loop, body: Body, outputs: list[str]) -> None:
        operands = [body.name_of(v) if v else "" for v in node.inputs]
        region, formals = node.regions[0], 2 + op.carried
        captured = dict(zip(region.inputs[formals:], operands[formals:], strict=True))
        graph = self._region(region, body, captured, region.inputs[:formals])
        body.emit("Loop", operands[:formals], outputs, name="/".join(node.loc.sources[:1]), body=graph)

    def _emit_scan(self, node: Node, op: Scan, body: Body, outputs: list[str]) -> None:
        operands = [body.name_of(v) for v in node.present_inputs]
        region, formals = node.regions[0], op.carried + op.num_scan_inputs
        captured = dict(zip(region.inputs[formals:], operands[formals:], strict=True))
        graph = self._region(region, body, captured, region.inputs[:formals])
        body.emit(
            "Scan",
            operands[:formals],
            outputs,
            name="/".join(node.loc.sources[:1]),
            body=graph,
            num_scan_inputs=op.num_scan_inputs,
            scan_input_axes=op.input_axes or None,
            scan_input_directions=op.input_directions or None,
            scan_output_axes=op.output_axes or None,
            scan_output_directions=op.output_directions or None,
        )

    def _region(self, region: Graph, body: Body, captured: dict[Value, str], formals: Sequence[Value]) -> onnx.GraphProto:
        """A nested graph, whose captures go by their names outside."""
        inner = Body(self.opset, self.names, self.constants, body)
        for value, name in captured.items():
            inner.bind(value, name)
        for value in formals:
            inner.bind(value, self.names.fresh(value.name))
        self._emit_nodes(region, inner, {})
        results = []
        for value in region.outputs:
            own = value.producer is not None and value in inner.value_names and inner.value_names[value] not in results
            if value.tensor is None and value not in inner.value_names:
                continue  # a problem was noted
            results.append(inner.value_names[value] if own else inner.emit("Identity", [inner.name_of(value)]))
        return onnx.helper.make_graph(
            inner.nodes,
            region.name or "body",
            [value_info(inner.value_names[v], v.type) for v in formals],
            [value_info(name, v.type) for name, v in zip(results, region.outputs, strict=False)],
        )

    def _emit_fused(self, node: Node, body: Body, outputs: list[str]) -> None:
        """The nodes of a kernel, in place."""
        region = node.regions[0]
        for formal, operand in zip(region.inputs, node.present_inputs, strict=True):
            body.bind(formal, body.name_of(operand))
        wanted: dict[Value, str] = {}
        for value, name in zip(region.outputs, outputs, strict=True):
            if value.producer is not None:
                wanted.setdefault(value, name)
        self._emit_nodes(region, body, wanted)
        for value, name in zip(region.outputs, outputs, strict=True):
            if wanted.get(value) != name and (value.tensor is not None or value in body.value_names):
                body.emit("Identity", [body.name_of(value)], [name])


def _emit_carried(emission: Emission) -> None:
    """The operator on float32, its narrow operands and results cast."""
    body, inputs = emission.body, emission.node.inputs
    for i, name in enumerate(emission.inputs):
        value = inputs[i]
        if value is not None and value.type.dtype in NARROW_FLOATS:
            emission.inputs[i] = body.emit("Cast", [name], to=FLOAT32)
    casts: list[tuple[str, str, DType]] = []
    for i, value in enumerate(emission.node.outputs):
        if value.type.dtype in NARROW_FLOATS:
            wide = body.names.fresh(f"{emission.outputs[i]}_wide")
            casts.append((wide, emission.outputs[i], value.type.dtype))
            emission.outputs[i] = wide
    find_rule(emission.op.name)(emission)
    for wide, name, element in casts:
        body.emit("Cast", [wide], [name], to=element)


def value_info(name: str, type: TensorType) -> onnx.ValueInfoProto:
    """The declaration of a graph input or output; sizes that are expressions stay open."""
    shape = [d if isinstance(d, int) else plain_symbol(d) for d in type.shape]
    return onnx.helper.make_tensor_value_info(name, type_number(type.dtype), shape)
