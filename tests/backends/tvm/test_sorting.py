"""TopK and Det against the evaluator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

CheckCases = Callable[..., None]


def test_best_elements_and_their_order_among_equals(check_cases: CheckCases) -> None:
    rng = np.random.default_rng(0)
    cases: list[Any] = []
    special = np.array([1, np.nan, -np.inf, 0.0, -0.0, np.nan, np.inf, 1, 0.0, -1], np.float32)
    for k in (0, 3, 10):
        for largest in (True, False):
            cases.append(("TopK", {"k": k, "largest": largest}, [special]))
    for axis, k in ((0, 2), (1, 5), (2, 7)):
        ties: Any = rng.integers(-3, 4, (4, 5, 7))
        for kind in ("float32", "int64", "uint8", "float16", "float64")[axis::3]:
            cases.append(("TopK", {"k": k, "axis": axis, "largest": axis != 1}, [ties.astype(kind)]))
    check_cases(cases)


def test_many_of_many_on_two_threads(check_cases: CheckCases) -> None:
    x = np.random.default_rng(1).normal(size=(3, 20000)).astype(np.float32)
    check_cases([("TopK", {"k": k}, [x]) for k in (1, 500, 20000)], threads=2)


def test_determinants(check_cases: CheckCases) -> None:
    rng = np.random.default_rng(2)
    cases: list[Any] = []
    for shape in ((1, 1), (2, 2), (5, 3, 3), (2, 2, 8, 8), (40, 40)):
        for kind in ("float32", "float64"):
            cases.append(("Det", {}, [rng.normal(size=shape).astype(kind)]))
    cases.append(("Det", {}, [rng.normal(size=(3, 4, 4)).astype(np.float16)]))
    cases.append(("Det", {}, [np.diag([1e30, 1e30, 1e-30, -1e-30]).astype(np.float32)]))
    singular = np.array([[[1, 2], [2, 4]], [[0, 0], [0, 0]], [[0, 1], [1, 0]], [[0, np.nan], [1, 0]]], np.float32)
    check_cases([*cases, ("Det", {}, [singular])], rtol=2e-5, atol=1e-5)


def test_many_determinants_on_two_threads(check_cases: CheckCases) -> None:
    x = np.random.default_rng(3).normal(size=(2000, 6, 6)).astype(np.float32)
    check_cases([("Det", {}, [x])], rtol=1e-4, atol=1e-4, threads=2)
