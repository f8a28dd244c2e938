"""Reductions, running sums, largest elements."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from lepton_compiler import ops
from lepton_compiler.errors import InferenceError, UnsupportedError
from lepton_compiler.ir.dim import symbol
from lepton_compiler.ir.op import Op
from lepton_compiler.ir.types import tensor_type
from lepton_compiler.ops.dynamic import Dynamic
from lepton_compiler.ops.reduce import (
    ArgMax,
    ArgMin,
    CumProd,
    CumSum,
    ReduceL2,
    ReduceLogSumExp,
    ReduceMax,
    ReduceMean,
    ReduceMin,
    ReduceProd,
    ReduceSum,
    TopK,
)

X = np.random.default_rng(3).uniform(0.1, 2, (2, 3, 4)).astype(np.float32)
FORMULAS = {
    "ReduceL1": lambda x, a, k: np.abs(x).sum(axis=a, keepdims=k),
    "ReduceL2": lambda x, a, k: np.sqrt((x * x).sum(axis=a, keepdims=k)),
    "ReduceLogSum": lambda x, a, k: np.log(x.sum(axis=a, keepdims=k)),
    "ReduceLogSumExp": lambda x, a, k: np.log(np.exp(x).sum(axis=a, keepdims=k)),
    "ReduceMax": lambda x, a, k: x.max(axis=a, keepdims=k),
    "ReduceMean": lambda x, a, k: x.mean(axis=a, keepdims=k),
    "ReduceMin": lambda x, a, k: x.min(axis=a, keepdims=k),
    "ReduceProd": lambda x, a, k: x.prod(axis=a, keepdims=k),
    "ReduceSum": lambda x, a, k: x.sum(axis=a, keepdims=k),
    "ReduceSumSquare": lambda x, a, k: (x * x).sum(axis=a, keepdims=k),
}


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("axes", [(0,), (-1,), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("keepdims", [True, False])
def test_values_and_shapes(name: str, axes: tuple[int, ...], keepdims: bool) -> None:
    op = ops.get(name)(axes=axes, keepdims=keepdims)  # type: ignore[call-arg]
    expected = FORMULAS[name](X.astype(np.float64), axes, keepdims)
    (y,) = op.evaluate(X)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, expected, rtol=1e-5)
    assert op.infer(tensor_type("float32[2,3,4]"))[0].shape == expected.shape
    (half,) = op.evaluate(X.astype(np.float16))
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, op.evaluate(X.astype(np.float16).astype(np.float32))[0].astype(np.float16))


@pytest.mark.parametrize("name", FORMULAS)
def test_no_axes_reduce_nothing(name: str) -> None:
    op = ops.get(name)(axes=())  # type: ignore[call-arg]
    (y,) = op.evaluate(X)
    assert y.shape == X.shape
    np.testing.assert_allclose(y, FORMULAS[name](X.astype(np.float64), (), True), rtol=1e-5)


@pytest.mark.parametrize(
    ("op", "element", "expected"),
    [
        (ReduceSum((1,)), np.float32, 0),
        (ReduceProd((1,)), np.int32, 1),
        (ReduceMax((1,)), np.float32, -np.inf),
        (ReduceMax((1,)), np.uint8, 0),
        (ReduceMin((1,)), np.int8, 127),
        (ReduceMin((1,)), ml_dtypes.bfloat16, np.inf),
        (ReduceMax((1,)), np.bool_, False),
        (ReduceMin((1,)), np.bool_, True),
        (ReduceLogSumExp((1,)), np.float32, -np.inf),
        (ReduceL2((1,)), np.float32, 0),
        (ReduceMean((1,)), np.float32, np.nan),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_reducing_nothing(op: Op, element: type, expected: float) -> None:
    (y,) = op.evaluate(np.zeros((2, 0), element))
    assert y.dtype == element
    np.testing.assert_array_equal(y.astype(np.float64), [[expected], [expected]])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_log_sum_exp_at_the_edges() -> None:
    x = np.array([[1e4, 1e4], [-np.inf, -np.inf], [np.inf, 1], [np.nan, 0]], np.float32)
    (y,) = ReduceLogSumExp((1,), keepdims=False).evaluate(x)
    np.testing.assert_allclose(y, [1e4 + np.log(2), -np.inf, np.inf, np.nan])


def test_integers() -> None:
    x = np.array([[100, 100], [-3, -4]], np.int8)
    np.testing.assert_array_equal(ReduceSum((1,), keepdims=False).evaluate(x)[0], [-56, -7])
    np.testing.assert_array_equal(ReduceMean((1,), keepdims=False).evaluate(x)[0], [100, -3])
    np.testing.assert_array_equal(ReduceL2((1,), keepdims=False).evaluate(x.astype(np.int32))[0], [141, 5])


def test_half_precision_sums_do_not_overflow_on_the_way() -> None:
    x = np.array([60000, 60000, -60000], np.float16)
    assert float(ReduceSum((0,), keepdims=False).evaluate(x)[0]) == 60000


def test_symbolic_shapes_and_errors() -> None:
    x = tensor_type("float32[n,3,m]")
    assert ReduceSum((1,)).infer(x) == (tensor_type("float32[n,1,m]"),)
    assert ReduceSum((0, -1), keepdims=False).infer(x) == (tensor_type("float32[3]"),)
    with pytest.raises(InferenceError, match="axis 3 does not exist in a tensor of rank 3"):
        ReduceSum((3,)).infer(x)
    with pytest.raises(InferenceError, match="twice"):
        ReduceSum((0, -3)).infer(x)
    with pytest.raises(InferenceError, match="not bool"):
        ReduceSum((0,)).infer(tensor_type("bool[2]"))


def test_sizes_can_be_summed_and_multiplied() -> None:
    sizes = np.array([symbol("n"), 3, symbol("m")], object)
    assert ReduceProd((0,), keepdims=False).evaluate_symbolic(sizes)[0] == symbol("n") * symbol("m") * 3
    assert ReduceSum((0,)).evaluate_symbolic(sizes)[0][0] == symbol("n") + symbol("m") + 3


def test_axes_known_at_run_time() -> None:
    op = Dynamic(ReduceSum((), keepdims=False), ("axes",))
    (t,) = op.infer(tensor_type("float32[2,3,4]"), tensor_type("int64[2]"))
    assert t.rank == 1
    np.testing.assert_allclose(op.evaluate(X, np.array([0, 2]))[0], X.sum(axis=(0, 2)), rtol=1e-6)
    assert Dynamic(ReduceSum(()), ("axes",)).infer(tensor_type("float32[2,3,4]"), tensor_type("int64[k]"))[0].rank == 3
    with pytest.raises(UnsupportedError, match="how many axes"):
        op.infer(tensor_type("float32[2,3,4]"), tensor_type("int64[k]"))


def test_arg_max_and_min() -> None:
    x = np.array([[1, 3, 3], [2, 2, 2]], np.float32)
    np.testing.assert_array_equal(ArgMax(axis=1).evaluate(x)[0], [[1], [0]])
    np.testing.assert_array_equal(ArgMax(axis=-1, keepdims=False, select_last_index=True).evaluate(x)[0], [2, 2])
    (y,) = ArgMin(axis=0).evaluate(x.astype(ml_dtypes.bfloat16))
    assert y.dtype == np.int64
    np.testing.assert_array_equal(y, [[0, 1, 1]])
    assert ArgMax(axis=1, keepdims=False).infer(tensor_type("float32[n,3]")) == (tensor_type("int64[n]"),)
    with pytest.raises(InferenceError, match="empty"):
        ArgMax(axis=1).infer(tensor_type("float32[n,0]"))


@pytest.mark.parametrize(
    ("exclusive", "reverse", "total"),
    [(False, False, [1, 3, 6]), (True, False, [0, 1, 3]), (False, True, [6, 5, 3]), (True, True, [5, 3, 0])],
)
def test_cumulative_sum(exclusive: bool, reverse: bool, total: list[int]) -> None:
    op = CumSum(axis=-1, exclusive=exclusive, reverse=reverse)
    for element in (np.int32, np.float16, np.float64):
        (y,) = op.evaluate(np.array([[1, 2, 3]], element))
        assert y.dtype == element
        np.testing.assert_array_equal(y, [total])
    assert op.evaluate(np.zeros((0, 0), np.float32))[0].shape == (0, 0)


def test_cumulative_product_and_run_time_axis() -> None:
    np.testing.assert_array_equal(CumProd(axis=0, exclusive=True).evaluate(np.array([2, 3, 4]))[0], [1, 2, 6])
    op = Dynamic(CumSum(axis=0), ("axis",))
    assert op.infer(tensor_type("float32[n,2]"), tensor_type("int64[]")) == (tensor_type("float32[n,2]"),)
    np.testing.assert_array_equal(op.evaluate(np.array([[1, 2], [3, 4]]), np.array(1))[0], [[1, 3], [3, 7]])


def test_topk_prefers_the_first_of_equals() -> None:
    x = np.array([[1, 3, 3, 2], [5, 5, 5, 5]], np.float32)
    values, indices = TopK(k=2).evaluate(x)
    np.testing.assert_array_equal(values, [[3, 3], [5, 5]])
    np.testing.assert_array_equal(indices, [[1, 2], [0, 1]])
    values, indices = TopK(k=3, largest=False).evaluate(x.astype(np.float16))
    np.testing.assert_array_equal(values, [[1, 2, 3], [5, 5, 5]])
    np.testing.assert_array_equal(indices, [[0, 3, 1], [0, 1, 2]])
    values, indices = TopK(k=1, axis=0).evaluate(x)
    np.testing.assert_array_equal(indices, [[1, 1, 1, 1]])


def test_topk_types() -> None:
    values, indices = TopK(k=2, axis=1).infer(tensor_type("float32[n,5,3]"))
    assert (values, indices) == (tensor_type("float32[n,2,3]"), tensor_type("int64[n,2,3]"))
    with pytest.raises(InferenceError, match="TopK wants 6 of the 5 elements"):
        TopK(k=6, axis=1).infer(tensor_type("float32[n,5,3]"))
    values, _ = Dynamic(TopK(k=1), ("k",)).infer(tensor_type("float32[n,5]"), tensor_type("int64[1]"))
    assert values.shape == (symbol("n"), symbol("?0"))
