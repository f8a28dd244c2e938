"""Fourier transforms: halved as long as their length is even, the rest as products with a constant matrix.

Halving is the decimation in frequency of Gentleman and Sande (Fast Fourier transforms for fun and profit, 1966).
"""

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
    cos, sin = _circle(np.outer(np.arange(size), np.arange(bins)), length)
    factor = (1 / length if inverse else 1.0) * (np.arange(size) < length)[:, None]
    cos, sin = cos * factor, sin * factor * sign
    rows = [np.stack([cos, sin], axis=-1), np.stack([-sin, cos], axis=-1)][:parts]
    return np.stack(rows, axis=1).reshape(size * parts, bins * 2)


def _circle(steps: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine of `steps` parts of a circle of `length` parts, exact at quarters."""
    steps = steps % length
    phase, quarter = steps * (2 * math.pi / length), np.where(4 * steps % length == 0, 4 * steps // length, -1)
    cos = np.select([quarter == 0, quarter == 2, quarter > 0], [1.0, -1.0, 0.0], np.cos(phase))
    sin = np.select([quarter == 1, quarter == 3, quarter >= 0], [1.0, -1.0, 0.0], np.sin(phase))
    return cos, sin


def real_inverse_matrix(size: int, parts: int, length: int) -> np.ndarray:
    """The matrix [size * parts, length] that maps one half of a spectrum to the real signal it belongs to."""
    index = np.arange(size)
    cos, sin = _circle(np.outer(index, np.arange(length)), length)
    single = (index == 0) | (2 * index == length)
    factor = (np.where(single, 1, 2) * (index <= length // 2) / length)[:, None]
    rows = [cos * factor, np.where(single[:, None], 0, -sin) * factor][:parts]
    return np.stack(rows, axis=1).reshape(size * parts, length)


@decomposition(ops.DFT)
def _(build: Builder, node: Node) -> Sequence[Value]:
    op, (x,) = node.op, node.present_inputs
    assert isinstance(op, ops.DFT)
    axis, length = normal_axis(op.axis, x.type.rank), op.transform_length(x.type)
    size, parts = x.type.shape[axis], x.type.shape[-1]
    if not (isinstance(length, int) and isinstance(size, int) and isinstance(parts, int)):
        raise UnsupportedError("the length of a DFT must be known to lower it", where=node.describe(), hint="bind the dimension")
    data = wide(build, x)
    perm = (*(i for i in range(x.type.rank) if i not in (axis, x.type.rank - 1)), axis, x.type.rank - 1)
    last = build.Transpose(data, perm=perm) if perm != tuple(range(x.type.rank)) else data
    bins = length // 2 + 1 if op.onesided else length
    if op.inverse and op.onesided:
        spectrum = _product(build, last, real_inverse_matrix(size, parts, length), length, 1)
    elif halves_pay(length, parts, bins):
        spectrum = _halved(build, _complex_of_length(build, last, length), op.inverse)
        spectrum = spectrum if bins == length else _first(build, spectrum, bins)
    else:
        spectrum = _product(build, last, transform_matrix(size, parts, length, bins, inverse=op.inverse), bins, 2)
    back = tuple(perm.index(i) for i in range(x.type.rank))
    result = build.Transpose(spectrum, perm=back) if back != tuple(range(x.type.rank)) else spectrum
    return [as_type(build, result, x.type.dtype)]


def _product(build: Builder, signal: Value, matrix: np.ndarray, bins: int, pairs: int) -> Value:
    """`signal` [..., size, parts] times a matrix, as [..., bins, pairs]."""
    leading = signal.type.shape[:-2]
    flat = build.Reshape(signal, shape=(*leading, matrix.shape[0]))
    product = build.MatMul(flat, build.constant(matrix.astype(signal.type.dtype.numpy)))
    return build.Reshape(product, shape=(*leading, bins, pairs))


SHORT = 8
"""Transforms of at most this length are not halved: a small matrix is quicker than the steps around it."""


def blocks_of(length: int) -> int:
    """How many transforms of a `blocks`-th of the length are left after halving."""
    blocks = 1
    while length // blocks > SHORT and (length // blocks) % 2 == 0:
        blocks *= 2
    return blocks


def halves_pay(length: int, parts: int, bins: int) -> bool:
    """Whether halving takes less work than one matrix; a real signal, or half a spectrum, has to be completed first."""
    blocks = blocks_of(length)
    return blocks > 1 if parts == 2 and bins == length else blocks > SHORT


def _complex_of_length(build: Builder, signal: Value, length: int) -> Value:
    """[..., size, 1 or 2] cut or filled with zeros to [..., length, 2]."""
    rank, (size, parts) = signal.type.rank, signal.type.shape[-2:]
    assert isinstance(size, int) and isinstance(parts, int)
    if size > length:
        signal = _first(build, signal, length)
    missing = (max(length - size, 0), 2 - parts)
    return build.Pad(signal, pads=(*(0,) * (2 * rank - 2), *missing)) if any(missing) else signal


def _first(build: Builder, x: Value, count: int) -> Value:
    """The first elements along the axis before the last."""
    return build.Slice(x, starts=(0,), ends=(count,), axes=(x.type.rank - 2,), steps=(1,))


def _halved(build: Builder, x: Value, inverse: bool) -> Value:
    """The transform of [..., length, 2]: sums and turned differences of halves, small products, and an exchange of places."""
    leading, length = x.type.shape[:-2], x.type.shape[-2]
    assert isinstance(length, int)
    element, blocks, size = x.type.dtype.numpy, 1, length
    data = build.Reshape(x, shape=(*leading, 1, size, 2))
    while blocks < blocks_of(length):
        data, size = _split(build, data, size // 2, inverse), size // 2
        blocks *= 2
        data = build.Reshape(data, shape=(*leading, blocks, size, 2))
    matrix = transform_matrix(size, 2, size, size, inverse=inverse) * (size if inverse else 1)
    spectra = build.Reshape(_product(build, data, matrix, size, 2), shape=(*leading, length, 2))
    order = np.arange(length).reshape(blocks, size)[_reversed_bits(blocks)].T.reshape(-1)
    result = build.Gather(spectra, build.constant(order), axis=x.type.rank - 2)
    return build.Mul(result, build.constant(np.array(1 / length, element))) if inverse else result


def _split(build: Builder, data: Value, half: int, inverse: bool) -> Value:
    """[..., blocks, 2 * half, 2] to [..., blocks, 2, half, 2]: what the even and what the odd bins are made of."""
    rank, shape = data.type.rank, data.type.shape
    element = data.type.dtype.numpy
    ends = [build.Slice(data, starts=(i * half,), ends=((i + 1) * half,), axes=(rank - 2,), steps=(1,)) for i in (0, 1)]
    difference = build.Sub(*ends)
    angle = np.arange(half) * ((1 if inverse else -1) * math.pi / half)
    along, across = np.cos(angle)[:, None], np.stack([-np.sin(angle), np.sin(angle)], axis=-1)
    swapped = build.Gather(difference, build.constant(np.array([1, 0])), axis=rank - 1)
    turned = build.Add(
        build.Mul(difference, build.constant(along.astype(element))), build.Mul(swapped, build.constant(across.astype(element)))
    )
    pair = [build.Reshape(v, shape=(*shape[:-2], 1, half, 2)) for v in (build.Add(*ends), turned)]
    return build.Concat(*pair, axis=rank - 2)


def _reversed_bits(count: int) -> np.ndarray:
    """The numbers below a power of two, each with its bits in reverse order."""
    order = np.zeros(1, np.int64)
    while len(order) < count:
        order = np.concatenate([2 * order, 2 * order + 1])
    return order


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
