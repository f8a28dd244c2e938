"""Comparing results, and making up inputs to get them from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lepton_compiler.ir.dim import bind
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.types import TensorType


def compare(expected: Mapping[str, Any], actual: Mapping[str, Any], rtol: float = 1e-5, atol: float = 1e-6) -> str:
    """The first difference between two sets of named arrays in words, or an empty string.

    Real and complex outputs may differ by `atol + rtol * (largest finite magnitude of the expected output)`; infinities and NaNs must be
    in the same places. All other outputs must be equal.
    """
    if list(expected) != list(actual):
        return f"outputs are {list(actual)} instead of {list(expected)}"
    for name, want in expected.items():
        if difference := _difference(np.asarray(want), np.asarray(actual[name]), rtol, atol):
            return f"output '{name}' {difference}"
    return ""


def _difference(want: np.ndarray, got: np.ndarray, rtol: float, atol: float) -> str:
    if want.dtype != got.dtype or want.shape != got.shape:
        return f"is {got.dtype}{list(got.shape)} instead of {want.dtype}{list(want.shape)}"
    if want.dtype.kind in "biu" or want.dtype.name.startswith(("int", "uint")):
        unequal = np.asarray(want != got)
        return f"differs in {int(unequal.sum())} of {unequal.size} elements" if unequal.any() else ""
    wide = np.complex128 if want.dtype.kind == "c" else np.float64
    a, b = want.astype(wide), got.astype(wide)
    finite = np.isfinite(a)
    if (finite != np.isfinite(b)).any() or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return "has infinities or NaNs in other places"
    with np.errstate(invalid="ignore"):
        worst = float(np.max(np.abs(a - b), where=finite, initial=0.0))
    bound = atol + rtol * float(np.max(np.abs(a), where=finite, initial=0.0))
    return f"differs by {worst:.3g}, more than {bound:.3g}" if worst > bound else ""


def random_feeds(graph: Graph, seed: int = 0, size: int = 3) -> dict[str, np.ndarray]:
    """Deterministic inputs for a graph: normal floats, integers from 0 to 3, mixed booleans; symbolic dimensions are `size`."""
    rng, sizes = np.random.default_rng(seed), dict.fromkeys(graph.free_symbols, size)
    return {v.name: random_array(rng, TensorType(v.type.dtype, tuple(bind(d, sizes) for d in v.type.shape))) for v in graph.inputs}


def random_array(rng: np.random.Generator, type: TensorType) -> np.ndarray:
    """An array of a static type: normal floats, integers from 0 to 3 (0 and 1 in the narrowest types), mixed booleans."""
    shape, kind = type.static_shape, type.dtype.kind
    if kind == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if kind in ("int", "uint"):
        return rng.integers(0, 2 if type.dtype.bits <= 2 else 4, shape).astype(type.dtype.numpy)
    values = rng.standard_normal(shape)
    if kind == "complex":
        return (values + 1j * rng.standard_normal(shape)).astype(type.dtype.numpy)
    return np.asarray(values, np.float32).astype(type.dtype.numpy) if type.dtype.bits < 64 else np.asarray(values)
