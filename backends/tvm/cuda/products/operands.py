"""Operands of products: their elements, and whether the generator of tensor cores takes them as they are stored."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx

from lepton_compiler.backends.tvm.cuda.products.builder import Builder
from lepton_compiler.backends.tvm.cuda.products.product import Element, Expr
from lepton_compiler.backends.tvm.cuda.products.weights import are_converted
from lepton_compiler.backends.tvm.cuda.products.zero_points import number_at
from lepton_compiler.backends.tvm.cuda.rules import number_of
from lepton_compiler.backends.tvm.cuda.tensor_cores import Element as TensorElement
from lepton_compiler.backends.tvm.lower.context import Arg, expression

WIDE = 4
"""Elements that a wide load has."""
ZERO = tirx.const(0, "int32")
BYTES = frozenset({"int8", "uint8"})
"""Types of codes, of which tensor cores take any two."""
HALF = 16
"""Bits."""
INTEGER = frozenset({"ConvInteger", "MatMulInteger"})
"""Operators that sum products of codes."""


def stored(arg: Arg, index: Sequence[Expr], kind: str, conditions: tuple[Expr, ...] = ()) -> Element:
    """An element of an operand, which may be computed from what is stored."""
    value = expression(arg, index) if arg.body is not None else arg[index]
    plain = arg.body is None and arg.number is None and arg.dtype == kind == "float32"
    return Element(number_of(value, arg.type.dtype, kind), conditions, (value.source, tuple(value.indices)) if plain else None)


def chunk(arg: Arg, *sizes: int) -> int:
    """How many neighbours lie side by side: 4 where all sizes allow it and elements are read as they are."""
    plain = arg.body is None and arg.number is None and arg.dtype == "float32"
    return WIDE if plain and all(n % WIDE == 0 for n in sizes) else 1


def less(element: Element, zero: Arg | None, channel: Expr | None = None) -> Element:
    """A code less its zero point, in int32."""
    return element if zero is None else Element(element.value - number_at(zero, channel), element.conditions)


def is_plain(b: Builder, x: Arg, w: Arg) -> bool:
    """Whether operands are read as they are stored, and have types that tensor cores, or ordinary ones, multiply with each other."""
    direct = all(a.body is None and a.number is None for a in (x, w))
    names = {a.type.dtype.name for a in (x, w)}
    if b.step.op.name in INTEGER:
        return direct and names <= BYTES and "int8" in b.generated
    return direct and len(names) == 1 and names <= b.generated - {"int8"}


def is_converted(b: Builder, x: Arg, w: Arg, along: int) -> bool:
    """Whether data of floats is read as it is stored, and weights are converted from codes; `along` is their axis of the sum."""
    direct = x.body is None and x.number is None and x.type.dtype == w.type.dtype and x.type.dtype.name in b.generated - {"int8"}
    return direct and are_converted(w, along)


def is_turned(w: Arg) -> bool:
    """Whether a right operand `[K, N]` is a constant that is stored along the sum: bytes and 16-bit floats, which tensor cores read so at their best."""
    return w.constant and w.type.dtype.bits <= HALF


def element_type(x: Arg) -> TensorElement:
    """The generator's name of an operand's type."""
    names: dict[str, TensorElement] = {"float16": "float16", "bfloat16": "bfloat16", "int8": "int8", "uint8": "uint8"}
    return names.get(x.type.dtype.name, "float32")
