"""What an import rule sees: one ONNX node, its operands as lepton values, and the means to add nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from lepton_compiler.errors import LeptonError, ModelError, UnsupportedError
from lepton_compiler.frontends.onnx.scope import Scope
from lepton_compiler.frontends.onnx.weights import element_type, read_tensor
from lepton_compiler.ir.dim import Dim
from lepton_compiler.ir.graph import Graph, Loc, Value, infer_types
from lepton_compiler.ir.op import Op
from lepton_compiler.ir.types import DType, TensorType
from lepton_compiler.ops.dynamic import Dynamic, attribute_from_array

if TYPE_CHECKING:
    from lepton_compiler.frontends.onnx.importer import Importer

FOLD_BYTES = 64 * 1024
FOLD_OPERATIONS = 4_000_000
KEPT = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
"""Operators that stay where they are even on constants: they carry the model's quantization."""

Result = Value | Sequence[Value]


class Call:
    """One ONNX node on its way into the graph.

    Attributes:
        proto: the node.
        version: opset version of its domain.
        inputs: operands; None where absent.
        scope: names in sight.
        graph: where nodes go.
    """

    def __init__(
        self, importer: Importer, scope: Scope, proto: onnx.NodeProto, version: int, inputs: Sequence[Value | None], loc: Loc
    ) -> None:
        self.importer, self.scope, self.proto, self.version, self.loc = importer, scope, proto, version, loc
        self.inputs, self.graph = list(inputs), scope.graph
        self._attributes = {a.name: a for a in proto.attribute}

    # -- reading the node

    @property
    def op_type(self) -> str:
        """The ONNX operator."""
        return str(self.proto.op_type)

    @property
    def output_count(self) -> int:
        """How many outputs the node lists, skipped ones included."""
        return len(self.proto.output)

    def wants(self, index: int) -> bool:
        """Whether the model names that output."""
        return index < len(self.proto.output) and bool(self.proto.output[index])

    def value(self, index: int) -> Value:
        """A required operand.

        Raises:
            ModelError: it is absent.
        """
        found = self.optional(index)
        if found is None:
            raise ModelError(f"operand {index} is missing")
        return found

    def optional(self, index: int) -> Value | None:
        """An operand, or None."""
        return self.inputs[index] if index < len(self.inputs) else None

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute as int, float, str, tuple, `onnx.TensorProto` or `onnx.GraphProto`; `default` where absent.

        Floats come as the shortest decimal that means the same float32.
        """
        proto = self._attribute(name)
        return default if proto is None else attribute_value(proto)

    def _attribute(self, name: str) -> onnx.AttributeProto | None:
        """The attribute, that of the enclosing function's call where it refers to one."""
        proto = self._attributes.get(name)
        return self.scope.bindings.get(proto.ref_attr_name) if proto is not None and proto.ref_attr_name else proto

    def array(self, name: str) -> np.ndarray | None:
        """An attribute of many numbers as an array: int64, float32, or the type of a tensor; None where absent.

        Raises:
            ModelError: an attribute of another kind.
        """
        proto = self._attribute(name)
        if proto is None:
            return None
        match proto.type:
            case onnx.AttributeProto.INTS:
                return np.array(proto.ints, np.int64)
            case onnx.AttributeProto.FLOATS:
                return np.array(proto.floats, np.float32)
            case onnx.AttributeProto.TENSOR:
                return read_tensor(proto.t, self.importer.folder).numpy()
        raise ModelError(f"attribute '{name}' should be a list of numbers or a tensor")

    def has(self, name: str) -> bool:
        """Whether the attribute is given."""
        return self.attr(name) is not None

    def dtype_attr(self, name: str, default: DType | None = None) -> DType | None:
        """An attribute that holds an element type; 0 counts as absent."""
        number = self.attr(name)
        return element_type(number) if number else default

    # -- what is known

    def known(self, value: Value) -> np.ndarray | None:
        """The elements, where they are known: a constant of any type, or symbolic contents as an object array."""
        return value.numpy() if value.is_constant else value.content

    def known_ints(self, value: Value) -> tuple[int, ...] | None:
        """The elements as plain integers, where all are known as numbers."""
        content = self.known(value)
        if content is None or not all(isinstance(d, (int, np.integer, np.bool_, np.floating)) for d in content.reshape(-1)):
            return None
        return tuple(int(d) for d in content.reshape(-1))

    def known_dims(self, value: Value) -> tuple[Dim, ...] | None:
        """The elements as dimensions, where they are known."""
        content = self.known(value)
        if content is None:
            return None
        return tuple(int(d) if isinstance(d, (int, np.generic)) else d for d in content.reshape(-1))

    # -- building

    def constant(self, array: Any, name: str = "") -> Value:
        """A constant of the graph."""
        base = name or (next((o for o in self.proto.output if o), self.op_type.lower()) + "_const")
        return self.graph.constant(np.asarray(array), base)

    def ints(self, values: Sequence[int]) -> Value:
        """An int64 vector."""
        return self.constant(np.array(values, np.int64))

    def like(self, value: Value, number: float) -> Value:
        """A scalar constant of the element type of `value`."""
        return self.constant(np.array(number).astype(value.type.dtype.numpy))

    def add(self, op: Op, *inputs: Value | None) -> Value:
        """Apply an operator; its first output."""
        return self.add_all(op, *inputs)[0]

    def add_all(self, op: Op, *inputs: Value | None, regions: Sequence[Graph] = ()) -> tuple[Value, ...]:
        """Apply an operator; all its outputs, as constants where they are small and known now."""
        operands = list(inputs)
        while operands and operands[-1] is None:
            operands.pop()
        folded = self._fold(op, operands) if not regions else None
        if folded is not None:
            return folded
        self.importer.count_node()
        base = next((o for o in self.proto.output if o), "")
        names = [f"{base}/{op.name.lower()}"] * 16 if base else []
        node = self.graph.add(op, operands, names=names, regions=regions, loc=self.loc)
        for out in node.outputs:
            self.importer.check_size(out.type)
        return self._settled(node.outputs)

    def parametric(self, template: Op, data: Sequence[Value | None], **params: Value | None) -> tuple[Value, ...]:
        """Apply an operator some of whose attributes ONNX passes as tensors.

        Known ones become attributes of `template`; if any is only known at run time the node is a `Dynamic`.
        """
        late: dict[str, Value] = {}
        given: dict[str, Any] = {}
        kinds = {name: str(field.type) for name, field in template.__dataclass_fields__.items()}
        for name, value in params.items():
            if value is None:
                continue
            content = self.known(value)
            if content is None:
                late[name] = value
            else:
                given[name] = attribute_from_array(content, "tuple" in kinds[name])
        op = replace(template, **given)
        if not late:
            return self.add_all(op, *data)
        return self.add_all(Dynamic(op, tuple(late)), *data, *late.values())

    def _fold(self, op: Op, operands: Sequence[Value | None]) -> tuple[Value, ...] | None:
        """The outputs as constants, if the operands are constants and the work is small."""
        if op.has_regions or op.name in KEPT or not all(v is None or v.is_constant for v in operands):
            return None
        types = [v.type if v is not None else None for v in operands]
        if sum(t.nbytes for t in types if t) > FOLD_BYTES:
            return None
        results = infer_types(op, operands)
        if not all(t.is_static and t.nbytes <= FOLD_BYTES for t in results):
            return None
        cost = op.cost(types, results)
        if cost.macs + cost.ops > FOLD_OPERATIONS:
            return None
        try:
            with np.errstate(all="ignore"):
                arrays = op.evaluate(*(v if v is None else v.numpy() for v in operands))
        except (LeptonError, ValueError, TypeError, IndexError, ZeroDivisionError, OverflowError, np.linalg.LinAlgError):
            return None  # the node stays, and fails when it runs
        return tuple(self.constant(np.asarray(a).astype(t.dtype.numpy, copy=False)) for a, t in zip(arrays, results, strict=True))

    def _settled(self, outputs: tuple[Value, ...]) -> tuple[Value, ...]:
        """The outputs, replaced by constants if their contents came out as plain numbers."""
        contents = [out.content for out in outputs]
        if any(c is None or not all(isinstance(d, (int, np.integer, bool, np.bool_)) for d in c.reshape(-1)) for c in contents):
            return outputs
        node = outputs[0].producer
        constants = tuple(
            self.constant(np.array(c.tolist(), out.type.dtype.numpy)) for c, out in zip(contents, outputs, strict=True) if c is not None
        )
        if node is not None:
            self.graph.remove(node)
        return constants


