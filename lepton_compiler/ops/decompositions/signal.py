"""Fourier transforms as products with a constant matrix, which is how a compiler without an FFT computes short ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lepton_compiler.errors import UnsupportedError
from lepton_compiler.ir.dim import Dim
from lepton_compiler.ir.graph import Node, Value
from lepton_compiler.ops import signal as ops
from lepton_compiler.ops.axes import normal_axis
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.decompose import as_type, decomposition, wide


def transform_matrix(size: int, parts: int, length: int, bins: int, *, inverse: bool = False) -> np.ndarray:
    """The real matrix [size * parts, bins * 2] that maps a signal, as pairs if `parts` is 2, to its spectrum as pairs.

    The signal has `size` samples; those beyond `length` do not count, and missing ones are zero.
    """
    sign = 1 if inverse else -1
    phase = np.outer(np.arange(size), np.arange(bins)) % length * (sign * 2 * math.pi / length)
    factor = (1 / length if inverse else 1.0) * (np.arange(size) < length)[:, None]
    cos, sin = np.cos(phase) * factor, np.sin(phase) * factor
    rows = [np.stack([cos, sin], axis=-1), np.stack([-sin, cos], axis=-1)][:parts]
    return np.stack(rows, axis=1).reshape(size * parts, bins * 2)


def real_inverse_matrix(size: int, parts: int, length: int) -> np.ndarray:
    """The matrix [size * parts, length] that maps one half of a spectrum to the real signal it belongs to."""
    index = np.arange(size)
    phase = np.outer(index, np.arange(length)) % length * (2 * math.pi / length)
    single = (index == 0) | (2 * index == length)
    factor = (np.where(single, 1, 2) * (index <= length // 2) / length)[:, None]
    rows = [np.cos(phase) * factor, np.where(single[:, None], 0, -np.sin(phase)) * factor][:parts]
    return np.stack(rows, axis=1).reshape(size * parts, length)


@decomposition(ops.DFT)
def _(build: Builder, node: Node) -> Sequence[Value]:
    op, (x,) = node.op, node.present_inputs
    assert isinstance(op, ops.DFT)
    axis, length = normal_axis(op.axis, x.type.rank), op.transform_length(x.type)
    size, parts = x.type.shape[axis], x.type.shape[-1]
    if not (isinstance(length, int) and isinstance(size, int) and isinstance(parts, int)):
        raise UnsupportedError("the length of a DFT must be known to lower it", where=node.describe(), hint="bind the dimension")
    if op.inverse and op.onesided:
        matrix = real_inverse_matrix(size, parts, length)
    else:
        matrix = transform_matrix(size, parts, length, length // 2 + 1 if op.onesided else length, inverse=op.inverse)
    data = wide(build, x)
    perm = (*(i for i in range(x.type.rank) if i not in (axis, x.type.rank - 1)), axis, x.type.rank - 1)
    last = [build.Transpose(data, perm=perm) if perm != tuple(range(x.type.rank)) else data]
    leading = last[0].type.shape[:-2]
    flat = build.Reshape(last[0], shape=(*leading, size * parts))
    product = build.MatMul(flat, build.constant(matrix.astype(data.type.dtype.numpy)))
    pairs = node.output.type.shape[-1]
    spectrum = build.Reshape(product, shape=(*leading, node.output.type.shape[axis], pairs))
    back = tuple(perm.index(i) for i in range(x.type.rank))
    result = build.Transpose(spectrum, perm=back) if back != tuple(range(x.type.rank)) else spectrum
    return [as_type(build, result, x.type.dtype)]


@decomposition(ops.STFT)
def _(build: Builder, node: Node) -> Sequence[Value]:
    op = node.op
    assert isinstance(op, ops.STFT)
    signal, window = (*node.inputs, None)[:2]
    assert signal is not None
    length = op.check(signal.type, window.type if window is not None else None)
    parts: Dim = signal.type.shape[2] if signal.type.rank == 3 else 1
    if not (isinstance(length, int) and isinstance(op.frame_step, int) and isinstance(parts, int)):
        raise UnsupportedError("the length and the step of an STFT's frames must be known to lower it", where=node.describe())
    bins = int(op.bins(length))  # type: ignore[arg-type]
    data = wide(build, signal)
    batch, samples = signal.type.shape[:2]
    if parts == 1:
        channels = build.Reshape(data, shape=(batch, 1, samples))
    else:
        channels = build.Transpose(data, perm=(0, 2, 1))
    matrix = transform_matrix(length, parts, length, bins).reshape(length, parts, bins * 2)
    kernel = build.constant(np.ascontiguousarray(matrix.transpose(2, 1, 0)).astype(data.type.dtype.numpy))
    if window is not None:
        kernel = build.Mul(kernel, as_type(build, window, data.type.dtype))
    spectrum = build.Conv(channels, kernel, strides=(op.frame_step,), pads=(0, 0), dilations=(1,))
    frames = spectrum.type.shape[2]
    pairs = build.Transpose(build.Reshape(spectrum, shape=(batch, bins, 2, frames)), perm=(0, 3, 1, 2))
    return [as_type(build, pairs, signal.type.dtype)]
