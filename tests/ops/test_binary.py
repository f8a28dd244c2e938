"""Element-wise operators of several tensors, on numbers and on symbolic sizes."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from lepton_compiler.errors import InferenceError
from lepton_compiler.ir.dim import maximum, symbol
from lepton_compiler.ir.op import Op
from lepton_compiler.ir.types import tensor_type
from lepton_compiler.ops.binary import (
    Add,
    And,
    BitShift,
    Div,
    Equal,
    Greater,
    Less,
    LessOrEqual,
    Max,
    Mean,
    Min,
    Mod,
    Mul,
    Pow,
    Sub,
    Sum,
    Where,
)

N = symbol("n")


def test_shapes_broadcast() -> None:
    a, b = tensor_type("float32[n,1,3]"), tensor_type("float32[4,3]")
    assert Add().infer(a, b) == (tensor_type("float32[n,4,3]"),)
    assert Less().infer(a, b) == (tensor_type("bool[n,4,3]"),)
    (mixed,) = Add().infer(tensor_type("float32[n]"), tensor_type("float32[m]"))
    assert mixed.shape == (maximum(symbol("n"), symbol("m")),)
    with pytest.raises(InferenceError, match=r"shapes \[2,3\], \[4\] do not broadcast: sizes 3 and 4"):
        Mul().infer(tensor_type("float32[2,3]"), tensor_type("float32[4]"))
    with pytest.raises(InferenceError, match="mixes element types float32, int32"):
        Sub().infer(tensor_type("float32[2]"), tensor_type("int32[2]"))
    with pytest.raises(InferenceError, match="And takes bool"):
        And().infer(tensor_type("int32[2]"), tensor_type("int32[2]"))


def test_integer_division_truncates() -> None:
    a, b = np.array([7, -7, 7, -7, 2**62], np.int64), np.array([2, 2, -2, -2, 3], np.int64)
    np.testing.assert_array_equal(Div().evaluate(a, b)[0], [3, -3, -3, 3, 2**62 // 3])
    np.testing.assert_array_equal(Div().evaluate(np.array([200], np.uint8), np.array([7], np.uint8))[0], [28])
    assert Div().evaluate(np.array(7, np.int32), np.array(2, np.int32))[0] == 3


def test_mod_of_both_kinds() -> None:
    a, b = np.array([-4, 7, 5, 4, -7, 8], np.int32), np.array([2, -3, 8, -2, 3, 5], np.int32)
    np.testing.assert_array_equal(Mod().evaluate(a, b)[0], [0, -2, 5, 0, 2, 3])
    np.testing.assert_array_equal(Mod(fmod=True).evaluate(a, b)[0], [0, 1, 5, 0, -1, 3])


@pytest.mark.parametrize("exponent", [np.int32, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("base", [np.int32, np.int64, np.float16, np.float32])
def test_pow_keeps_the_type_of_the_base(base: type, exponent: type) -> None:
    (y,) = Pow().evaluate(np.array([2, 3, -2, 5]).astype(base), np.array([2, 0, 3, 1]).astype(exponent))
    assert y.dtype == base
    np.testing.assert_array_equal(y, [4, 1, -8, 5])


def test_pow_with_negative_integer_exponents() -> None:
    np.testing.assert_array_equal(Pow().evaluate(np.array([2, 1, -1]), np.array([-1, -5, -3]))[0], [0, 1, -1])
    np.testing.assert_allclose(Pow().evaluate(np.array([2.0], np.float32), np.array([-1]))[0], [0.5])


def test_bit_shift_beyond_the_width() -> None:
    a = np.array([255, 1, 128, 3], np.uint8)
    np.testing.assert_array_equal(BitShift("LEFT").evaluate(a, np.array([1, 7, 8, 200], np.uint8))[0], [254, 128, 0, 0])
    np.testing.assert_array_equal(BitShift("RIGHT").evaluate(a, np.array([1, 0, 7, 8], np.uint8))[0], [127, 1, 1, 0])
    signed = np.array([-8, 8], np.int8)
    np.testing.assert_array_equal(BitShift("RIGHT").evaluate(signed, np.array([1, 9], np.int8))[0], [-4, 0])
    np.testing.assert_array_equal(BitShift("RIGHT").evaluate(signed, np.array([9, 9], np.int8))[0], [-1, 0])


def test_variadic() -> None:
    xs = [np.array([1, 5], np.float16), np.array([[3.0], [4.0]], np.float16), np.array(2.0, np.float16)]
    np.testing.assert_array_equal(Max().evaluate(*xs)[0], [[3, 5], [4, 5]])
    np.testing.assert_array_equal(Min().evaluate(*xs)[0], [[1, 2], [1, 2]])
    np.testing.assert_array_equal(Sum().evaluate(*xs)[0], [[6, 10], [7, 11]])
    np.testing.assert_allclose(Mean().evaluate(*xs)[0], np.array([[2, 10 / 3], [7 / 3, 11 / 3]]).astype(np.float16))
    np.testing.assert_array_equal(Max().evaluate(xs[0])[0], xs[0])
    with pytest.raises(InferenceError, match="Max needs an operand"):
        Max().infer()


def test_narrow_sums_are_rounded_once() -> None:
    xs = [np.array(v, ml_dtypes.bfloat16) for v in (256.0, 1.0, 1.0)]
    assert float(Sum().evaluate(*xs)[0]) == 258.0


def test_nan_wins_in_max_and_compares_false() -> None:
    nan, one = np.array([np.nan], np.float32), np.array([1], np.float32)
    assert np.isnan(Max().evaluate(one, nan)[0]).all()
    assert not Equal().evaluate(nan, nan)[0].any()
    assert not LessOrEqual().evaluate(nan, one)[0].any()


def test_arithmetic_on_sizes() -> None:
    sizes = np.array([N, 6], object)
    assert list(Add().evaluate_symbolic(sizes, np.array([1], object))[0]) == [N + 1, 7]
    assert list(Mul().evaluate_symbolic(sizes, sizes)[0]) == [N * N, 36]
    assert list(Div().evaluate_symbolic(sizes, np.array([2, 4], object))[0]) == [N // 2, 1]
    assert list(Mod().evaluate_symbolic(sizes, np.array([2, 4], object))[0]) == [N - N // 2 * 2, 2]
    assert list(Max().evaluate_symbolic(sizes, np.array([N - 1, 9], object))[0]) == [N, 9]
    assert Div().evaluate_symbolic(np.array([-7], object), np.array([2], object))[0][0] == -3
    assert Div().evaluate_symbolic(np.array([-N], object), np.array([2], object))[0][0] == -(N // 2)


def test_comparisons_of_sizes_answer_only_what_is_certain() -> None:
    def one(op: Op, a: object, b: object) -> bool:
        return bool(op.evaluate_symbolic(np.array([a], object), np.array([b], object))[0][0])

    assert one(Equal(), N, N) and not one(Equal(), N, -1) and not one(Equal(), N + 1, N)
    assert one(Greater(), N, -1) and one(Less(), N, N + 2) and not one(Less(), N, 0)
    for op, a, b in ((Equal(), N, 3), (Less(), N, 3), (Greater(), N, 0), (Equal(), N, 0)):
        with pytest.raises(TypeError):
            one(op, a, b)


def test_where() -> None:
    condition = np.array([[True], [False]])
    (y,) = Where().evaluate(condition, np.array([1, 2]), np.array(9))
    np.testing.assert_array_equal(y, [[1, 2], [9, 9]])
    assert list(Where().evaluate_symbolic(np.array([True, False], object), np.array([N, 1], object), np.array([3, 4], object))[0]) == [N, 4]
    with pytest.raises(InferenceError, match="condition is int32"):
        Where().infer(tensor_type("int32[2]"), tensor_type("int32[2]"), tensor_type("int32[2]"))


def test_empty_operands() -> None:
    (y,) = Add().evaluate(np.zeros((0, 3), np.float32), np.zeros((1, 3), np.float32))
    assert y.shape == (0, 3)
