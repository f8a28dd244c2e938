"""Floats as integers in the same order: comparisons that know NaN, infinities and nothing of TVM's algebra.

TVM's `max` has the least finite number as its identity and drops NaN, and its simplifier turns `not a > b` into `a <= b`.
"""

from __future__ import annotations

from tvm import tirx

from lepton_compiler.backends.tvm.lower import scalar as sc
from lepton_compiler.backends.tvm.lower.context import Expr, wide
from lepton_compiler.backends.tvm.outline import outlined

_BITS = {"float32": ("int32", 31, 0x7FFFFFFF), "float64": ("int64", 63, 0x7FFFFFFFFFFFFFFF)}
"""Per float type the integer type of its bits, the place of the sign, and the mask of the rest."""


def order_type(dtype: str) -> str:
    """The type of the keys of elements of type `dtype`."""
    return _BITS[wide(dtype)][0] if wide(dtype) in _BITS else dtype


def order_key(x: Expr, nan_is_largest: bool = True) -> Expr:
    """An integer that compares as `x` does; zeros of either sign are equal, NaN is above or below everything else."""
    kind = wide(sc.type_of(x))
    if kind not in _BITS:
        return x

    def key(v: Expr) -> Expr:
        positive = tirx.Select(v.equal(tirx.const(0, kind)), tirx.const(0, kind), v)
        return tirx.Select(tirx.isnan(v), nan_key(kind, nan_is_largest), _flipped(tirx.reinterpret(_BITS[kind][0], positive), kind))

    return outlined(key, x.astype(kind))


def nan_key(dtype: str, nan_is_largest: bool = True) -> Expr:
    """The key of NaN."""
    integer, _, rest = _BITS[wide(dtype)]
    return tirx.const(rest if nan_is_largest else -rest - 1, integer)


def from_order_key(key: Expr, dtype: str, nan_is_largest: bool = True) -> Expr:
    """The element of type `dtype` that has this key."""
    kind = wide(dtype)
    if kind not in _BITS:
        return key

    def element(k: Expr) -> Expr:
        value = tirx.reinterpret(kind, _flipped(k, kind))
        return tirx.Select(k.equal(nan_key(kind, nan_is_largest)), tirx.const(float("nan"), kind), value)

    return outlined(element, key).astype(dtype)


def _flipped(bits: Expr, kind: str) -> Expr:
    """Magnitude bits inverted below zero: its own inverse."""
    integer, sign, rest = _BITS[kind]
    return tirx.bitwise_xor(bits, tirx.bitwise_and(tirx.shift_right(bits, tirx.const(sign, integer)), tirx.const(rest, integer)))