def attribute_value(proto: onnx.AttributeProto) -> Any:
    """The Python value of an attribute.

    Raises:
        ModelError: a kind that no attribute of a supported operator has.
        UnsupportedError: a sparse tensor or type where only tensors are supported.
    """
    kinds = onnx.AttributeProto
    match proto.type:
        case kinds.FLOAT:
            return shortest(proto.f)
        case kinds.INT:
            return int(proto.i)
        case kinds.STRING:
            return proto.s.decode("utf-8")
        case kinds.TENSOR:
            return proto.t
        case kinds.GRAPH:
            return proto.g
        case kinds.SPARSE_TENSOR:
            return proto.sparse_tensor
        case kinds.FLOATS:
            return tuple(shortest(f) for f in proto.floats)
        case kinds.INTS:
            return tuple(int(i) for i in proto.ints)
        case kinds.STRINGS:
            return tuple(s.decode("utf-8") for s in proto.strings)
        case kinds.UNDEFINED:
            raise ModelError(f"attribute '{proto.name}' has no type")
    raise UnsupportedError(f"attribute '{proto.name}' is of a kind that is not supported")


def shortest(number: float) -> float:
    """The shortest decimal that rounds to the same float32: 0.1 and not 0.10000000149."""
    return float(str(np.float32(number)))


def tensor_of(call: Call, proto: onnx.TensorProto) -> np.ndarray:
    """The values of a tensor attribute."""
    return read_tensor(proto, call.importer.folder).numpy()


def static(type: TensorType, axis: int) -> Dim:
    """A dimension by a possibly negative axis.

    Raises:
        ModelError: no such axis.
    """
    if not -type.rank <= axis < type.rank:
        raise ModelError(f"axis {axis} is out of range for {type}")
    return type.shape[axis]
