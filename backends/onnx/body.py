"""One ONNX graph under construction, and what an emission rule sees of a node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from lepton_compiler.backends.onnx.tensors import type_number
from lepton_compiler.errors import UnsupportedError
from lepton_compiler.ir.dim import Dim, SymDim
from lepton_compiler.ir.graph import Node, Value
from lepton_compiler.ir.op import Op
from lepton_compiler.ir.tensor import Tensor
from lepton_compiler.ir.types import INT64, DType, TensorType

Attribute = Any
ML_DOMAIN = "ai.onnx.ml"
ML_VERSION = 3
"""The version of `ML_DOMAIN` that is emitted: the last whose trees every ONNX Runtime of these years has."""


class Names:
    """Names that are unique in the whole model, nested graphs included."""

    def __init__(self, reserved: Sequence[str]) -> None:
        self._taken = set(reserved)

    def fresh(self, base: str) -> str:
        """`base`, or `base_1`, ... if that is taken."""
        name, n = base or "value", 0
        while name in self._taken:
            n += 1
            name = f"{base}_{n}"
        self._taken.add(name)
        return name


class Body:
    """Nodes of one graph, and the names of lepton's values in it.

    Args:
        opset: the opset to emit.
        names: unique names of the model.
        constants: name to tensor, shared by all graphs of the model.
        parent: the graph around this one, whose names are in sight.
    """

    def __init__(self, opset: int, names: Names, constants: dict[str, Tensor], parent: Body | None = None) -> None:
        self.opset, self.names, self.constants, self.parent = opset, names, constants, parent
        self.node_names: Names = parent.node_names if parent is not None else Names(())
        self.domains: set[str] = parent.domains if parent is not None else set()
        self.nodes: list[onnx.NodeProto] = []
        self.value_names: dict[Value, str] = {}
        self.sizes: dict[str, tuple[str, int]] = dict(parent.sizes) if parent is not None else {}
        self._tensors: dict[int, str] = parent._tensors if parent is not None else {}
        self._dims: dict[Dim, str] = {}

    def name_of(self, value: Value) -> str:
        """The name of a value that has been emitted; constants become initialisers of the model."""
        if value.tensor is not None:
            return self.constant(value.tensor, value.name)
        return self.value_names[value]

    def bind(self, value: Value, name: str) -> None:
        """Say what a value is called, and learn which sizes can be read off it."""
        self.value_names[value] = name
        for axis, dim in enumerate(value.type.shape):
            if (symbol := plain_symbol(dim)) is not None:
                self.sizes.setdefault(symbol, (name, axis))

    def constant(self, tensor: Tensor, name: str = "const") -> str:
        """The initialiser with these values; the same tensor is stored once."""
        if id(tensor) not in self._tensors:
            self._tensors[id(tensor)] = self.names.fresh(name)
            self.constants[self._tensors[id(tensor)]] = tensor
        return self._tensors[id(tensor)]

    def array(self, array: Any, name: str = "const") -> str:
        """A new initialiser."""
        fresh = self.names.fresh(name)
        self.constants[fresh] = Tensor(array)
        return fresh

    def emit(
        self,
        op_type: str,
        inputs: Sequence[str],
        outputs: Sequence[str] | None = None,
        name: str = "",
        domain: str = "",
        **attributes: Attribute,
    ) -> str:
        """Append a node; attributes that are None are left out. Gives the first output."""
        outputs = [self.names.fresh(op_type.lower())] if outputs is None else list(outputs)
        inputs = list(inputs)
        while inputs and not inputs[-1]:
            inputs.pop()
        given = {key: value for key, value in attributes.items() if value is not None}
        node = onnx.helper.make_node(
            op_type, inputs, outputs, name=self.node_names.fresh(name or f"{outputs[0]}/{op_type}"), domain=domain or None
        )
        self.domains.add(domain)
        node.attribute.extend(_attribute(key, value) for key, value in sorted(given.items()))
        self.nodes.append(node)
        return outputs[0]

    # -- sizes

    def dims(self, dims: Sequence[Dim]) -> str:
        """An int64 vector of dimensions, computed at run time where some are symbolic."""
        if all(isinstance(d, int) for d in dims):
            return self.array(np.array(dims, np.int64), "dims")
        parts = [self.array(np.array([d], np.int64), "dims") if isinstance(d, int) else self.size(d) for d in dims]
        return parts[0] if len(parts) == 1 else self.emit("Concat", parts, axis=0)

    def size(self, dim: Dim) -> str:
        """An int64 vector of one element that holds `dim`.

        Raises:
            UnsupportedError: it depends on a size that no value in sight has.
        """
        if isinstance(dim, int):
            return self.array(np.array([dim], np.int64), "size")
        if dim not in self._dims:
            self._dims[dim] = self._sum(dim)
        return self._dims[dim]

    def _sum(self, dim: SymDim) -> str:
        total = ""
        for atoms, factor in dim.terms:
            product = "" if atoms and factor == 1 else self.array(np.array([factor], np.int64), "size")
            for atom in atoms:
                part = self._symbol(atom) if isinstance(atom, str) else self._operation(*atom)
                product = self.emit("Mul", [product, part]) if product else part
            total = self.emit("Add", [total, product]) if total else product
        return total

    def _symbol(self, name: str) -> str:
        if name not in self.sizes:
            raise UnsupportedError(
                f"the size '{name}' is not the size of any value in sight", hint="bind it with inputs=, --input or --dim"
            )
        value, axis = self.sizes[name]
        return self.emit("Gather", [self.emit("Shape", [value]), self.array(np.array([axis], np.int64), "axis")], axis=0)

    def _operation(self, kind: str, a: Dim, b: Dim) -> str:
        left, right = self.size(a), self.size(b)
        if kind != "//":
            return self.emit("Max" if kind == "max" else "Min", [left, right])
        return self.emit("Div", [self.emit("Sub", [left, self.emit("Mod", [left, right])]), right])  # rounds down, Div alone rounds to zero


class Emission:
    """One lepton node on its way into a `Body`.

    Attributes:
        op: the operator, the template where some attributes come at run time.
        inputs: names of the operands, "" where absent, without those that supply attributes.
        outputs: names of the results.
        late: attribute to name of the operand that supplies it.
    """

    def __init__(self, body: Body, node: Node, op: Op, inputs: Sequence[str], outputs: Sequence[str], late: Mapping[str, str]) -> None:
        self.body, self.node, self.op, self.late = body, node, op, late
        self.inputs, self.outputs = list(inputs), list(outputs)
        self.opset = body.opset

    @property
    def types(self) -> list[TensorType | None]:
        """Types of the operands."""
        return [v.type if v is not None else None for v in self.node.inputs]

    @property
    def x(self) -> TensorType:
        """Type of the first operand."""
        value = self.node.inputs[0]
        assert value is not None
        return value.type

    def emit(self, op_type: str, inputs: Sequence[str], **attributes: Attribute) -> None:
        """The last node: it computes the node's results."""
        self.body.emit(op_type, inputs, self.outputs, name=self.label, **attributes)

    @property
    def label(self) -> str:
        """The source node's name."""
        return "/".join(self.node.loc.sources[:1])

    def vector(self, attribute: str, element: DType = INT64) -> str:
        """A tuple attribute as a vector operand."""
        if attribute in self.late:
            return self._cast(attribute, element)
        value = getattr(self.op, attribute)
        return self.body.dims(value) if element == INT64 else self.body.array(np.array(value, element.numpy), attribute)

    def scalar(self, attribute: str, element: DType = INT64) -> str:
        """A plain attribute as a scalar operand."""
        if attribute in self.late:
            name = self._cast(attribute, element)
            rank = self._late_type(attribute).rank
            return self.body.emit("Reshape", [name, self.body.array(np.zeros(0, np.int64))]) if rank else name
        value = getattr(self.op, attribute)
        if isinstance(value, SymDim):
            size = self.body.emit("Reshape", [self.body.size(value), self.body.array(np.zeros(0, np.int64))])
            return size if element == INT64 else self.body.emit("Cast", [size], to=type_number(element))
        return self.body.array(np.array(value, element.numpy), attribute)

    def static(self, *attributes: str) -> None:
        """Insist that attributes are known, as numbers.

        Raises:
            UnsupportedError: one of them is not.
        """
        for attribute in attributes:
            value = getattr(self.op, attribute)
            if attribute in self.late or any(isinstance(d, SymDim) for d in (value if isinstance(value, tuple) else (value,))):
                raise UnsupportedError(f"ONNX wants '{attribute}' of {self.op.name} as a number", hint="bind the symbolic dimensions")

    def constant(self, value: Value) -> np.ndarray:
        """The elements of an operand that ONNX has as an attribute.

        Raises:
            UnsupportedError: they are only known at run time.
        """
        if value.tensor is None:
            raise UnsupportedError(f"ONNX wants operand '{value.name}' of {self.op.name} as a constant", hint="fold the constants first")
        return value.tensor.numpy()

    def _late_type(self, attribute: str) -> TensorType:
        index = len(self.node.inputs) - len(self.late) + list(self.late).index(attribute)
        value = self.node.inputs[index]
        assert value is not None
        return value.type

    def _cast(self, attribute: str, element: DType) -> str:
        name = self.late[attribute]
        return name if self._late_type(attribute).dtype == element else self.body.emit("Cast", [name], to=type_number(element))


def plain_symbol(dim: Dim) -> str | None:
    """The name of a dimension that is just a name."""
    if isinstance(dim, SymDim) and len(dim.terms) == 1 and dim.terms[0][1] == 1 and len(dim.terms[0][0]) == 1:
        atom = dim.terms[0][0][0]
        return atom if isinstance(atom, str) else None
    return None


def _attribute(key: str, value: Attribute) -> onnx.AttributeProto:
    if isinstance(value, bool):
        value = int(value)
    if isinstance(value, DType):
        value = type_number(value)
    if isinstance(value, tuple):
        value = [int(v) if isinstance(v, bool) else v for v in value]
        if not value:
            return onnx.helper.make_attribute(key, value, attr_type=onnx.AttributeProto.INTS)
    return onnx.helper.make_attribute(key, value)
