"""Arithmetic on element types without native arithmetic, computed in wider types."""

from __future__ import annotations

from dataclasses import replace

from lepton_compiler.analysis.weights import product_of_converted
from lepton_compiler.backends.tvm.capabilities import CONTROL, KERNELS, PRODUCTS, element_types, handles_codes, reads_narrow
from lepton_compiler.backends.tvm.carriers import CARRIERS, computed
from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ir.op import Op
from lepton_compiler.ir.traverse import bodies
from lepton_compiler.ir.types import DTYPES, FLOAT16, FLOAT32, INT8, UINT8, DType, TensorType
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.cast import Cast
from lepton_compiler.target import Target

BFLOAT16 = DTYPES["bfloat16"]

EXPONENT_ONLY = "float8_e8m0fnu"
"""A type of powers of two, without zero and sign: scales are stored in it, nothing is computed in it."""


def widen(graph: Graph, target: Target | None = None) -> int:
    """Add(x: bfloat16, y)  -->  Cast(Add(Cast(x, float32), Cast(y, float32)), bfloat16), in nested graphs too.

    That is how the evaluator defines operators on narrow floats, so that the results are equal. Integers wrap around at their width, in
    the wide type's low bits as in the narrow type. Of float16, which kernels convert by themselves, products are widened too, so that
    operands that are read many times are converted once, and what is to be decomposed, so that it is rounded once. Products stay as they
    are on a target that reads such numbers. Returns how many nodes were changed.
    """
    count = 0
    for part in list(bodies(graph)):
        known: dict[Value, Value] = {}
        for node in [n for n in part.nodes if not reads_narrow(n, target) and _is_narrow_arithmetic(n)]:
            _widen(node, known)
            count += 1
    return count


def _is_narrow_arithmetic(node: Node) -> bool:
    if node.op.name in CONTROL | {"Fused"} or handles_codes(node) or EXPONENT_ONLY in element_types(node):
        return False
    made = getattr(node.op, "dtype", None)
    composite = node.op.name not in KERNELS
    narrow = CARRIERS.keys() | ({FLOAT16.name} if composite or node.op.name in PRODUCTS else set())
    return any(v.type.dtype.name in narrow for v in node.present_inputs) or (isinstance(made, DType) and made.name in narrow)


def _widen(node: Node, known: dict[Value, Value]) -> None:
    graph, build = node.graph, Builder(node.graph, before=node, loc=node.loc.by("widen"))
    shared = node.op.name in PRODUCTS
    wide = build.node(_computing(node.op), [None if v is None else _as_computed(build, v, known, shared) for v in node.inputs])
    names = [out.name for out in node.outputs]
    for old, new in zip(node.outputs, wide.outputs, strict=True):
        new.type = TensorType(new.type.dtype, old.type.shape)
    results = [_rounded(build, new, old.type.dtype) for old, new in zip(node.outputs, wide.outputs, strict=True)]
    for old, new in zip(node.outputs, results, strict=True):
        graph.replace_all_uses(old, new)
    graph.remove(node)
    for new, name in zip(results, names, strict=True):
        graph.rename(new, name)


def _computing(op: Op) -> Op:
    """The operator with a wide result, where an attribute decides its type."""
    element = getattr(op, "dtype", None)
    return replace(op, dtype=computed(element)) if isinstance(element, DType) else op  # type: ignore[call-arg]


def _rounded(build: Builder, value: Value, element: DType) -> Value:
    """`value` in the type that the operator gives: what is too large overflows rather than saturates."""
    return value if value.type.dtype == element else build(Cast(to=element, saturate=False), value)


def _as_computed(build: Builder, value: Value, known: dict[Value, Value], shared: bool) -> Value:
    """`value` in the type that operators compute in; the conversion is shared where no kernel takes it in."""
    wide = FLOAT32 if value.type.dtype == FLOAT16 else computed(value.type.dtype)
    if wide == value.type.dtype:
        return value
    if not shared and value.tensor is None:
        return build(Cast(to=wide), value)
    if value not in known:
        known[value] = build(Cast(to=wide), value)
    return known[value]


DECODED = frozenset({BFLOAT16, FLOAT16, INT8, UINT8, DTYPES["int4"], DTYPES["uint4"]})
"""Types from which an instruction or two make a vector of numbers, so that products read weights faster than in the wider type."""


def convert_constants(graph: Graph, small: bool) -> None:
    """Cast(constant)  -->  constant, whatever its size, except where a product can convert its weights as it reads them.

    It does so for types of which that is fast, or (`small`) for all.
    """
    for part in list(bodies(graph)):
        for node in part.nodes:
            source = node.present_inputs[0] if node.op.name == "Cast" else None
            if source is None or source.tensor is None:
                continue
            shorter = source.type.nbytes < node.output.type.nbytes
            if shorter and (small or source.type.dtype in DECODED) and product_of_converted(node) is not None:
                continue
            (array,) = node.op.evaluate(source.numpy())
            name = node.output.name
            constant = part.constant(array, name)
            part.replace_all_uses(node.output, constant)
            part.remove(node)
            part.rename(constant, name)
