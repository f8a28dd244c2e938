"""What an opset lacks is spelled out by the operators' decompositions, on a copy of the graph."""

from __future__ import annotations

import onnx

from lepton_compiler.backends.onnx.rules import trees
from lepton_compiler.backends.onnx.tensors import ONNX_NAMES
from lepton_compiler.errors import Diagnostic, UnsupportedError
from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ir.op import Op
from lepton_compiler.ops.decompose import expand_where
from lepton_compiler.ops.dynamic import Dynamic
from lepton_compiler.ops.signal import DFT, STFT

ANY_TYPE = {"BitShift", "ConstantOfShape", "Range"}
"""Operators whose emission takes care of types, or whose first operand is not their data."""

SHORT_TRANSFORM = 64
"""Up to this length a Fourier transform is spelled out as products, which takes no more time and which every runtime has."""

OWN_NAMES = {"Dynamic", "Fused", "If", "Loop", "Scan"}


def legalized(graph: Graph, opset: int) -> Graph:
    """A copy of `graph` in which every operator exists in `opset`.

    Raises:
        UnsupportedError: operators that neither exist nor have a decomposition, all at once.
    """
    copy = graph.copy()
    expand_where(copy, lambda node: not exists(node, opset) or is_short_transform(node.op, node.inputs[0]))
    if missing := [node for node in copy.walk() if not exists(node, opset)]:
        raise UnsupportedError([_missing(node, opset) for node in missing])
    return copy


def exists(node: Node, opset: int) -> bool:
    """Whether `opset` has the node's operator, for the type of its data."""
    op = _operator(node)
    if op.name in OWN_NAMES or trees.fits(node):
        return True
    if not onnx.defs.has(op.name, opset, ""):
        return False
    if op.name in ANY_TYPE:
        return True
    schema = onnx.defs.get_schema(op.name, opset, "")
    pairs = [*zip(schema.inputs[:1], node.inputs[:1], strict=False), *zip(schema.outputs[:1], node.outputs[:1], strict=False)]
    return all(value is None or _type_name(value) in formal.types for formal, value in pairs)


def is_short_transform(op: Op, signal: Value | None) -> bool:
    """Whether this is a Fourier transform of a short length that is known."""
    if signal is None or not isinstance(op, (DFT, STFT)):
        return False
    length = op.transform_length(signal.type) if isinstance(op, DFT) else op.frame_length
    return isinstance(length, int) and length <= SHORT_TRANSFORM


def _operator(node: Node) -> Op:
    return node.op.template if isinstance(node.op, Dynamic) else node.op


def _type_name(value: Value) -> str:
    name = ONNX_NAMES.get(value.type.dtype.name, "").lower()
    return f"tensor({name})"


def _missing(node: Node, opset: int) -> Diagnostic:
    name, x = _operator(node).name, next((v for v in (*node.inputs, *node.outputs) if v is not None), None)
    if x is not None and onnx.defs.has(name, opset, ""):
        return Diagnostic(f"{name} of ONNX opset {opset} does not take {x.type.dtype}", node.describe(), "choose a newer opset")
    if name == "Fail":
        hint = "make the input that chooses the branch a constant: inputs={'NAME': array}"
        return Diagnostic(str(getattr(node.op, "message")), node.describe(), hint)  # noqa: B009
    return Diagnostic(f"ONNX opset {opset} has no {name}", node.describe(), "choose a newer opset")
