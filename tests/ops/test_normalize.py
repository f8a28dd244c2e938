"""Softmax and normalizations."""

from __future__ import annotations

import numpy as np
import pytest

from lepton_compiler.errors import InferenceError
from lepton_compiler.ir.op import Op
from lepton_compiler.ir.types import tensor_type
from lepton_compiler.ops.normalize import (
    LRN,
    BatchNormalization,
    GroupNormalization,
    Hardmax,
    InstanceNormalization,
    LayerNormalization,
    LogSoftmax,
    LpNormalization,
    MeanVarianceNormalization,
    RMSNormalization,
    Softmax,
)

RNG = np.random.default_rng(5)
X = RNG.standard_normal((2, 6, 3, 4)).astype(np.float32)
C = RNG.standard_normal(6).astype(np.float32)
D = RNG.standard_normal(6).astype(np.float32)


def standardized(x: np.ndarray, axes: tuple[int, ...], epsilon: float = 1e-5) -> np.ndarray:
    wide = x.astype(np.float64)
    result: np.ndarray = (wide - wide.mean(axis=axes, keepdims=True)) / np.sqrt(wide.var(axis=axes, keepdims=True) + epsilon)
    return result


def channels(vector: np.ndarray) -> np.ndarray:
    return vector.reshape(-1, 1, 1)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax_family(axis: int) -> None:
    wide = X.astype(np.float64)
    expected = np.exp(wide) / np.exp(wide).sum(axis=axis, keepdims=True)
    np.testing.assert_allclose(Softmax(axis).evaluate(X)[0], expected, rtol=1e-5)
    np.testing.assert_allclose(LogSoftmax(axis).evaluate(X)[0], np.log(expected), rtol=1e-5, atol=1e-6)
    (hard,) = Hardmax(axis).evaluate(X)
    np.testing.assert_array_equal(hard.argmax(axis=axis), X.argmax(axis=axis))
    np.testing.assert_array_equal(hard.sum(axis=axis), np.ones_like(X).max(axis=axis))


def test_softmax_of_large_equal_and_no_values() -> None:
    np.testing.assert_allclose(Softmax().evaluate(np.array([[1e5, 1e5]], np.float32))[0], [[0.5, 0.5]])
    np.testing.assert_array_equal(Hardmax().evaluate(np.array([[2, 2, 1]], np.float32))[0], [[1, 0, 0]])
    for op in (Softmax(), LogSoftmax(), Hardmax()):
        assert op.evaluate(np.zeros((2, 0), np.float32))[0].shape == (2, 0)


def test_lp_normalization_leaves_zeros() -> None:
    x = np.array([[3, -4], [0, 0]], np.float32)
    np.testing.assert_allclose(LpNormalization(axis=1).evaluate(x)[0], [[0.6, -0.8], [0.0, 0.0]], rtol=1e-6)
    np.testing.assert_allclose(LpNormalization(axis=1, p=1).evaluate(x)[0], [[3 / 7, -4 / 7], [0.0, 0.0]], rtol=1e-6)
    with pytest.raises(InferenceError, match="p = 1 or 2, not 3"):
        LpNormalization(p=3).infer(tensor_type("float32[2]"))


def test_batch_normalization() -> None:
    var = np.abs(D) + 0.1
    expected = channels(C) * (X - channels(D)) / np.sqrt(channels(var) + 1e-3) + channels(D)
    np.testing.assert_allclose(BatchNormalization(epsilon=1e-3).evaluate(X, C, D, D, var)[0], expected, rtol=1e-4, atol=1e-5)
    last = np.moveaxis(X, 1, -1)
    (y,) = BatchNormalization(epsilon=1e-3, axis=-1).evaluate(last, C, D, D, var)
    np.testing.assert_allclose(np.moveaxis(y, -1, 1), expected, rtol=1e-4, atol=1e-5)
    vector, short = tensor_type("float32[6]"), tensor_type("float32[5]")
    with pytest.raises(InferenceError, match="BatchNormalization's mean is float32\\[5\\], not one value for each of 6 channels"):
        BatchNormalization().infer(tensor_type("float32[n,6,h]"), vector, vector, short, vector)


