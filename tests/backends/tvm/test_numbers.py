"""Arithmetic at its limits against the evaluator: zero divisors, wrapping, infinities, NaN, empty operands."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lepton_compiler.ir.graph import Value
from lepton_compiler.ir.types import BOOL
from lepton_compiler.ops.builder import Builder

CheckCases = Callable[..., None]

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def limits(kind: str) -> np.ndarray:
    """Every pair of remarkable integers of a type, [2, pairs]."""
    info = np.iinfo(kind)
    values = sorted({info.min, info.min + 1, max(info.min, -7), max(info.min, -1), 0, 1, 2, 7, info.max // 2, info.max - 1, info.max})
    return np.array(list(itertools.product(values, values)), kind).T.copy()


@pytest.mark.parametrize("kind", ["int8", "int32", "int64", "uint8", "uint64"])
def test_integers_at_their_limits(check_cases: CheckCases, kind: str) -> None:
    a, b = limits(kind)
    names: list[tuple[str, dict[str, Any]]] = [("Add", {}), ("Sub", {}), ("Mul", {}), ("Div", {}), ("Mod", {}), ("Mod", {"fmod": True})]
    names += [("Max", {}), ("Min", {}), ("BitShift", {"direction": "LEFT"}), ("BitShift", {"direction": "RIGHT"}), ("Greater", {})]
    cases: list[Any] = [(name, fields, [a, b]) for name, fields in names]
    cases += [(name, {}, [a]) for name in ("Abs", "Sign", "BitwiseNot")] + ([("Neg", {}, [a])] if kind.startswith("i") else [])
    width = np.iinfo(kind).bits
    shifts = np.array([0, 1, width - 1, width, width + 1, 2 * width, -1 if kind.startswith("i") else 255, 100], kind)
    cases += [("BitShift", {"direction": d}, [np.full(8, np.iinfo(kind).min | 5, kind), shifts]) for d in ("LEFT", "RIGHT")]
    check_cases(cases)


def test_powers_of_integers_are_exact(check_cases: CheckCases) -> None:
    cases: list[Any] = []
    for kind, other in (
        ("int32", "int32"),
        ("int64", "int64"),
        ("int8", "int64"),
        ("uint8", "uint8"),
        ("int64", "uint64"),
        ("uint64", "int8"),
    ):
        signed, negative = kind.startswith("i"), other.startswith("i")
        bases, exponents = (
            [0, 1, 2, 3, 7, 10, *([-1, -2, -3] if signed else [])],
            [0, 1, 2, 3, 31, 63, 100, *([-1, -2] if negative else [])],
        )
        pairs = np.array(list(itertools.product(bases, exponents))).T
        cases.append(("Pow", {}, [pairs[0].astype(kind), pairs[1].astype(other)]))
    cases.append(("Pow", {}, [np.array([2, 3, -2, 9], np.int32), np.array([0.5, 2, 3, 0.5], np.float32)]))
    cases.append(("Pow", {}, [np.array([2, -1, -1, 0.5], np.float32), np.array([10, 16777217, 16777218, -3], np.int32)]))
    check_cases(cases)


@pytest.mark.parametrize("kind", ["int32", "int64", "uint32"])
def test_fused_integers_wrap(compile_and_compare: Callable[..., None], kind: str) -> None:
    """What holds for numbers without bounds must not be assumed: a kernel computes as its operators one by one."""
    x, y = limits(kind)

    def build(b: Builder, x: Value, y: Value) -> list[Value]:
        return [
            b.Greater(b.Add(x, 1), x),
            b.Div(b.Mul(x, 2), 2),
            b.Greater(b.Mul(x, 2), b.Mul(y, 2)),
            b.Less(b.Sub(x, 1), b.Sub(y, 1)),
            b.Mod(b.Mul(x, 4), 3),
            b.GreaterOrEqual(b.Mul(x, x), 0),
            b.Greater(b.Sub(x, y), 0),
            b.Less(b.Abs(x), 1),
            b.Div(x, b.Sub(y, y)),
            b.Mod(x, b.constant(0, x)),
        ]

    compile_and_compare(build, x, y)


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_fused_special_numbers(compile_and_compare: Callable[..., None], kind: str) -> None:
    special = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 0.5, 2.5]
    x, y = np.array(list(itertools.product(special, special)), kind).T.copy()

    def build(b: Builder, x: Value, y: Value) -> list[Value]:
        low, high = b.constant(1.0, x), b.constant(-1.0, x)
        return [
            b.Not(b.Greater(x, y)),
            b.Not(b.LessOrEqual(x, y)),
            b.Not(b.Equal(x, x)),
            b.Not(b.Or(b.Less(x, y), b.Greater(x, y))),
            b.Sub(x, x),
            b.Add(b.Mul(x, 0.0), y),
            b.Where(b.Not(b.Less(x, y)), x, y),
            b.Max(x, y, x),
            b.Min(x, y),
            b.Clip(x, low, high),
            b.Clip(x, high, low),
            b.Round(b.Mul(x, 2.5)),
            b.Pow(x, y),
            b.Pow(x, -0.5),
            b.Mod(x, y, fmod=True),
            b.Sign(x),
            b.Hardmax(b.Reshape(x, shape=(9, 9)), axis=1),
        ]

    compile_and_compare(build, x, y)


def test_extremes_of_special_numbers(check_cases: CheckCases) -> None:
    rng, cases = np.random.default_rng(0), list[Any]()
    x = rng.choice(np.array([np.nan, np.inf, -np.inf, 0, -0.0, 1, 1, -1]), (40, 5, 3), p=[0.1, 0.1, 0.2, 0.1, 0.1, 0.2, 0.1, 0.1])
    for kind, axis, last in (
        ("float32", 0, False),
        ("float32", 1, True),
        ("float32", 2, True),
        ("float64", 2, False),
        ("float16", 0, True),
    ):
        cases += [(n, {"axis": axis, "select_last_index": last, "keepdims": last}, [x.astype(kind)]) for n in ("ArgMax", "ArgMin")]
    ties = rng.integers(-1, 2, (7, 6))
    for kind, last in (("int8", False), ("int64", True), ("uint8", True)):
        cases += [(n, {"axis": 1, "select_last_index": last}, [np.abs(ties).astype(kind)]) for n in ("ArgMax", "ArgMin")]
    cases += [
        (n, {"axes": (a,)}, [x.astype("float32")])
        for n in ("ReduceMax", "ReduceMin", "ReduceSum", "ReduceProd", "ReduceMean")
        for a in (0, 2)
    ]
    check_cases(cases)


def test_integer_means_do_not_overflow(check_cases: CheckCases) -> None:
    cases: list[Any] = []
    for kind in INTEGERS:
        info = np.iinfo(kind)
        x = np.random.default_rng(1).integers(info.min // 2, info.max // 2, (5, 40), dtype=kind) if info.bits < 64 else limits(kind)[:, :40]
        x = x // (1 << 20) if info.bits == 64 else x  # sums that float64 holds exactly
        cases += [("ReduceMean", {"axes": axes, "keepdims": False}, [x]) for axes in ((0,), (0, 1))]
    check_cases(cases)


REDUCTIONS = ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp")


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_reductions_of_nothing_and_of_infinities(compile_and_compare: Callable[..., None]) -> None:
    nothing, x = np.zeros((3, 0), np.float32), np.array([[np.inf, 1], [-np.inf, -np.inf], [np.nan, 1], [0, 0], [3e38, 3e38]], np.float32)

    def build(b: Builder, nothing: Value, x: Value) -> list[Value]:
        outputs = [getattr(b, f"Reduce{name}")(x, axes=(1,)) for name in REDUCTIONS]
        return outputs + [getattr(b, f"Reduce{name}")(nothing, axes=(1,), keepdims=False) for name in REDUCTIONS]

    compile_and_compare(build, nothing, x)


def test_reductions_of_no_integers(compile_and_compare: Callable[..., None]) -> None:
    def build(b: Builder, x: Value, y: Value) -> list[Value]:
        outputs = [getattr(b, f"Reduce{name}")(v, axes=(0, 1)) for name in ("Sum", "Max", "Min", "Prod", "L1") for v in (x, y)]
        return [*outputs, b.ReduceMax(b.Cast(x, to=BOOL), axes=(0,)), b.ReduceMin(b.Cast(x, to=BOOL), axes=(0,))]

    compile_and_compare(build, np.zeros((3, 0), np.int32), np.zeros((0, 2), np.uint8))
