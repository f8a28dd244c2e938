"""Sliding windows over the spatial axes of channels-first arrays: what convolution and pooling share."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from lepton_compiler.errors import InferenceError
from lepton_compiler.ir.dim import Dim, ceildiv, floordiv, minimum
from lepton_compiler.ir.op import require
from lepton_compiler.ir.types import TensorType


def check_window(name: str, spatial: int, **attributes: tuple[Any, ...]) -> None:
    """Require one entry per spatial axis in each attribute, two in those called `pads`, all sizes positive.

    Raises:
        InferenceError: an attribute of another length, or a stride, dilation or kernel below one.
    """
    for key, given in attributes.items():
        wanted = 2 * spatial if key == "pads" else spatial
        require(len(given) == wanted, f"{name}: {key}={given} needs {wanted} entries for {spatial} spatial axes")
        if key in ("strides", "dilations", "kernel_shape"):
            require(all(g >= 1 for g in given if isinstance(g, int)), f"{name}: {key}={given} must be positive")


def window_count(size: Dim, kernel: Dim, stride: int, dilation: int, pads: tuple[Dim, Dim], ceil_mode: bool = False) -> Dim:
    """How many windows fit along one axis; with `ceil_mode` a last, partial one counts if it starts inside the data.

    Raises:
        InferenceError: the window is larger than the padded axis.
    """
    before, after = pads
    reach = (kernel - 1) * dilation + 1
    room = size + before + after - reach
    if isinstance(room, int) and room < 0:
        if size == 0:
            return 0
        if not ceil_mode or room + stride <= 0:
            raise InferenceError(f"a window of {reach} is larger than the padded axis of {size + before + after}")
    if ceil_mode:
        return minimum(ceildiv(room, stride) + 1, ceildiv(size + before, stride))
    return floordiv(room, stride) + 1


def window_shape(
    sizes: Sequence[Dim],
    kernel: Sequence[Dim],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[Dim],
    ceil_mode: bool = False,
) -> tuple[Dim, ...]:
    """`window_count` along every axis; `pads` holds all begins, then all ends."""
    ends = pads[len(sizes) :]
    axes = zip(sizes, kernel, strides, dilations, pads, ends, strict=False)
    return tuple(window_count(n, k, s, d, (b, e), ceil_mode) for n, k, s, d, b, e in axes)


def pad_spatial(x: np.ndarray, begins: Sequence[int], ends: Sequence[int], value: Any = 0) -> np.ndarray:
    """`x` with its last axes padded by `value`; negative amounts crop."""
    lead = x.ndim - len(begins)
    if any(p < 0 for p in (*begins, *ends)):
        crop: list[Any] = [slice(max(0, -b), max(0, n - max(0, -e))) for b, e, n in zip(begins, ends, x.shape[lead:], strict=True)]
        x = x[..., *crop]
    if not any(p > 0 for p in (*begins, *ends)):
        return x
    shape = [*x.shape[:lead], *(max(0, b) + n + max(0, e) for b, e, n in zip(begins, ends, x.shape[lead:], strict=True))]
    padded = np.full(shape, value, x.dtype)
    inner: list[Any] = [slice(max(0, b), max(0, b) + n) for b, n in zip(begins, x.shape[lead:], strict=True)]
    padded[..., *inner] = x
    return padded


def windows(x: np.ndarray, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], out: Sequence[int]) -> np.ndarray:
    """A read-only view `[..., *out, *kernel]` of all windows of an already padded, non-empty `x`."""
    rank = len(kernel)
    steps = x.strides[-rank:]
    moves = [a * s for a, s in zip(steps, strides, strict=True)]
    taps = [a * d for a, d in zip(steps, dilations, strict=True)]
    shape = (*x.shape[:-rank], *out, *kernel)
    return np.lib.stride_tricks.as_strided(x, shape, (*x.strides[:-rank], *moves, *taps), writeable=False)


def kernel_slices(
    kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], out: Sequence[int]
) -> Iterator[tuple[tuple[int, ...], tuple[Any, ...]]]:
    """For each kernel position: the position, and the index that picks its element of every window from `x[..., spatial]`."""
    for position in itertools.product(*map(range, kernel)):
        starts = [p * d for p, d in zip(position, dilations, strict=True)]
        picks = [slice(b, b + (n - 1) * s + 1, s) if n else slice(0, 0) for b, s, n in zip(starts, strides, out, strict=True)]
        yield position, (..., *picks)


def channels_first(x: Any) -> Any:
    """`[N, spatial..., C]` to `[N, C, spatial...]`, for an array or a type."""
    if isinstance(x, TensorType):
        return TensorType(x.dtype, (x.shape[0], x.shape[-1], *x.shape[1:-1]))
    return np.moveaxis(x, -1, 1)


def channels_last(x: Any) -> Any:
    """`[N, C, spatial...]` to `[N, spatial..., C]`, for an array or a type."""
    if isinstance(x, TensorType):
        return TensorType(x.dtype, (x.shape[0], *x.shape[2:], x.shape[1]))
    return np.ascontiguousarray(np.moveaxis(x, 1, -1))


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`a @ b`, exact (modulo the type's range) and through BLAS where possible for integers."""
    kind = a.dtype
    if kind.kind in "iub" and a.size and b.size:
        bound = _magnitude(a) * _magnitude(b) * a.shape[-1]
        for exact, limit in ((np.float32, 1 << 24), (np.float64, 1 << 53)):
            if bound < limit:
                return np.asarray(np.matmul(a.astype(exact), b.astype(exact)).astype(np.int64).astype(kind))
    return np.asarray(np.matmul(a, b))


def _magnitude(a: np.ndarray) -> int:
    return max(abs(int(a.max())), abs(int(a.min())))


def ints(sizes: Iterable[Dim]) -> list[int]:
    """Sizes as numbers.

    Raises:
        TypeError: one of them is symbolic.
    """
    return [operator.index(s) for s in sizes]  # type: ignore[arg-type]