def test_normalizations_by_their_formula() -> None:
    np.testing.assert_allclose(
        InstanceNormalization().evaluate(X, C, D)[0], standardized(X, (2, 3)) * channels(C) + channels(D), rtol=1e-4, atol=1e-5
    )
    grouped = standardized(X.reshape(2, 3, 2, 3, 4), (2, 3, 4)).reshape(X.shape)
    np.testing.assert_allclose(
        GroupNormalization(num_groups=3).evaluate(X, C, D)[0], grouped * channels(C) + channels(D), rtol=1e-4, atol=1e-5
    )
    scale = RNG.standard_normal((3, 4)).astype(np.float32)
    np.testing.assert_allclose(LayerNormalization(axis=2).evaluate(X, scale)[0], standardized(X, (2, 3)) * scale, rtol=1e-4, atol=1e-5)
    rms = X / np.sqrt((X.astype(np.float64) ** 2).mean(axis=-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(RMSNormalization().evaluate(X, scale[0])[0], rms * scale[0], rtol=1e-5)
    np.testing.assert_allclose(MeanVarianceNormalization().evaluate(X)[0], standardized(X, (0, 2, 3), 0), rtol=1e-4, atol=1e-5)


def test_layer_normalization_statistics() -> None:
    op = LayerNormalization(axis=-2, statistics=True)
    half = X.astype(np.float16)
    y, mean, inverse = op.evaluate(half, np.ones((3, 4), np.float16), np.zeros(4, np.float16))
    assert [a.dtype.name for a in (y, mean, inverse)] == ["float16", "float32", "float32"]
    np.testing.assert_allclose(mean[..., 0, 0], half.astype(np.float64).mean(axis=(2, 3)), atol=1e-6)
    np.testing.assert_allclose(inverse[..., 0, 0], 1 / np.sqrt(half.astype(np.float64).var(axis=(2, 3)) + 1e-5), rtol=1e-5)
    types = op.infer(tensor_type("float16[n,6,3,4]"), tensor_type("float16[3,4]"))
    assert types == (tensor_type("float16[n,6,3,4]"), tensor_type("float32[n,6,1,1]"), tensor_type("float32[n,6,1,1]"))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_lrn(size: int) -> None:
    op = LRN(size=size, alpha=0.5, beta=0.6, bias=2.0)
    expected = np.empty(X.shape)
    for c in range(6):
        window = X[:, max(0, c - (size - 1) // 2) : c + size // 2 + 1].astype(np.float64)
        expected[:, c] = X[:, c] / (2 + 0.5 / size * (window**2).sum(axis=1)) ** 0.6
    np.testing.assert_allclose(op.evaluate(X)[0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("op", "operands"),
    [
        (Softmax(), [X]),
        (LogSoftmax(), [X]),
        (LpNormalization(), [X]),
        (InstanceNormalization(), [X, C, D]),
        (GroupNormalization(2), [X, C, D]),
        (LayerNormalization(), [X, C[:4], D[:4]]),
        (RMSNormalization(), [X, C[:4]]),
        (MeanVarianceNormalization(), [X]),
        (LRN(3), [X]),
    ],
    ids=lambda v: v.name if isinstance(v, Op) else "",
)
def test_half_precision_rounds_once(op: Op, operands: list[np.ndarray]) -> None:
    half = [a.astype(np.float16) for a in operands]
    (y,) = op.evaluate(*half)
    assert y.dtype == np.float16
    np.testing.assert_array_equal(y, op.evaluate(*(a.astype(np.float32) for a in half))[0].astype(np.float16))


def test_errors() -> None:
    x, vector = tensor_type("float32[n,6,3]"), tensor_type("float32[6]")
    with pytest.raises(InferenceError, match="cannot split 6 channels into 4 groups"):
        GroupNormalization(num_groups=4).infer(x, vector, vector)
    with pytest.raises(InferenceError, match="axis 3"):
        Softmax(3).infer(x)
    with pytest.raises(InferenceError, match="scale of shape"):
        LayerNormalization().infer(x, tensor_type("float32[4]"))
    with pytest.raises(InferenceError, match="takes floats, not int32"):
        LogSoftmax().infer(tensor_type("int32[2]"))
