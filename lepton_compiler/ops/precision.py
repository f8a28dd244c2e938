"""Floating-point types narrower than 32 bits: operators compute in float32 and round the result once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lepton_compiler.ir.types import DTYPES, FLOAT32, DType

NARROW: frozenset[np.dtype] = frozenset(t.numpy for t in DTYPES.values() if t.is_float and t.bits < FLOAT32.bits)
"""The numpy dtypes that are widened before computing."""


def widen(array: Any) -> Any:
    """`array` as float32 if its type is a narrow float, else unchanged."""
    return array.astype(np.float32) if array.dtype in NARROW else array


def wide_dtype(element: DType) -> DType:
    """The type that operators on `element` compute in."""
    return FLOAT32 if element.is_float and element.bits < FLOAT32.bits else element


def compute_wide(function: Callable[..., Any], *arrays: Any) -> np.ndarray:
    """`function(*arrays)` computed in float32 where an array is a narrow float; the result takes the type of the first.

    A result that is not floating point (a comparison, an index) keeps its type.
    """
    first = arrays[0].dtype
    if all(a is None or a.dtype not in NARROW for a in arrays):
        return np.asarray(function(*arrays))
    result = np.asarray(function(*(None if a is None else widen(a) for a in arrays)))
    return result.astype(first) if result.dtype.kind == "f" and result.dtype != first else result
