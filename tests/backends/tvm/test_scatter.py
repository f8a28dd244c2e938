"""Scatters and running sums against the evaluator: order, duplicates, types, many updates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton_compiler.backend import BuildOptions
from lepton_compiler.backends.tvm import build
from lepton_compiler.ir.text import parse_graph
from lepton_compiler.ops.evaluator import evaluate
from lepton_compiler.runtime.library import NativeLibrary
from lepton_compiler.target import parse_target

REDUCTIONS = ("none", "add", "mul", "max", "min")


def normal(*shape: int, seed: int = 0, dtype: str = "float32") -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).normal(0, 2, shape)).astype(dtype)


def places(size: int, *shape: int, seed: int = 0, dtype: str = "int64") -> np.ndarray:
    """Indices of an axis, counted from either end, with repetitions."""
    return np.asarray(np.random.default_rng(seed).integers(-size, size, shape), dtype)


def tuples(sizes: tuple[int, ...], *shape: int, seed: int = 0) -> np.ndarray:
    return np.stack([places(n, *shape, seed=seed + k) for k, n in enumerate(sizes)], -1)


def test_elements_of_repeated_indices_are_written_in_order(check_cases: Callable[..., None]) -> None:
    cases: list[Any] = []
    for reduction in REDUCTIONS:
        x = normal(4, 5, 6)
        for axis, part in ((0, (20, 3, 4)), (1, (3, 25, 5)), (-1, (4, 5, 30))):
            cases.append(
                ("ScatterElements", {"axis": axis, "reduction": reduction}, [x, places(x.shape[axis], *part), normal(*part, seed=1)])
            )
    check_cases(cases)


def test_slices_of_repeated_indices_are_written_in_order(check_cases: Callable[..., None]) -> None:
    cases: list[Any] = []
    for reduction in REDUCTIONS:
        x = normal(4, 5, 6)
        cases += [
            ("ScatterND", {"reduction": reduction}, [x, tuples((4,), 9), normal(9, 5, 6, seed=1)]),
            ("ScatterND", {"reduction": reduction}, [x, tuples((4, 5), 40, 2), normal(40, 2, 6, seed=1)]),
            ("ScatterND", {"reduction": reduction}, [x, tuples((4, 5, 6), 100), normal(100, seed=1)]),
        ]
    cases.append(("ScatterND", {}, [normal(4, 5), np.zeros((3, 0), np.int64), normal(3, 4, 5)]))
    check_cases(cases)


@pytest.mark.parametrize("kind", ["bool", "uint8", "int64", "float16"])
def test_scatters_of_other_types(check_cases: Callable[..., None], kind: str) -> None:
    x, updates = normal(6, 7, dtype=kind), normal(50, 7, seed=1, dtype=kind)
    cases: list[Any] = [("ScatterElements", {"axis": 0, "reduction": r}, [x, places(6, 50, 7, dtype="int32"), updates]) for r in REDUCTIONS]
    check_cases([*cases, ("ScatterND", {}, [x, tuples((6,), 50), updates])])


def test_not_a_number_wins_maximum_and_minimum(check_cases: Callable[..., None]) -> None:
    x, indices = np.array([1, np.nan, 3, -np.inf], np.float32), np.array([0, 1, 2, 3, 0])
    updates = np.array([np.nan, 5, np.inf, -np.inf, 7], np.float32)
    check_cases([("ScatterElements", {"reduction": r}, [x, indices, updates]) for r in ("max", "min")])


def test_many_updates(check_cases: Callable[..., None]) -> None:
    x = normal(300, 200)
    check_cases(
        [
            ("ScatterElements", {"axis": 1, "reduction": "add"}, [x, places(200, 300, 500), normal(300, 500, seed=1)]),
            ("ScatterND", {"reduction": "add"}, [x, tuples((300,), 1000), normal(1000, 200, seed=1)]),
        ],
        rtol=1e-5,
        atol=1e-5,
        threads=2,
    )


def test_caches(check_cases: Callable[..., None]) -> None:
    past, update = normal(3, 2, 6, 4), normal(3, 2, 2, 4, seed=1)
    cases: list[Any] = [("TensorScatter", {}, [past, update, np.array([0, 4, 1])]), ("TensorScatter", {}, [past, update])]
    cases.append(("TensorScatter", {"mode": "circular"}, [past, update, np.array([5, 17, -2])]))
    cases.append(("TensorScatter", {"mode": "circular", "axis": 1}, [past, normal(3, 3, 6, 4), np.array([1, 0, 1], np.int32)]))
    cases.append(("TensorScatter", {"axis": -1}, [past.astype(np.float16), normal(3, 2, 6, 3, dtype="float16"), np.array([1, 0, 1])]))
    check_cases(cases)


def test_running_sums_and_products(check_cases: Callable[..., None]) -> None:
    cases: list[Any] = []
    for shape, axis in (((7,), 0), ((3, 5), 1), ((5, 3, 4), 0), ((2, 6, 130), 1), ((4, 2, 3, 7), -3)):
        for exclusive in (False, True):
            for reverse in (False, True):
                cases.append(("CumSum", {"axis": axis, "exclusive": exclusive, "reverse": reverse}, [normal(*shape)]))
        cases.append(("CumProd", {"axis": axis, "exclusive": True}, [normal(*shape) / 2]))
    cases += [("CumSum", {"axis": 1}, [normal(3, 40, 20, dtype=kind)]) for kind in ("int8", "uint16", "int64", "float16", "float64")]
    check_cases(cases)


def test_long_running_sums_on_two_threads(check_cases: Callable[..., None]) -> None:
    cases: list[Any] = [("CumSum", {"axis": a}, [normal(*s)]) for s, a in (((300, 250), 1), ((300, 250), 0), ((2, 300, 250), 1))]
    check_cases(cases, rtol=1e-5, atol=1e-4, threads=2)


def test_loops_beside_other_stages_of_a_kernel(kernel_cache: Path) -> None:
    """Fusion leaves these operators alone; a kernel that has more is right all the same."""
    graph = parse_graph(
        """graph @g(%x: float32[6,5], %i: int64[9,1], %u: float32[9,5]) {
          %y = Fused(label="abs_neg_scatternd_relu_cumsum")(%x, %u, %i) : float32[6,5]
            graph @inner(%x: float32[6,5], %u: float32[9,5], %i: int64[9,1]) {
              %abs = Abs()(%x)
              %neg = Neg()(%u)
              %scattered = ScatterND(reduction="add")(%abs, %i, %neg)
              %relu = Relu()(%scattered)
              %y = CumSum(axis=1)(%relu)
              return %y
            }
          return %y
        }"""
    )
    feeds = {"x": normal(6, 5), "i": places(6, 9, 1), "u": normal(9, 5, seed=1)}
    artifact = build(graph, BuildOptions("m", parse_target("native"), cache_dir=kernel_cache))
    got = NativeLibrary.from_bytes(artifact.files["libm.so"], {**artifact.manifest, "name": "m"}).run(feeds)
    np.testing.assert_allclose(got["y"], evaluate(graph, feeds)["y"], rtol=1e-5, atol=1e-6)
