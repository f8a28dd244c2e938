"""Pooling: a reduction over sliding windows, and the inverse of max pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_compiler.ir.dim import Dim, symbol
from lepton_compiler.ir.op import Cost, Op, Types, require, traffic
from lepton_compiler.ir.types import INT64, TensorType, dtype
from lepton_compiler.ops.precision import widen
from lepton_compiler.ops.window import channels_first, channels_last, check_window, ints, kernel_slices, pad_spatial, window_shape


@dataclass(frozen=True)
class _Pool(Op):
    """Base of the poolings over [N, C, spatial...]; `pads` holds all begins, then all ends."""

    kernel_shape: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[Dim, ...]
    dilations: tuple[int, ...]
    ceil_mode: bool = False

    def _pooled(self, x: TensorType) -> TensorType:
        require(x.rank >= 3, f"{self.name}: x {x} must have rank 3 or more")
        check_window(self.name, x.rank - 2, kernel_shape=self.kernel_shape, strides=self.strides, dilations=self.dilations, pads=self.pads)
        return TensorType(x.dtype, (*x.shape[:2], *self._out(x.shape[2:])))

    def _out(self, sizes: Sequence[Dim]) -> tuple[Dim, ...]:
        return window_shape(sizes, self.kernel_shape, self.strides, self.dilations, self.pads, self.ceil_mode)

    def _taps(self, x: np.ndarray, filler: Any) -> tuple[tuple[int, ...], list[tuple[tuple[int, ...], np.ndarray]]]:
        """The output's spatial shape, and for each kernel position that element of every window."""
        out, pads = tuple(ints(self._out(x.shape[2:]))), ints(self.pads)
        rank = len(out)
        ends = []
        for i, n in enumerate(out):
            last = (n - 1) * self.strides[i] + (self.kernel_shape[i] - 1) * self.dilations[i] + 1
            ends.append(max(pads[rank + i], last - x.shape[2 + i] - pads[i]))
        padded = pad_spatial(x, pads[:rank], ends, filler)
        return out, [(p, padded[index]) for p, index in kernel_slices(self.kernel_shape, self.strides, self.dilations, out)]

    def cost(self, inputs: Types, outputs: Types) -> Cost:
        assert outputs[0] is not None
        return Cost(0, outputs[0].size * math.prod(self.kernel_shape), traffic(inputs, outputs))


