"""Conversion of element types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import ml_dtypes
import numpy as np

from lepton_compiler.ir.op import Op, require
from lepton_compiler.ir.types import DTYPES, FLOAT16, FLOAT32, DType, TensorType, dtype
from lepton_compiler.ops.precision import NARROW
from lepton_compiler.ops.sizes import truth

_EXPONENT_BITS, _MANTISSA_BITS = 0xFF, 0x7FFFFF
UINT32 = DTYPES["uint32"]
_FLOAT8 = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz")


@dataclass(frozen=True)
class Cast(Op):
    """Convert every element to the type `to`.

    Real numbers become integers by dropping the fraction, and truth values by comparison with zero; integers that do not
    fit wrap around. `saturate` keeps numbers too large for an 8-bit float at its largest finite value; otherwise they
    become infinite, or NaN where the type has no infinity. `round_mode` (up, down, nearest) is for float8_e8m0fnu alone.
    """

    to: DType = FLOAT32
    saturate: bool = True
    round_mode: str = "up"
    symbolic: ClassVar[bool] = True

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        require(self.round_mode in ("up", "down", "nearest"), f"Cast has no round_mode '{self.round_mode}'")
        require(x.dtype.kind != "complex" or self.to.kind == "complex", f"{x.dtype} cannot be cast to {self.to}")
        return (TensorType(self.to, x.shape),)

    def evaluate(self, x: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        return (cast_array(x, self.to, saturate=self.saturate, round_mode=self.round_mode),)

    def evaluate_symbolic(self, x: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        if self.to.kind == "bool":
            return (np.asarray(np.frompyfunc(truth, 1, 1)(x), dtype=object),)
        return (np.asarray(np.frompyfunc(lambda v: int(v) if isinstance(v, bool) else v, 1, 1)(x), dtype=object),)


@dataclass(frozen=True)
class BitCast(Op):
    """The same bits read as another type of equal width."""

    to: DType = FLOAT32

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        require(x.dtype.bits == self.to.bits, f"BitCast needs types of equal width, not {x.dtype} and {self.to}")
        return (TensorType(self.to, x.shape),)

    def evaluate(self, x: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        return (np.ascontiguousarray(x).view(self.to.numpy).reshape(x.shape),)


def cast_array(x: np.ndarray, to: DType, *, saturate: bool = True, round_mode: str = "up") -> np.ndarray:
    """`x` converted to `to` as `Cast` does it."""
    target = to.numpy
    if x.dtype == target:
        return x
    x = _at_numpy_type(x)
    if to.kind == "bool":
        return np.asarray(np.not_equal(x, np.zeros((), x.dtype)))
    if to.name == "float8_e8m0fnu":
        return _to_exponent(x, saturate, round_mode)
    with np.errstate(invalid="ignore", over="ignore"):
        if to.is_float and target in NARROW and to != FLOAT16:
            x = _rounded_once(x)
        if to.name in _FLOAT8 and saturate:
            limit = float(ml_dtypes.finfo(target).max)
            return np.asarray(np.clip(x, -limit, limit)).astype(target)
        if to == UINT32 and x.dtype.kind == "f":
            x = x.astype(np.int64)
        return x.astype(target)


def _at_numpy_type(x: np.ndarray) -> np.ndarray:
    """`x` in a type of numpy's own that holds all its values: those of ml_dtypes are not converted into each other."""
    element = dtype(x.dtype)
    if element.is_integer and element.bits < 8:
        return x.astype(np.int8)
    return x.astype(np.float32) if x.dtype in NARROW and element != FLOAT16 else x


def _rounded_once(x: np.ndarray) -> np.ndarray:
    """float32 from which rounding to a narrower type gives the value that rounding `x` itself would give.

    What float32 does not hold is rounded to odd: to the neighbour whose last bit is set (S. Boldo, G. Melquiond, "Emulation of a
    FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008).
    """
    if x.dtype.itemsize < 4 or x.dtype == np.float32 or x.dtype.kind == "c":
        return x.astype(np.float32) if x.dtype.kind != "c" else x
    if x.dtype.itemsize == 8 and x.dtype.kind in "iu":
        rest = x & x.dtype.type(0xFFF)
        small = (x < 2**53) & (x > -(2**53)) if x.dtype.kind == "i" else x < 2**53
        x = np.where(small, x, x - rest + np.where(rest != 0, x.dtype.type(0x800), x.dtype.type(0)))
    exact = x.astype(np.float64)
    single = exact.astype(np.float32)
    bits, back = single.view(np.int32), single.astype(np.float64)
    away = np.where(np.abs(back) > np.abs(exact), -1, 1).astype(np.int32)
    uneven = (back != exact) & ~np.isnan(exact) & ((bits & 1) == 0)
    return np.where(uneven, bits + away, bits).view(np.float32)


def _to_exponent(x: np.ndarray, saturate: bool, round_mode: str) -> np.ndarray:
    """To float8_e8m0fnu, a bare exponent: the magnitude rounded to a power of two, in the direction `round_mode`."""
    bits = _rounded_once(x).view(np.uint32)
    exponent = (bits >> 23 & _EXPONENT_BITS).astype(np.int32)
    mantissa = bits & _MANTISSA_BITS
    if round_mode == "up":
        carry = mantissa > 0
    elif round_mode == "down":
        carry = np.zeros(bits.shape, bool)
    else:
        half = 1 << 22
        carry = (mantissa > half) | ((mantissa == half) & (exponent > 0))
    limit = _EXPONENT_BITS - 1
    rounded = exponent + carry
    if saturate:
        rounded = np.minimum(rounded, limit)
    rounded = np.where(exponent == _EXPONENT_BITS, _EXPONENT_BITS, np.minimum(rounded, _EXPONENT_BITS))
    return rounded.astype(np.uint8).view(ml_dtypes.float8_e8m0fnu)
