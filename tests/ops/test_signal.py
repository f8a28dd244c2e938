"""Fourier transforms and windows."""

from __future__ import annotations

import numpy as np
import pytest

from lepton_compiler.errors import InferenceError
from lepton_compiler.ir.dim import symbol
from lepton_compiler.ir.types import FLOAT64, tensor_type
from lepton_compiler.ops.dynamic import Dynamic
from lepton_compiler.ops.signal import DFT, STFT, BlackmanWindow, HammingWindow, HannWindow, MelWeightMatrix

RNG = np.random.default_rng(13)


def pairs(values: np.ndarray) -> np.ndarray:
    return np.stack([values.real, values.imag], axis=-1)


def test_transform_of_pairs_and_reals() -> None:
    z = RNG.standard_normal((2, 7, 3)) + 1j * RNG.standard_normal((2, 7, 3))
    for length in (None, 5, 9):
        (y,) = DFT(axis=1, length=length).evaluate(pairs(z).astype(np.float32))
        assert y.dtype == np.float32
        np.testing.assert_allclose(y, pairs(np.fft.fft(z, length, axis=1)), rtol=1e-4, atol=1e-5)
        (y,) = DFT(axis=1, length=length, inverse=True).evaluate(pairs(z))
        np.testing.assert_allclose(y, pairs(np.fft.ifft(z, length, axis=1)))
    (half,) = DFT(axis=-3, onesided=True).evaluate(z.real[..., None])
    np.testing.assert_allclose(half, pairs(np.fft.rfft(z.real, axis=1)), atol=1e-12)


@pytest.mark.parametrize("length", [6, 7])
def test_one_sided_inverse_gives_the_signal_back(length: int) -> None:
    signal = RNG.standard_normal((2, length, 1))
    (spectrum,) = DFT(axis=1, onesided=True).evaluate(signal)
    op = DFT(axis=1, onesided=True, inverse=True, length=length)
    np.testing.assert_allclose(op.evaluate(spectrum)[0], signal, atol=1e-12)
    assert op.infer(tensor_type("float32[2,4,2]"))[0].shape == (2, length, 1)


def test_transform_types() -> None:
    x = tensor_type("float32[n,8,1]")
    assert DFT(axis=1).infer(x) == (tensor_type("float32[n,8,2]"),)
    assert DFT(axis=-2, onesided=True).infer(x) == (tensor_type("float32[n,5,2]"),)
    assert DFT(axis=1, onesided=True, inverse=True).infer(tensor_type("float32[n,5,2]")) == (tensor_type("float32[n,8,1]"),)
    (dynamic,) = Dynamic(DFT(axis=1), ("length",)).infer(x, tensor_type("int64[]"))
    assert dynamic.shape == (symbol("n"), symbol("?0"), 2)
    assert Dynamic(DFT(axis=1), ("length", "axis")).infer(x, tensor_type("int64[]"), tensor_type("int64[]"))[0].rank == 3
    with pytest.raises(InferenceError, match="real and imaginary parts"):
        DFT(axis=2).infer(x)
    with pytest.raises(InferenceError, match=r"takes \[..., 1 or 2\]"):
        DFT(axis=1).infer(tensor_type("float32[n,8,3]"))


@pytest.mark.parametrize("onesided", [True, False])
def test_short_time_transform(onesided: bool) -> None:
    signal, window = RNG.standard_normal((2, 50)).astype(np.float32), np.hanning(16).astype(np.float32)
    op = STFT(frame_step=5, onesided=onesided)
    (y,) = op.evaluate(signal[..., None], window)
    frames = np.stack([signal[:, i : i + 16] * window for i in range(0, 35, 5)], axis=1)
    expected = np.fft.fft(frames)[..., : 9 if onesided else 16]
    np.testing.assert_allclose(y, pairs(expected), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(op.evaluate(signal, window)[0], y)
    assert op.infer(tensor_type("float32[2,50,1]"), tensor_type("float32[16]"))[0].shape == y.shape


def test_short_time_types() -> None:
    (t,) = STFT(frame_step=160, frame_length=400).infer(tensor_type("float32[b,n,1]"))
    assert t.shape == (symbol("b"), (symbol("n") - 400) // 160 + 1, 201, 2)
    with pytest.raises(InferenceError, match="longer than the signal"):
        STFT(frame_step=2, frame_length=10).infer(tensor_type("float32[1,8,1]"))
    with pytest.raises(InferenceError, match="window"):
        STFT(frame_step=2, frame_length=4).infer(tensor_type("float32[1,8,1]"), tensor_type("float32[5]"))
    (dynamic,) = Dynamic(STFT(frame_step=1), ("frame_step",)).infer(
        tensor_type("float32[1,8]"), tensor_type("float32[4]"), tensor_type("int64[]")
    )
    assert dynamic.shape == (1, symbol("?0"), 3, 2)


def test_windows() -> None:
    np.testing.assert_allclose(HannWindow(8, periodic=False).evaluate()[0], np.hanning(8), atol=1e-7)
    np.testing.assert_allclose(HannWindow(8, dtype=FLOAT64).evaluate()[0], np.hanning(9)[:8], atol=1e-15)
    np.testing.assert_allclose(BlackmanWindow(9, periodic=False).evaluate()[0], np.blackman(9), atol=1e-7)
    np.testing.assert_allclose(HammingWindow(5, periodic=False).evaluate()[0], np.hamming(5), atol=1e-2)
    assert HannWindow(0).evaluate()[0].shape == (0,)
    np.testing.assert_array_equal(HannWindow(1, periodic=False).evaluate()[0], [1])
    assert Dynamic(HannWindow(1), ("size",)).infer(tensor_type("int64[]"))[0].shape == (symbol("?0"),)


def test_mel_matrix() -> None:
    op = MelWeightMatrix(num_mel_bins=8, dft_length=64, sample_rate=8000, lower_edge_hertz=20.0, upper_edge_hertz=4000.0)
    (matrix,) = op.evaluate()
    assert matrix.shape == (33, 8) and matrix.dtype == np.float32
    assert matrix.min() == 0 and np.all(matrix.max(axis=0) == 1)
    assert np.all(np.diff(matrix.argmax(axis=0)) >= 0)
    assert op.infer()[0].shape == (33, 8)
    template = MelWeightMatrix(1, 1, 1, 0.0, 0.0)
    names = ("num_mel_bins", "dft_length", "sample_rate", "lower_edge_hertz", "upper_edge_hertz")
    dynamic = Dynamic(template, names)
    np.testing.assert_array_equal(dynamic.evaluate(*(np.array(v) for v in (8, 64, 8000, 20.0, 4000.0)))[0], matrix)
