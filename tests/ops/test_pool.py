"""Pooling: shapes with partial windows, numbers against ONNX Runtime, indices and their inverse."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from lepton_compiler.errors import InferenceError
from lepton_compiler.ir.dim import bind, symbol
from lepton_compiler.ir.types import tensor_type
from lepton_compiler.ops.dynamic import Dynamic
from lepton_compiler.ops.pool import AveragePool, LpPool, MaxPool, MaxUnpool

X = np.random.default_rng(11).standard_normal((2, 3, 7, 8)).astype(np.float32)
Window = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]
WINDOWS: list[Window] = [
    ((3, 2), (2, 2), (1, 0, 1, 1), (1, 1)),
    ((2, 3), (3, 2), (0, 1, 0, 1), (2, 1)),
    ((3, 3), (1, 1), (1, 1, 1, 1), (1, 2)),
    ((2, 2), (3, 3), (0, 0, 1, 1), (1, 1)),
]


def onnx_window(window: Window, ceil: bool) -> dict[str, Any]:
    kernel, strides, pads, dilations = window
    return {"kernel_shape": kernel, "strides": strides, "pads": pads, "dilations": dilations, "ceil_mode": int(ceil)}


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("window", WINDOWS)
def test_max_pool_agrees_with_onnxruntime(onnxruntime_node: Any, window: Window, ceil: bool) -> None:
    for order in (0, 1):
        want = onnxruntime_node("MaxPool", [X], 2, **onnx_window(window, ceil), storage_order=order)
        got = MaxPool(*window, ceil, storage_order=order, indices=True).evaluate(X)
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(MaxPool(*window, ceil).evaluate(X)[0], want[0])
    last = np.ascontiguousarray(np.moveaxis(X, 1, -1))
    np.testing.assert_array_equal(MaxPool(*window, ceil, layout="NHWC").evaluate(last)[0], np.moveaxis(want[0], 1, -1))


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("window", WINDOWS)
def test_average_pool_agrees_with_onnxruntime(onnxruntime_node: Any, window: Window, ceil: bool, include: bool) -> None:
    (want,) = onnxruntime_node("AveragePool", [X], **onnx_window(window, ceil), count_include_pad=int(include))
    op = AveragePool(*window, ceil, include)
    np.testing.assert_allclose(op.evaluate(X)[0], want, rtol=1e-5, atol=1e-6)
    last = AveragePool(*window, ceil, include, layout="NHWC").evaluate(np.moveaxis(X, 1, -1))[0]
    np.testing.assert_allclose(last, np.moveaxis(want, 1, -1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_lp_pool_agrees_with_onnxruntime(onnxruntime_node: Any, p: int) -> None:
    window = WINDOWS[0]
    (want,) = onnxruntime_node("LpPool", [X], **onnx_window(window, False), p=p)
    np.testing.assert_allclose(LpPool(*window, p=p).evaluate(X)[0], want, rtol=1e-4)


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("window", WINDOWS)
def test_symbolic_shapes_bind_to_the_real_ones(window: Window, ceil: bool) -> None:
    op = MaxPool(*window, ceil)
    (general,) = op.infer(tensor_type("float32[2,3,h,w]"))
    for height in range(5, 12):
        (y,) = op.evaluate(np.zeros((2, 3, height, 9), np.float32))
        assert tuple(bind(d, {"h": height, "w": 9}) for d in general.shape) == y.shape


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.float16, ml_dtypes.bfloat16, np.float64])
def test_padding_never_wins_a_maximum(kind: Any) -> None:
    low = np.full((1, 1, 2, 2), -5 if kind is not np.uint8 else 0).astype(kind)
    (y,) = MaxPool((2, 2), (1, 1), (1, 1, 1, 1), (1, 1)).evaluate(low)
    assert y.dtype == low.dtype
    assert (y == low[0, 0, 0, 0]).all()


def test_max_unpool_inverts_max_pool(onnxruntime_node: Any) -> None:
    window = ((2, 2), (2, 2), (0, 0, 0, 0))
    values, where = MaxPool(*window, (1, 1), indices=True).evaluate(X[:, :, :6])
    (y,) = MaxUnpool(*window).evaluate(values, where)
    assert y.shape == (2, 3, 6, 8)
    np.testing.assert_array_equal(np.sort(y[y != 0]), np.sort(values[values != 0]))
    np.testing.assert_array_equal(y[y != 0], X[:, :, :6][y != 0])
    (larger,) = MaxUnpool(*window, output_shape=(2, 3, 7, 9)).evaluate(values, where)
    np.testing.assert_array_equal(larger[:, :, :6, :8], y)
    assert not larger[:, :, 6:].any()


def test_max_unpool_to_a_shape_known_at_run_time() -> None:
    op = Dynamic(MaxUnpool((2, 2), (2, 2), (0, 0, 0, 0)), ("output_shape",))
    (y,) = op.infer(tensor_type("float32[n,3,4,4]"), tensor_type("int64[n,3,4,4]"), tensor_type("int64[4]"))
    assert y.shape == (symbol("n"), 3, symbol("?0"), symbol("?1"))


@pytest.mark.parametrize(
    ("op", "spec", "message"),
    [
        (MaxPool((3, 3), (1, 1), (0, 0, 0, 0), (1, 1)), "float32[1,1,2,2]", "larger than the padded axis"),
        (MaxPool((3,), (1, 1), (0, 0, 0, 0), (1, 1)), "float32[1,1,8,8]", "kernel_shape"),
        (MaxPool((3, 3), (1, 1), (0, 0), (1, 1)), "float32[1,1,8,8]", "pads"),
        (MaxPool((1, 1), (1, 1), (0, 0, 0, 0), (1, 1), indices=True, layout="NHWC"), "float32[1,8,8,1]", "NCHW"),
        (AveragePool((1, 1), (1, 1), (0, 0, 0, 0), (1, 1)), "int8[1,1,8,8]", "needs a float type"),
    ],
)
def test_refusals_say_what_is_wrong(op: Any, spec: str, message: str) -> None:
    with pytest.raises(InferenceError, match=message):
        op.infer(tensor_type(spec))
