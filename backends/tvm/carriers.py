"""Element types that no instruction computes with, held as codes in unsigned integers: a byte per element, two for bfloat16.

ml_dtypes keeps its arrays in the same way, so that buffers need no conversion. The code of a 4-bit or 2-bit number lies in the low
bits of its byte; the bits above are zero in what lepton writes, and ignored in what it reads.
"""

from __future__ import annotations

import numpy as np

from lepton_compiler.ir.types import FLOAT32, INT8, UINT8, DType, dtype

CARRIERS = {"bfloat16": "uint16"} | dict.fromkeys(
    "float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu float4_e2m1fn int4 uint4 int2 uint2".split(), "uint8"
)
"""Type of the codes, by the name of the element type."""


def carrier(element: DType) -> DType:
    """The type that elements have in memory and in kernels: the type itself, or that of its codes."""
    return dtype(CARRIERS.get(element.name, element.name))


def computed(element: DType) -> DType:
    """The type in which operators compute on such elements; it holds all their values."""
    if element.name not in CARRIERS:
        return element
    return FLOAT32 if element.is_float else INT8 if element.kind == "int" else UINT8


def codes(array: np.ndarray) -> np.ndarray:
    """The elements as they lie in memory."""
    return array.view(carrier(dtype(array.dtype)).numpy)
