"""Products of 8-bit integers in float32, where that is exact: all that has fast kernels everywhere."""

from __future__ import annotations

import numpy as np

from lepton_compiler.ir.graph import Value
from lepton_compiler.ir.types import FLOAT32
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.decompose import as_type

LARGEST = 255
"""Largest magnitude of an 8-bit number less its zero point."""
EXACT = 1 << 24
"""Whole numbers up to this one are float32 numbers."""


def whole_weights(build: Builder, w: Value, zero: Value | None, summed: tuple[int, ...]) -> Value | None:
    """Constant weights less their zero points in float32; None unless every sum of products with 8-bit data is exact there.

    Args:
        build: the builder.
        w: 8-bit weights.
        zero: their zero points in a shape that broadcasts to `w`, or None for zero.
        summed: the axes of `w` that products are summed over.
    """
    if w.tensor is None or (zero is not None and zero.tensor is None) or w.type.dtype.bits > 8:
        return None
    numbers = w.numpy().astype(np.int64) - (0 if zero is None else zero.numpy().astype(np.int64))
    if np.abs(numbers).sum(axis=summed).max(initial=0) * LARGEST > EXACT:
        return None
    return build.constant(numbers.astype(np.float32), name=w.name)


def whole_data(build: Builder, x: Value, zero: Value | None) -> Value:
    """8-bit data less its zero points, in a shape that broadcasts to it, in float32."""
    data = as_type(build, x, FLOAT32)
    return data if zero is None else build.Sub(data, as_type(build, zero, FLOAT32))
