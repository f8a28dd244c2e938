"""Element-wise functions of one tensor."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

from lepton_compiler import ops
from lepton_compiler.errors import InferenceError
from lepton_compiler.ir.dim import symbol
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.types import BOOL, TensorType, tensor_type
from lepton_compiler.ops.special import erf
from lepton_compiler.ops.unary import Abs, Erf, Exp, IsInf, Neg, Not, Round, Sigmoid, Sign, Sqrt

FLOAT_ONLY = "Acos Acosh Asin Asinh Atan Atanh Ceil Cos Cosh Exp Floor Log Reciprocal Round Sigmoid Sin Sinh Sqrt Tan Tanh".split()
VALUES = np.array([0.25, -0.5, 1.5, -3.0, 0.0, np.nan, np.inf, -np.inf])


@pytest.mark.parametrize("name", FLOAT_ONLY)
@pytest.mark.parametrize("element", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_narrow_types_are_the_wide_result_rounded_once(name: str, element: type) -> None:
    op = ops.get(name)()
    x: np.ndarray = VALUES.astype(element)
    with np.errstate(all="ignore"):
        (y,) = op.evaluate(x)
        wide = np.float64 if element is np.float64 else np.float32
        (expected,) = op.evaluate(x.astype(wide))
    assert y.dtype == element
    np.testing.assert_array_equal(y.astype(np.float64), expected.astype(element).astype(np.float64))


@pytest.mark.parametrize("name", FLOAT_ONLY)
def test_type_is_kept_and_integers_are_refused(name: str) -> None:
    op = ops.get(name)()
    x = TensorType(tensor_type("float32[2]").dtype, (symbol("n"), 3))
    assert op.infer(x) == (x,)
    with pytest.raises(InferenceError, match=f"{name} takes float elements, not int32"):
        op.infer(tensor_type("int32[2]"))


def test_erf_is_accurate_everywhere() -> None:
    x = np.concatenate([np.linspace(-7, 7, 4001), [1e-300, -0.0, np.inf, -np.inf, np.nan]])
    np.testing.assert_allclose(erf(x), [math.erf(v) for v in x], rtol=1e-15, atol=3e-16)
    assert erf(np.float32(0.5)).dtype == np.float32
    assert Erf().evaluate(np.zeros((0, 2), np.float32))[0].shape == (0, 2)


def test_sigmoid_does_not_overflow() -> None:
    with np.errstate(all="raise", under="ignore"):
        (y,) = Sigmoid().evaluate(np.array([-1000, -80, 0, 80, 1000], np.float32))
    np.testing.assert_allclose(y, [0, 1.8e-35, 0.5, 1, 1], rtol=0.01)


def test_round_takes_halves_to_even() -> None:
    np.testing.assert_array_equal(Round().evaluate(np.array([0.5, 1.5, 2.5, -0.5, -1.5]))[0], [0, 2, 2, 0, -2])


def test_isinf_looks_at_the_sign() -> None:
    x = np.array([np.inf, -np.inf, np.nan, 1], np.float32)
    np.testing.assert_array_equal(IsInf().evaluate(x)[0], [True, True, False, False])
    np.testing.assert_array_equal(IsInf(detect_negative=False).evaluate(x)[0], [True, False, False, False])
    np.testing.assert_array_equal(IsInf(detect_positive=False).evaluate(x)[0], [False, True, False, False])
    assert IsInf().infer(tensor_type("float16[2,n]")) == (tensor_type("bool[2,n]"),)


def test_integers() -> None:
    x = np.array([-128, -1, 0, 7], np.int8)
    np.testing.assert_array_equal(Abs().evaluate(x)[0], [-128, 1, 0, 7])
    np.testing.assert_array_equal(Neg().evaluate(x)[0], [-128, 1, 0, -7])
    np.testing.assert_array_equal(Sign().evaluate(x)[0], [-1, -1, 0, 1])
    with pytest.raises(InferenceError, match="uint8"):
        Neg().infer(tensor_type("uint8[1]"))


def test_scalars_stay_arrays_of_rank_zero() -> None:
    for op in (Exp(), Sqrt(), Abs()):
        (y,) = op.evaluate(np.array(4.0, np.float16))
        assert np.shape(y) == () and y.dtype == np.float16


def test_negated_sizes_are_followed() -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(BOOL, (symbol("n"), 3)))
    shape = graph.add(ops.get("Shape")(), [x]).output
    negative = graph.add(Neg(), [shape]).output
    assert negative.content is not None
    assert list(negative.content) == [-symbol("n"), -3]
    assert list(Not().evaluate_symbolic(np.array([True, False], object))[0]) == [False, True]