@dataclass(frozen=True)
class MaxPool(_Pool):
    """The largest element of each window; NaN wins. With `indices` a second output tells where it was, the first one of equals.

    An index counts elements of the whole `x`; with `storage_order` 1 the spatial part counts column-major.
    """

    storage_order: int = 0
    indices: bool = False
    layout: str = "NCHW"

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        require(self.layout == "NCHW" or not self.indices, "MaxPool: indices exist only in layout NCHW")
        require(x.dtype.kind != "complex", f"MaxPool: {x.dtype} has no order")
        if self.layout == "NHWC" and x.rank >= 3:
            return (channels_last(self._pooled(channels_first(x))),)
        out = self._pooled(x)
        return (out, TensorType(INT64, out.shape)) if self.indices else (out,)

    def evaluate(self, x: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        source = channels_first(x) if self.layout == "NHWC" else x
        out, taps = self._taps(source, lowest(x.dtype))
        best = np.full((*source.shape[:2], *out), lowest(x.dtype), x.dtype)
        if self.indices:
            return self._with_indices(source, best, taps)
        for _, tap in taps:
            best = np.maximum(best, tap)
        return (channels_last(best) if self.layout == "NHWC" else best,)

    def _with_indices(self, x: np.ndarray, best: np.ndarray, taps: list[tuple[tuple[int, ...], np.ndarray]]) -> tuple[np.ndarray, ...]:
        spatial, rank, pads = x.shape[2:], x.ndim - 2, ints(self.pads)
        factors = [math.prod(spatial[:i]) if self.storage_order else math.prod(spatial[i + 1 :]) for i in range(rank)]
        where, found = np.full(best.shape, -1, np.int64), np.zeros(best.shape, bool)
        for position, tap in taps:
            flat, inside = np.zeros(best.shape[2:], np.int64), np.ones(best.shape[2:], bool)
            for i in range(rank):
                at = np.arange(best.shape[2 + i]) * self.strides[i] + position[i] * self.dilations[i] - pads[i]
                at = at.reshape([-1 if j == i else 1 for j in range(rank)])
                flat, inside = flat + at * factors[i], inside & (at >= 0) & (at < spatial[i])
            better = inside & (~found | (tap > best) | ((tap != tap) & (best == best)))
            best, where, found = np.where(better, tap, best), np.where(better, flat, where), found | inside
        planes = np.arange(x.shape[0] * x.shape[1]).reshape(*x.shape[:2], *[1] * rank) * math.prod(spatial)
        return best, where + planes


@dataclass(frozen=True)
class AveragePool(_Pool):
    """The mean of each window; cells of the padding count as zeros with `count_include_pad`, else not at all."""

    count_include_pad: bool = False
    layout: str = "NCHW"

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        require(x.dtype.is_float, f"AveragePool: x is {x.dtype}, needs a float type")
        if self.layout == "NHWC" and x.rank >= 3:
            return (channels_last(self._pooled(channels_first(x))),)
        return (self._pooled(x),)

    def evaluate(self, x: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        source = widen(channels_first(x) if self.layout == "NHWC" else x)
        out, taps = self._taps(source, 0)
        total = np.zeros((*source.shape[:2], *out), source.dtype)
        for _, tap in taps:
            total += tap
        y = (total / self.counts(source.shape[2:], out).astype(source.dtype)).astype(x.dtype, copy=False)
        return (channels_last(y) if self.layout == "NHWC" else y,)

    def counts(self, spatial: Sequence[int], out: Sequence[int]) -> np.ndarray:
        """How many cells each window averages over, `[*out]`; at least one."""
        rank, result, pads = len(out), np.ones(out, np.int64), ints(self.pads)
        for i, n in enumerate(out):
            at = np.arange(n)[:, None] * self.strides[i] + np.arange(self.kernel_shape[i]) * self.dilations[i] - pads[i]
            low, high = (-pads[i], spatial[i] + pads[rank + i]) if self.count_include_pad else (0, spatial[i])
            inside = ((at >= low) & (at < high)).sum(axis=1)
            result = result * inside.reshape([-1 if j == i else 1 for j in range(rank)])
        return np.maximum(result, 1)


@dataclass(frozen=True)
class LpPool(_Pool):
    """The p-norm of each window: the p-th root of the sum of |x| to the power p."""

    p: int = 2

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        require(x.dtype.is_float, f"LpPool: x is {x.dtype}, needs a float type")
        return (self._pooled(x),)

    def evaluate(self, x: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        source = widen(x)
        out, taps = self._taps(source, 0)
        total = np.zeros((*x.shape[:2], *out), source.dtype)
        for _, tap in taps:
            total += np.abs(tap) ** self.p
        return ((total ** (1.0 / self.p)).astype(x.dtype),)


@dataclass(frozen=True)
class MaxUnpool(Op):
    """Put the elements of `x` back where `MaxPool` found them, zeros elsewhere.

    `indices` count elements of the tensor that was pooled, whose shape follows from the window; a larger
    `output_shape` (full rank) adds zeros at the end of each axis.
    """

    kernel_shape: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[Dim, ...]
    output_shape: tuple[Dim, ...] | None = None

    def infer(self, x: TensorType, indices: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        self._check(x, indices)
        if self.output_shape is not None:
            require(len(self.output_shape) == x.rank, f"MaxUnpool: output_shape {self.output_shape} needs {x.rank} entries")
            return (TensorType(x.dtype, self.output_shape),)
        return (TensorType(x.dtype, self.pooled_from(x.shape)),)

    def infer_dynamic(self, params: tuple[str, ...], *inputs: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        self._check(inputs[0], inputs[1])
        spatial = tuple(symbol(f"?{i}") for i in range(inputs[0].rank - 2))
        return (TensorType(inputs[0].dtype, (*inputs[0].shape[:2], *spatial)),)

    def _check(self, x: TensorType, indices: TensorType) -> None:
        require(x.rank >= 3, f"MaxUnpool: x {x} must have rank 3 or more")
        require(indices.dtype == INT64 and indices.shape == x.shape, f"MaxUnpool: indices {indices} must be int64 of the shape of x {x}")
        check_window("MaxUnpool", x.rank - 2, kernel_shape=self.kernel_shape, strides=self.strides, pads=self.pads)

    def pooled_from(self, shape: Sequence[Dim]) -> tuple[Dim, ...]:
        """The shape of the tensor that was pooled to `shape`."""
        rank = len(shape) - 2
        axes = zip(shape[2:], self.kernel_shape, self.strides, self.pads[:rank], self.pads[rank:], strict=True)
        return (*shape[:2], *((n - 1) * s + k - b - e for n, k, s, b, e in axes))

    def evaluate(self, x: Any, indices: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        shape = ints(self.pooled_from(x.shape))
        y = np.zeros(math.prod(shape), x.dtype)
        y[indices.reshape(-1)] = x.reshape(-1)
        y = y.reshape(shape)
        if self.output_shape is not None:
            y = pad_spatial(y, [0] * y.ndim, [w - n for w, n in zip(ints(self.output_shape), shape, strict=True)])
        return (y,)


def lowest(element: np.dtype) -> Any:
    """The identity of `max` for a numpy dtype: minus infinity where there is one, else the smallest value."""
    import ml_dtypes

    kind = dtype(element)
    if kind.kind == "bool":
        return False
    if kind.is_integer:
        return ml_dtypes.iinfo(element).min
    minus = np.asarray(-np.inf, np.float32).astype(element)
    return minus if np.isinf(minus.astype(np.float32)) else ml_dtypes.finfo(element).min
