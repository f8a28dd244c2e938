"""Fourier transforms of signals, and the constants that go with them. Transforms are computed in the precision of
the signal, in float32 if that is narrower, as numpy and the reference implementation of ONNX do.

A complex number is a pair of reals in a last axis of size 2; a last axis of size 1 is a real signal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_compiler.errors import UnsupportedError
from lepton_compiler.ir.dim import Dim, symbol
from lepton_compiler.ir.op import Cost, Op, Types, require, traffic
from lepton_compiler.ir.types import FLOAT32, DType, TensorType
from lepton_compiler.ops.axes import normal_axis
from lepton_compiler.ops.broadcasting import may_equal
from lepton_compiler.ops.precision import widen


@dataclass(frozen=True)
class DFT(Op):
    """Discrete Fourier transform along `axis` of [..., 1 or 2].

    Attributes:
        axis: the axis of the signal; not the last, which holds real and imaginary parts.
        onesided: the spectrum's first length // 2 + 1 entries only; the inverse then takes such a spectrum and gives a real signal.
        inverse: with the factor 1 / length.
        length: of the transform; the signal is cut or padded with zeros to it. None is the signal's own length.
    """

    axis: int
    onesided: bool = False
    inverse: bool = False
    length: Dim | None = None

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        axis = self.signal_axis(x)
        length = self.transform_length(x)
        require(not isinstance(length, int) or length > 0, f"DFT of length {length}")
        real = self.inverse and self.onesided
        size = length // 2 + 1 if self.onesided and not self.inverse else length
        return (TensorType(x.dtype, (*x.shape[:axis], size, *x.shape[axis + 1 : -1], 1 if real else 2)),)

    def infer_dynamic(self, params: tuple[str, ...], *inputs: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        x, real = inputs[0], self.inverse and self.onesided
        require(set(params) <= {"length", "axis"}, f"DFT cannot take {', '.join(params)} at run time")
        if "axis" in params:
            shape: tuple[Dim, ...] = tuple(symbol(f"?{i}") for i in range(x.rank - 1))
        else:
            axis = self.signal_axis(x)
            shape = tuple(symbol("?0") if i == axis else d for i, d in enumerate(x.shape[:-1]))
        return (TensorType(x.dtype, (*shape, 1 if real else 2)),)

    def signal_axis(self, x: TensorType) -> int:
        """`axis`, not negative.

        Raises:
            InferenceError: the operand is not a signal, or has no such axis.
        """
        require(x.dtype.is_float, f"DFT takes floats, not {x.dtype}")
        require(x.rank >= 2 and (not isinstance(x.shape[-1], int) or x.shape[-1] in (1, 2)), f"DFT takes [..., 1 or 2], not {x}")
        axis = normal_axis(self.axis, x.rank)
        require(axis < x.rank - 1, f"DFT cannot go along the axis of real and imaginary parts of {x}")
        return axis

    def transform_length(self, x: TensorType) -> Dim:
        """The length of the transform."""
        if self.length is not None:
            return self.length
        size = x.shape[normal_axis(self.axis, x.rank)]
        return 2 * (size - 1) if self.inverse and self.onesided else size

    def evaluate(self, x: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        axis = normal_axis(self.axis, x.ndim)
        length: Any = self.transform_length(TensorType(FLOAT32, tuple(x.shape)))
        values = complex_from_pairs(x)
        if self.inverse and self.onesided:
            return (np.fft.irfft(values, length, axis=axis)[..., None].astype(x.dtype),)
        result = (np.fft.ifft if self.inverse else np.fft.fft)(values, length, axis=axis)
        if self.onesided:
            result = np.take(result, np.arange(length // 2 + 1), axis=axis)
        return (pairs_from_complex(result, x.dtype),)

    def cost(self, inputs: Types, outputs: Types) -> Cost:  # noqa: D102
        x = inputs[0]
        assert x is not None
        length = x.static_shape[normal_axis(self.axis, x.rank)]
        return Cost(x.size * max(1, length.bit_length()), 0, traffic(inputs, outputs))


@dataclass(frozen=True)
class STFT(Op):
    """Short-time Fourier transform: [batch, length, 1 or 2] (or [batch, length]) to [batch, frames, bins, 2].

    Attributes:
        frame_step: samples from one frame to the next.
        frame_length: samples per frame; None is the length of the window, or without one of the signal.
        onesided: the first frame_length // 2 + 1 bins only.
    """

    frame_step: Dim
    frame_length: Dim | None = None
    onesided: bool = True

    def infer(self, signal: TensorType, window: TensorType | None = None) -> tuple[TensorType, ...]:  # noqa: D102
        length = self.check(signal, window)
        step = self.frame_step
        require(not isinstance(step, int) or step > 0, f"STFT cannot step by {step} samples")
        frames = (signal.shape[1] - length) // step + 1
        require(not isinstance(frames, int) or frames > 0, f"STFT's frames of {length} samples are longer than the signal {signal}")
        return (TensorType(signal.dtype, (signal.shape[0], frames, self.bins(length), 2)),)

    def infer_dynamic(self, params: tuple[str, ...], *inputs: TensorType | None) -> tuple[TensorType, ...]:  # noqa: D102
        require(set(params) <= {"frame_step", "frame_length"}, f"STFT cannot take {', '.join(params)} at run time")
        data = inputs[: -len(params)]
        signal, window = data[0], data[1] if len(data) > 1 else None
        assert signal is not None
        length = self.check(signal, window)
        bins = symbol("?1") if "frame_length" in params and window is None else self.bins(length)
        return (TensorType(signal.dtype, (signal.shape[0], symbol("?0"), bins, 2)),)

    def check(self, signal: TensorType, window: TensorType | None) -> Dim:
        """The length of a frame.

        Raises:
            InferenceError: the operands do not fit.
        """
        require(signal.dtype.is_float, f"STFT takes floats, not {signal.dtype}")
        real = signal.rank == 2 or (signal.rank == 3 and signal.shape[2] == 1)
        require(real or (signal.rank == 3 and may_equal(signal.shape[2], 2)), f"STFT takes [batch, length, 1 or 2], not {signal}")
        require(window is None or window.rank == 1, f"STFT's window is {window}, not a vector")
        length = self.frame_length
        if length is None:
            length = window.shape[0] if window is not None else signal.shape[1]
        require(window is None or may_equal(window.shape[0], length), f"STFT's window is {window}, its frames have {length} samples")
        return length

    def bins(self, length: Dim) -> Dim:
        """How many frequencies the spectrum of a frame of `length` samples has."""
        return length // 2 + 1 if self.onesided else length

    def evaluate(self, signal: Any, window: Any = None) -> tuple[np.ndarray, ...]:  # noqa: D102
        values = complex_from_pairs(signal if signal.ndim == 3 else signal[..., None])
        length: Any = self.frame_length if self.frame_length is not None else len(window) if window is not None else values.shape[1]
        frames = np.lib.stride_tricks.sliding_window_view(values, length, axis=1)[:, :: self.frame_step]
        weighted = frames if window is None else frames * widen(window)
        spectrum = np.fft.fft(weighted, axis=-1)[..., : self.bins(length)]
        return (pairs_from_complex(spectrum, signal.dtype),)

    def cost(self, inputs: Types, outputs: Types) -> Cost:  # noqa: D102
        out = outputs[0]
        assert out is not None
        return Cost(out.size * max(1, out.static_shape[2].bit_length()), 0, traffic(inputs, outputs))


@dataclass(frozen=True)
class Window(Op):
    """Base: a window function as a constant vector, a sum of cosines; symmetric unless `periodic`. A symmetric one of size 1 is 1."""

    size: Dim
    periodic: bool = True
    dtype: DType = FLOAT32

    def infer(self) -> tuple[TensorType, ...]:  # noqa: D102
        require(not isinstance(self.size, int) or self.size >= 0, f"{self.name} of {self.size} samples")
        return (TensorType(self.dtype, (self.size,)),)

    def infer_dynamic(self, params: tuple[str, ...], size: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        require(params == ("size",), f"{self.name} cannot take {', '.join(params)} at run time")
        return (TensorType(self.dtype, (symbol("?0"),)),)

    def evaluate(self) -> tuple[np.ndarray, ...]:  # noqa: D102
        size = int(self.size)  # type: ignore[arg-type]
        period = size if self.periodic else size - 1
        if period == 0:
            return (np.ones(size, self.dtype.numpy),)
        angle = np.arange(size) * (2 * math.pi / period)
        terms = (factor * np.cos(n * angle) for n, factor in enumerate(self.coefficients))
        return (np.asarray(sum(terms, start=np.zeros(size))).astype(self.dtype.numpy),)

    @property
    def coefficients(self) -> tuple[float, ...]:
        """Factors of cos(0), cos(angle), cos(2 * angle), ..."""
        raise NotImplementedError(f"{self.name}.coefficients")


@dataclass(frozen=True)
class BlackmanWindow(Window):
    """0.42 - 0.5 cos(angle) + 0.08 cos(2 angle)."""

    @property
    def coefficients(self) -> tuple[float, ...]:  # noqa: D102
        return 0.42, -0.5, 0.08


@dataclass(frozen=True)
class HammingWindow(Window):
    """25/46 - 21/46 cos(angle)."""

    @property
    def coefficients(self) -> tuple[float, ...]:  # noqa: D102
        return 25 / 46, -21 / 46


@dataclass(frozen=True)
class HannWindow(Window):
    """0.5 - 0.5 cos(angle)."""

    @property
    def coefficients(self) -> tuple[float, ...]:  # noqa: D102
        return 0.5, -0.5


@dataclass(frozen=True)
class MelWeightMatrix(Op):
    """The matrix [dft_length // 2 + 1, num_mel_bins] that turns a spectrum into mel bins of triangular shape."""

    num_mel_bins: int
    dft_length: int
    sample_rate: int
    lower_edge_hertz: float
    upper_edge_hertz: float
    dtype: DType = FLOAT32

    def infer(self) -> tuple[TensorType, ...]:  # noqa: D102
        require(self.dft_length > 0 and self.sample_rate > 0, f"MelWeightMatrix of {self.dft_length} samples at {self.sample_rate} Hz")
        require(self.num_mel_bins >= 0, f"MelWeightMatrix of {self.num_mel_bins} bins")
        return (TensorType(self.dtype, (self.dft_length // 2 + 1, self.num_mel_bins)),)

    def infer_dynamic(self, params: tuple[str, ...], *inputs: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        if "dtype" in params:
            raise UnsupportedError("MelWeightMatrix needs its element type at compile time")
        rows: Dim = symbol("?0") if "dft_length" in params else self.dft_length // 2 + 1
        columns: Dim = symbol("?1") if "num_mel_bins" in params else self.num_mel_bins
        return (TensorType(self.dtype, (rows, columns)),)

    def evaluate(self) -> tuple[np.ndarray, ...]:  # noqa: D102
        low, high = (2595 * math.log10(1 + edge / 700) for edge in (self.lower_edge_hertz, self.upper_edge_hertz))
        mel = low + np.arange(self.num_mel_bins + 2) * ((high - low) / (self.num_mel_bins + 2))
        hertz = 700 * (10 ** (mel / 2595) - 1)
        edges = ((self.dft_length + 1) * hertz // self.sample_rate).astype(np.int64)
        left, centre, right = edges[:-2], edges[1:-1], edges[2:]
        bins = np.arange(self.dft_length // 2 + 1)[:, None]
        rising = np.where((bins >= left) & (bins <= centre), (bins - left) / np.maximum(centre - left, 1), 0)
        rising = np.where((left == centre) & (bins == centre), 1, rising)
        falling = np.where((bins >= centre) & (bins < right), (right - bins) / np.maximum(right - centre, 1), rising)
        return (falling.astype(self.dtype.numpy),)


def complex_from_pairs(x: Any) -> np.ndarray:
    """[..., 1] as reals, or [..., 2] as complex numbers, without the last axis; narrow floats as float32."""
    wide: np.ndarray = widen(x)
    if x.shape[-1] == 1:
        return wide[..., 0]
    return np.asarray(wide[..., 0] + np.asarray(1j, np.result_type(wide, np.complex64)) * wide[..., 1])


def pairs_from_complex(values: np.ndarray, element: np.dtype) -> np.ndarray:
    """Complex numbers as [..., 2]."""
    return np.stack([values.real, values.imag], axis=-1).astype(element)
