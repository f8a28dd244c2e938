"""What measured kernels are given, and whether their results agree: the same for all machines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lepton_compiler.backends.tvm.kernels import KernelParameter
from lepton_compiler.backends.tvm.packing import PACKINGS
from lepton_compiler.ir.types import TensorType

TOLERANCE = {"float32": 1e-3, "float64": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}
"""Difference between two kernels, over the largest result: sums in other orders, and Winograd's algorithm."""

Key = tuple[object, ...]
"""Names a buffer."""


def buffer_of(p: KernelParameter, operands: Sequence[np.ndarray]) -> tuple[Key, np.ndarray | None]:
    """The buffer of a parameter, and its contents where it has some: kernels share all but weights that they pack differently."""
    match p.kind:
        case "input":
            return ("input", p.index), operands[p.index]
        case "packed":
            assert p.packed is not None
            packed = PACKINGS[p.packed.function](operands[p.index], *p.packed.arguments)
            return ("packed", p.index, p.packed.function, p.packed.arguments), packed
        case "table":
            return ("table", p.table), np.frombuffer(p.table, np.uint8)
        case "workspace" | "scratch":
            return (p.kind, p.index), None
    return ("output", p.index), None


def random_operand(kind: TensorType, constant: bool, seed: int) -> np.ndarray:
    """Contents for an operand: small normal numbers, bytes of all values, and zeros for integers that may be indices."""
    rng, shape = np.random.default_rng(seed), kind.static_shape
    if kind.dtype.is_float:
        return (rng.standard_normal(shape, np.float32) * np.float32(0.1 if constant else 1.0)).astype(kind.dtype.numpy)
    if kind.dtype.name in ("int8", "uint8"):
        return rng.integers(-127 if kind.dtype.name == "int8" else 0, 128, shape).astype(kind.dtype.numpy)
    return np.zeros(shape, kind.dtype.numpy)


def close(actual: np.ndarray, expected: np.ndarray) -> bool:
    """Whether results are equal up to the rounding of sums in another order; integers are just equal."""
    tolerance = TOLERANCE.get(str(expected.dtype))
    if tolerance is None:
        return bool((actual.view(np.uint8) == expected.view(np.uint8)).all())
    a, b = actual.astype(np.float64), expected.astype(np.float64)
    if not (np.isfinite(a) == np.isfinite(b)).all():
        return False
    finite = np.isfinite(b)
    largest = float(np.abs(b[finite]).max(initial=0.0))
    return bool(np.abs(a[finite] - b[finite]).max(initial=0.0) <= tolerance * largest)
