"""Activation functions."""

from __future__ import annotations

import numpy as np
import pytest

from lepton_compiler.errors import InferenceError
from lepton_compiler.ir.op import Op
from lepton_compiler.ir.types import tensor_type
from lepton_compiler.ops.activation import (
    Celu,
    Clip,
    Elu,
    Gelu,
    HardSigmoid,
    HardSwish,
    LeakyRelu,
    Mish,
    PRelu,
    Relu,
    Selu,
    Shrink,
    Softplus,
    Softsign,
    Swish,
    ThresholdedRelu,
)

X = np.array([-4.0, -1.0, -0.25, 0.0, 0.5, 2.0, 8.0], np.float32)
EXPECTED = [
    (Celu(alpha=2.0), [2 * np.expm1(-2.0), 2 * np.expm1(-0.5), 2 * np.expm1(-0.125), 0, 0.5, 2, 8]),
    (Elu(alpha=0.5), [0.5 * np.expm1(-4.0), 0.5 * np.expm1(-1.0), 0.5 * np.expm1(-0.25), 0, 0.5, 2, 8]),
    (Gelu(), [-0.00012668, -0.15865525, -0.10032342, 0, 0.34573123, 1.9544997, 8]),
    (Gelu(approximate="tanh"), [-7.0214e-5, -0.15880801, -0.1003241, 0, 0.345714, 1.9545977, 8]),
    (HardSigmoid(), [0, 0.3, 0.45, 0.5, 0.6, 0.9, 1]),
    (HardSwish(), [0, -1 / 3, -0.25 * (0.5 - 1 / 24), 0, 0.5 * (0.5 + 1 / 12), 2 * 5 / 6, 8]),
    (LeakyRelu(alpha=0.1), [-0.4, -0.1, -0.025, 0, 0.5, 2, 8]),
    (Mish(), [-0.07259175, -0.30340147, -0.12992696, 0, 0.3752465, 1.9439590, 7.9999983]),
    (Relu(), [0, 0, 0, 0, 0.5, 2, 8]),
    (Selu(), [-1.7258988, -1.1113307, -0.3888939, 0, 0.52535047, 2.1014020, 8.4056079]),
    (Shrink(bias=0.25, lambd=0.5), [-3.75, -0.75, 0, 0, 0, 1.75, 7.75]),
    (Softplus(), np.log1p(np.exp(X.astype(np.float64)))),
    (Softsign(), [-0.8, -0.5, -0.2, 0, 1 / 3, 2 / 3, 8 / 9]),
    (Swish(alpha=1.0), X / (1 + np.exp(-X.astype(np.float64)))),
    (ThresholdedRelu(alpha=0.5), [0, 0, 0, 0, 0, 2, 8]),
]


@pytest.mark.parametrize(("op", "expected"), EXPECTED, ids=lambda v: repr(v) if isinstance(v, Op) else "")
def test_values(op: Op, expected: list[float]) -> None:
    (y,) = op.evaluate(X)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, expected, rtol=2e-5, atol=2e-6)
    assert op.infer(tensor_type("float32[n,3]")) == (tensor_type("float32[n,3]"),)


@pytest.mark.parametrize(("op", "expected"), EXPECTED, ids=lambda v: repr(v) if isinstance(v, Op) else "")
def test_half_precision_rounds_once(op: Op, expected: list[float]) -> None:
    half = X.astype(np.float16)
    (y,) = op.evaluate(half)
    assert y.dtype == np.float16
    np.testing.assert_array_equal(y, op.evaluate(half.astype(np.float32))[0].astype(np.float16))


@pytest.mark.parametrize("op", [Softplus(), Mish(), Swish(), Elu(), Selu(), Celu()], ids=repr)
def test_large_arguments_do_not_overflow(op: Op) -> None:
    (y,) = op.evaluate(np.array([-500.0, 500.0], np.float32)[1:] if isinstance(op, Celu) else np.array([-500.0, 500.0], np.float32))
    assert np.all(np.isfinite(y))


def test_clip() -> None:
    low, high = np.array(-1, np.float32), np.array(2, np.float32)
    np.testing.assert_array_equal(Clip().evaluate(X, low, high)[0], np.clip(X, -1, 2))
    np.testing.assert_array_equal(Clip().evaluate(X, None, high)[0], np.minimum(X, 2))
    np.testing.assert_array_equal(Clip().evaluate(X)[0], X)
    np.testing.assert_array_equal(Clip().evaluate(X, high, low)[0], np.full_like(X, -1))
    whole = np.array([-5, 5], np.int8)
    np.testing.assert_array_equal(Clip().evaluate(whole, np.array([0], np.int8), np.array(3, np.int8))[0], [0, 3])
    with pytest.raises(InferenceError, match="Clip's max is int32"):
        Clip().infer(tensor_type("float32[2]"), None, tensor_type("int32[]"))
    with pytest.raises(InferenceError, match="not one value"):
        Clip().infer(tensor_type("float32[2]"), tensor_type("float32[2]"))


def test_prelu_broadcasts_the_slope_to_x() -> None:
    x = np.array([[-1, 2], [-3, -4]], np.float32)
    np.testing.assert_array_equal(PRelu().evaluate(x, np.array([2, 10], np.float32))[0], [[-2, 2], [-6, -40]])
    with pytest.raises(InferenceError, match="does not broadcast"):
        PRelu().infer(tensor_type("float32[2,2]"), tensor_type("float32[3,1,1]"))


def test_gelu_names_its_approximations() -> None:
    with pytest.raises(InferenceError, match="no approximation 'fast'"):
        Gelu(approximate="fast").infer(tensor_type("float32[1]"))
