"""What an opset lacks is spelled out by the operators' decompositions, on a copy of the graph."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from lepton_compiler.backends.onnx.rules import trees
from lepton_compiler.backends.onnx.tensors import ONNX_NAMES
from lepton_compiler.errors import Diagnostic, UnsupportedError
from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ir.op import Op
from lepton_compiler.ir.types import DTYPES, FLOAT32
from lepton_compiler.ops.decompose import decomposition_of, expand_where
from lepton_compiler.ops.dynamic import Dynamic
from lepton_compiler.ops.resize import Resize
from lepton_compiler.ops.signal import DFT, STFT

NARROW_FLOATS = frozenset(t for t in DTYPES.values() if t.is_float and t.bits < FLOAT32.bits)

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
    expand_where(copy, lambda node: not exists(node, opset) or is_better_spelled_out(node))
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
    return _takes(node, opset, {}) or is_carried(node, opset)


def is_carried(node: Node, opset: int) -> bool:
    """Whether `opset` has the operator for float32 but not for the narrower floats of its data.

    Narrow floats are computed in float32 and rounded once, so that casts before and after say the same.
    """
    op = _operator(node)
    if not onnx.defs.has(op.name, opset, "") or op.name in ANY_TYPE or decomposition_of(op) is not None:
        return False
    return not _takes(node, opset, {}) and _takes(node, opset, {element.name: FLOAT32.name for element in NARROW_FLOATS})


def _takes(node: Node, opset: int, carriers: Mapping[str, str]) -> bool:
    """Whether the operator takes the type of the first operand and result, once some types are replaced by their carriers."""
    schema = onnx.defs.get_schema(_operator(node).name, opset, "")
    pairs = [*zip(schema.inputs[:1], node.inputs[:1], strict=False), *zip(schema.outputs[:1], node.outputs[:1], strict=False)]
    names = [carriers.get(v.type.dtype.name, v.type.dtype.name) if v is not None else None for _, v in pairs]
    return all(
        name is None or f"tensor({ONNX_NAMES.get(name, '').lower()})" in formal.types
        for (formal, _), name in zip(pairs, names, strict=True)
    )


def is_better_spelled_out(node: Node) -> bool:
    """Whether runtimes agree on the decomposition but not, or less precisely, on the operator."""
    return is_short_transform(node.op, node.inputs[0]) or (isinstance(node.op, Resize) and is_uneven(node.op, node.inputs[0]))


def is_uneven(op: Resize, x: Value | None) -> bool:
    """Whether corners are aligned for a size that is not a whole number: ONNX Runtime aligns those of the size rounded down."""
    if (
        op.coordinate_transformation_mode != "align_corners"
        or x is None
        or not (x.type.is_static and all(isinstance(s, int) for s in op.sizes))
    ):
        return False
    return any(size * scale != int(size * scale) for size, scale in zip(x.type.static_shape, op.scales, strict=False))


def is_short_transform(op: Op, signal: Value | None) -> bool:
    """Whether this is a Fourier transform of a short length that is known."""
    if signal is None or not isinstance(op, (DFT, STFT)):
        return False
    length = op.transform_length(signal.type) if isinstance(op, DFT) else op.frame_length
    return isinstance(length, int) and length <= SHORT_TRANSFORM


def _operator(node: Node) -> Op:
    return node.op.template if isinstance(node.op, Dynamic) else node.op


def _missing(node: Node, opset: int) -> Diagnostic:
    name, x = _operator(node).name, next((v for v in (*node.inputs, *node.outputs) if v is not None), None)
    if x is not None and onnx.defs.has(name, opset, ""):
        return Diagnostic(f"{name} of ONNX opset {opset} does not take {x.type.dtype}", node.describe(), "choose a newer opset")
    if name == "Fail":
        hint = "make the input that chooses the branch a constant: inputs={'NAME': array}"
        return Diagnostic(str(getattr(node.op, "message")), node.describe(), hint)  # noqa: B009
    return Diagnostic(f"ONNX opset {opset} has no {name}", node.describe(), "choose a newer opset")
