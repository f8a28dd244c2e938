"""ONNX models to lepton graphs: the walk over nodes, and the collection of everything that is wrong."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import onnx

from lepton_compiler.errors import Diagnostic, InferenceError, LeptonError, ModelError, UnsupportedError
from lepton_compiler.frontends.onnx.binding import Binding
from lepton_compiler.frontends.onnx.call import Call
from lepton_compiler.frontends.onnx.functions import expanded_size, find_body, inline
from lepton_compiler.frontends.onnx.load import load_model, opset_versions
from lepton_compiler.frontends.onnx.rules import find_rule
from lepton_compiler.frontends.onnx.scope import FAILED, Entry, Failed, Scope, execution_order, nested_graphs
from lepton_compiler.frontends.onnx.tflite_origin import is_converted_from_tflite, restore_averages
from lepton_compiler.frontends.onnx.unsupported import PRINCIPLES, unsupported
from lepton_compiler.frontends.onnx.weights import read_sparse, read_tensor
from lepton_compiler.ir.graph import Graph, Loc, Value
from lepton_compiler.ir.tensor import Tensor
from lepton_compiler.ir.types import TensorType
from lepton_compiler.ops import get

NODE_LIMIT = 300_000
ELEMENT_LIMIT = 2**40
DEPTH_LIMIT = 60
"""Deepest nesting of graphs and function calls while they are inlined."""

MALFORMED = (ValueError, TypeError, IndexError, KeyError, AttributeError, ArithmeticError, MemoryError, RecursionError)
"""What a rule or an operator runs into when a hostile model gives it attributes of the wrong kind or size."""


def import_onnx(
    source: os.PathLike[str] | str | bytes | onnx.ModelProto,
    inputs: Mapping[str, Any] | None = None,
    dims: Mapping[str, int] | None = None,
) -> Graph:
    """Import an ONNX model of any opset into lepton's own operator set.

    Args:
        source: a path, the bytes of a file, or a loaded model.
        inputs: by input name, either a shape (which binds symbolic dimensions), a `TensorType`,
            or an array: then the input becomes that constant.
        dims: sizes of symbolic dimensions, by the name in the model or its form as an identifier.

    Returns:
        A graph whose inputs, outputs and values have the model's names. Shape arithmetic that is known is gone.

    Raises:
        ModelError: the model is malformed; one diagnostic per problem.
        UnsupportedError: everything that is wrong is operators or types that lepton does not have.
        UsageError: `inputs` or `dims` do not fit the model.
    """
    model, folder = load_model(source)
    try:
        return Importer(model, folder, Binding(inputs or {}, dims or {})).run()
    except UnicodeDecodeError as error:
        raise ModelError("a name in the model is not valid UTF-8: the file is damaged") from error


class Importer:
    """The state of one import.

    Args:
        model: the model, its outline checked.
        folder: where external data lies, or None.
        binding: what the caller says about inputs and dimensions.
    """

    def __init__(self, model: onnx.ModelProto, folder: Any, binding: Binding) -> None:
        self.model, self.folder, self.binding = model, folder, binding
        self.functions = {(_domain(f.domain), f.name, f.overload): f for f in model.functions}
        self.diagnostics: list[Diagnostic] = []
        self.kinds: set[type[LeptonError]] = set()
        self.causes: list[Exception] = []
        self.depth = 0
        self.named: set[Value] = set()
        self._nodes = 0

    def run(self) -> Graph:
        """The whole model."""
        proto = self.model.graph
        if expanded_size(self.model, self.functions) > NODE_LIMIT:
            raise ModelError(f"the model has more than {NODE_LIMIT} nodes once its functions are inlined")
        graph = Graph(proto.name or "main")
        scope = Scope(graph, opset_versions(list(self.model.opset_import)))
        self._read_inputs(proto, scope)
        self.import_nodes(proto, scope)
        outputs = [self._output(scope, v.name) for v in proto.output]
        if len({v.name for v in proto.output}) != len(proto.output):
            self.report(ModelError("an output is listed twice", where="graph outputs"))
        if self.diagnostics:
            raise self._verdict()
        taken: set[Value] = set()
        graph.set_outputs(
            [_named(graph, found, v.name, taken) for found, v in zip(outputs, proto.output, strict=True) if isinstance(found, Value)]
        )
        if is_converted_from_tflite(self.model):
            restore_averages(graph)
        return graph

    # -- graphs

    def import_nodes(self, proto: onnx.GraphProto, scope: Scope) -> None:
        """Constants and nodes of a graph; problems are noted and the rest goes on."""
        self._read_constants(proto, scope)
        self.import_node_list(proto.node, scope)

    def import_node_list(self, nodes: Sequence[onnx.NodeProto], scope: Scope) -> None:
        """The nodes in an order that can be executed."""
        order, cycle = execution_order(nodes)
        if cycle:
            names = ", ".join(f"'{n.name or (n.output[0] if n.output else n.op_type)}'" for n in cycle[:5])
            self.report(ModelError(f"nodes depend on each other in a circle: {names}" + (" ..." if len(cycle) > 5 else "")))
            for node in cycle:
                _define_all(scope, node, FAILED)
        for node in order:
            self._import_node(node, scope)

    def import_region(
        self, proto: onnx.GraphProto, scope: Scope, inputs: Sequence[TensorType], name: str
    ) -> tuple[Graph, Scope, list[Value]] | None:
        """A nested graph as an isolated region.

        Args:
            proto: the nested graph.
            scope: the scope around it.
            inputs: types of its formal inputs.
            name: of the region.

        Returns:
            The region with its outputs set, its scope (for captures), and its outputs; None if it has errors.
        """
        if len(inputs) != len(proto.input):
            raise ModelError(f"graph '{proto.name}' has {len(proto.input)} inputs, the operator gives it {len(inputs)}")
        region = Graph(name)
        inner = Scope(region, scope.opsets, scope)
        for formal, type in zip(proto.input, inputs, strict=True):
            inner.define(formal.name, region.add_input(formal.name, type))
        outputs = self.import_inline(proto, inner)
        if outputs is None:
            return None
        region.set_outputs(outputs)
        return region, inner, outputs

    def import_inline(self, proto: onnx.GraphProto, scope: Scope) -> list[Value] | None:
        """The nodes of a nested graph right here; its outputs, or None if some have errors."""
        self.depth += 1
        if self.depth > DEPTH_LIMIT:
            raise ModelError(f"graphs and functions are nested more than {DEPTH_LIMIT} deep")
        try:
            self.import_nodes(proto, scope)
            found = [self._output(scope, v.name) for v in proto.output]
        finally:
            self.depth -= 1
        return None if any(not isinstance(v, Value) for v in found) else [v for v in found if isinstance(v, Value)]

    # -- bookkeeping for rules

    def count_node(self) -> None:
        """Count one more node.

        Raises:
            ModelError: functions or branches multiply without end.
        """
        self._nodes += 1
        if self._nodes > NODE_LIMIT:
            raise ModelError(f"the model has more than {NODE_LIMIT} nodes once its functions are inlined")

    def check_size(self, type: TensorType) -> None:
        """Refuse tensors that no machine can hold.

        Raises:
            ModelError: more than 2^40 elements, or a negative size.
        """
        sizes = [d for d in type.shape if isinstance(d, int)]
        if math.prod(sizes) > ELEMENT_LIMIT and 0 not in sizes:
            raise ModelError(f"a tensor {type} is larger than any memory")
        if any(d < 0 for d in sizes):
            raise ModelError(f"a tensor has an impossible shape {type}")

    def report(self, error: LeptonError, where: str = "") -> None:
        """Note a problem and go on."""
        self.kinds.add(type(error))
        self.causes.append(error)
        self.diagnostics += [d if d.where or not where else Diagnostic(d.message, where, d.hint) for d in error.diagnostics]

    def mark(self) -> tuple[int, set[type[LeptonError]], int]:
        """A point to `rewind` to."""
        return len(self.diagnostics), set(self.kinds), len(self.causes)

    def rewind(self, mark: tuple[int, set[type[LeptonError]], int]) -> None:
        """Forget the problems noted since `mark`: they came from an attempt that is made again."""
        del self.diagnostics[mark[0] :]
        self.kinds = mark[1]
        del self.causes[mark[2] :]

    def contradiction(self, mark: tuple[int, set[type[LeptonError]], int]) -> str:
        """The first problem noted since `mark`, if all of them are operators whose operands do not fit each other; else nothing."""
        causes = self.causes[mark[2] :]
        return str(self.diagnostics[mark[0]]) if causes and all(isinstance(c, InferenceError) for c in causes) else ""

    # -- inside

    def _verdict(self) -> LeptonError:
        unique = tuple(dict.fromkeys(self.diagnostics))
        unsupported = all(issubclass(k, UnsupportedError) for k in self.kinds)
        kind = self.kinds.pop() if len(self.kinds) == 1 else UnsupportedError if unsupported else ModelError
        error = kind(unique) if kind is not InferenceError else ModelError(unique)
        error.__cause__ = self.causes[0]
        return error

    def _output(self, scope: Scope, name: str) -> Entry:
        found = scope.find(name)
        if found is None:
            self.report(ModelError("nothing in the model computes it", where=f"output '{name}'"))
            return FAILED
        return found

    def _read_inputs(self, proto: onnx.GraphProto, scope: Scope) -> None:
        constants = {t.name for t in proto.initializer} | {t.values.name for t in proto.sparse_initializer}
        formals = [v for v in proto.input if v.name not in constants or self.binding.frees(v.name)]
        self.binding.check_names([v.name for v in formals], list(proto.input))
        for formal in formals:
            try:
                bound = self.binding.resolve(formal)
                self.check_size(bound.type if isinstance(bound, Tensor) else bound)
                value = scope.graph.constant(bound, formal.name) if isinstance(bound, Tensor) else scope.graph.add_input(formal.name, bound)
                scope.define(formal.name, value)
            except LeptonError as error:
                self.report(error, f"input '{formal.name}'")
                scope.values.setdefault(formal.name, FAILED)
        self.binding.check_dims()

    def _read_constants(self, proto: onnx.GraphProto, scope: Scope) -> None:
        for tensor in [*proto.initializer, *proto.sparse_initializer]:
            sparse = isinstance(tensor, onnx.SparseTensorProto)
            name = tensor.values.name if sparse else tensor.name
            if scope.parent is None and name in scope.values and self.binding.frees(name):
                continue  # the caller made an input of this initialiser
            try:
                read = read_sparse(tensor, self.folder) if sparse else read_tensor(tensor, self.folder)
                value = scope.graph.constant(read, name)
                scope.define(name, value)
                self.named.add(value)
            except LeptonError as error:
                self.report(error, f"initialiser '{name}'")
                scope.values[name] = FAILED
            except MALFORMED as error:
                self.report(ModelError(f"malformed tensor: {error}", where=f"initialiser '{name}'"))
                scope.values[name] = FAILED

    def _import_node(self, proto: onnx.NodeProto, scope: Scope) -> None:
        label = scope.prefix + (proto.name or next((o for o in proto.output if o), proto.op_type))
        where = f"node '{label}' ({proto.op_type})"
        try:
            operands = self._operands(proto, scope, where)
            if operands is None:
                self._report_unsupported(proto, scope)
                _define_all(scope, proto, FAILED)
                return
            results = self._convert(proto, scope, operands, label)
            if results is None:
                _define_all(scope, proto, FAILED)
                return
            self._define_outputs(proto, scope, results)
        except LeptonError as error:
            self.report(error, where)
            _define_all(scope, proto, FAILED)
        except MALFORMED as error:
            text = str(error).splitlines()[0][:200] if str(error) else ""
            problem = ModelError(f"an attribute or operand is of the wrong kind or size ({type(error).__name__}: {text})", where=where)
            problem.__cause__ = error
            self.report(problem)
            _define_all(scope, proto, FAILED)

    def _operands(self, proto: onnx.NodeProto, scope: Scope, where: str) -> list[Value | None] | None:
        """The operands; None if one of them has failed before."""
        operands: list[Value | None] = []
        failed = False
        for name in proto.input:
            found = scope.find(name) if name else None
            if name and found is None:
                self.report(ModelError(f"its input '{name}' is defined nowhere", where=where))
            failed |= isinstance(found, Failed) or (bool(name) and found is None)
            operands.append(found if isinstance(found, Value) else None)
        return None if failed else operands

    def _convert(self, proto: onnx.NodeProto, scope: Scope, operands: list[Value | None], label: str) -> Sequence[Value | None] | None:
        domain = _domain(proto.domain)
        function = self.functions.get((domain, proto.op_type, proto.overload))
        if function is not None:
            return inline(self, function, function.opset_import, proto, scope, operands, label)
        if domain not in scope.opsets:
            raise ModelError(f"the model does not say which version of the operators '{domain or 'ai.onnx'}' it uses")
        call = Call(self, scope, proto, scope.opsets[domain], operands, Loc((label,)))
        rule = find_rule(domain, proto.op_type, call.version)
        if rule is not None:
            result = rule(call)
            return None if result is None else [result] if isinstance(result, Value) else list(result)
        body = None if proto.op_type in PRINCIPLES else find_body(call)
        if body is None:
            raise unsupported(domain, proto.op_type, call.version)
        return inline(self, body, body.opset_import, proto, scope, operands, label)

    def _define_outputs(self, proto: onnx.NodeProto, scope: Scope, results: Sequence[Value | None]) -> None:
        if len(results) < len([o for o in proto.output if o]):
            raise ModelError(f"{proto.op_type} has {len(results)} outputs, the node lists {len(proto.output)}")
        for name, value in zip(proto.output, results, strict=False):
            if not name:
                continue
            if value is None:
                raise UnsupportedError(f"output '{name}' of {proto.op_type} is not supported")
            if value not in self.named and not value.is_input:
                scope.graph.rename(value, name)
                self.named.add(value)
            scope.define(name, value)

    def _report_unsupported(self, proto: onnx.NodeProto, scope: Scope) -> None:
        """List unsupported operators behind a failed one too, so that the user sees all of them at once."""
        domain = _domain(proto.domain)
        version = scope.opsets.get(domain, 0)
        known = (domain, proto.op_type, proto.overload) in self.functions or find_rule(domain, proto.op_type, version) is not None
        if not known and not _has_body(domain, proto.op_type, version):
            self.report(unsupported(domain, proto.op_type, version), f"node '{proto.name or next(iter(proto.output), '?')}'")
        for graph in nested_graphs(proto):
            for node in graph.node:
                self._report_unsupported(node, scope)


def _has_body(domain: str, op_type: str, version: int) -> bool:
    try:
        schema = onnx.defs.get_schema(op_type, max(1, version), domain)
    except onnx.defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _define_all(scope: Scope, proto: onnx.NodeProto, entry: Entry) -> None:
    for name in proto.output:
        if name:
            scope.values.setdefault(name, entry)


def _named(graph: Graph, value: Value, name: str, taken: set[Value]) -> Value:
    """`value` under the name of a model output; an input, or a value that is an output already, is copied by a Cast."""
    if value.tensor is not None:
        result = graph.constant(value.tensor, name)
    elif value.name == name or (not value.is_input and value not in taken):
        result = value
    else:
        result = graph.add(get("Cast")(to=value.type.dtype), [value], names=[f"{name}/cast"], loc=Loc((name,))).output  # type: ignore[call-arg]
    graph.rename(result, name)
    taken.add(result)
    return result
