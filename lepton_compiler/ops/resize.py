"""Sampling images at other places: resizing, and sampling along a given grid."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from lepton_compiler.ir.dim import Dim, floordiv
from lepton_compiler.ir.op import Cost, Op, Types, require, traffic
from lepton_compiler.ir.types import TensorType
from lepton_compiler.ops.precision import widen
from lepton_compiler.ops.shape import placeholders
from lepton_compiler.ops.window import ints

COORDINATES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_half_pixel_for_nn",
    "tf_crop_and_resize",
)
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


class Taps(NamedTuple):
    """How one axis is resampled: output `o` is the sum of `weights[o, t] * x[indices[o, t]]`; `outside` marks extrapolation."""

    indices: np.ndarray
    weights: np.ndarray
    outside: np.ndarray


@dataclass(frozen=True)
class Resize(Op):
    """Resample `x` along every axis, one after the other.

    `sizes` is the output's shape and `scales` the ratios output / input that place the samples, both of full rank; an
    empty one follows from the other. Modes "nearest", "linear", "cubic" and the other attributes are as in ONNX. `roi`
    holds all begins, then all ends, as fractions of the axis, for "tf_crop_and_resize".
    Coordinates are float32, which settles ties as ONNX Runtime does.
    """

    sizes: tuple[Dim, ...] = ()
    scales: tuple[float, ...] = ()
    mode: str = "nearest"
    coordinate_transformation_mode: str = "half_pixel"
    cubic_coeff_a: float = -0.75
    nearest_mode: str = "round_prefer_floor"
    antialias: bool = False
    exclude_outside: bool = False
    extrapolation_value: float = 0.0
    roi: tuple[float, ...] = ()

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        self._check(x)
        return (TensorType(x.dtype, self._sizes(x.shape)),)

    def _check(self, x: TensorType) -> None:
        require(self.mode in ("nearest", "linear", "cubic"), f"Resize: unknown mode '{self.mode}'")
        known = self.coordinate_transformation_mode in COORDINATES and self.nearest_mode in NEAREST
        require(known, f"Resize: unknown mode '{self.coordinate_transformation_mode}' or '{self.nearest_mode}'")
        for name, given in (("sizes", self.sizes), ("scales", self.scales)):
            require(len(given) in (0, x.rank), f"Resize: {name} {given} needs {x.rank} entries for {x}")
        require(all(s > 0 for s in self.scales), f"Resize: scales {self.scales} must be positive")
        cropping = self.coordinate_transformation_mode == "tf_crop_and_resize"
        require(not cropping or len(self.roi) in (0, 2 * x.rank), f"Resize: roi {self.roi} needs {2 * x.rank} entries for {x}")

    def _sizes(self, shape: Sequence[Dim]) -> tuple[Dim, ...]:
        if self.sizes or not shape:
            return self.sizes
        require(len(self.scales) > 0, "Resize needs sizes or scales")
        return tuple(_scaled(d, s) for d, s in zip(shape, self.scales, strict=True))

    def infer_dynamic(self, params: tuple[str, ...], *inputs: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        if params == ("roi",):
            return self.infer(inputs[0])
        return (TensorType(inputs[0].dtype, placeholders(inputs[0].rank)),)

    def evaluate(self, x: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        sizes = ints(self._sizes(x.shape))
        if self.mode == "nearest" and self.coordinate_transformation_mode != "tf_crop_and_resize":
            for axis, size in enumerate(sizes):
                if not self.is_identity(axis, x.shape[axis], size):
                    x = np.take(x, self.taps(axis, x.shape[axis], size, x.ndim).indices[:, 0], axis)
            return (np.array(x),)
        y = widen(x) if x.dtype.kind not in "iub" else x.astype(np.float32)
        outside = np.zeros((1,) * x.ndim, bool)
        for axis, size in enumerate(sizes):
            if self.is_identity(axis, x.shape[axis], size):
                continue
            taps = self.taps(axis, x.shape[axis], size, x.ndim)
            column = [-1 if i == axis else 1 for i in range(x.ndim)]
            y = _resample(y, taps, axis, column)
            outside = outside | taps.outside.reshape(column)
        if outside.any():
            y = np.where(outside, np.asarray(self.extrapolation_value, y.dtype), y)
        return (y.astype(x.dtype, copy=False),)

    def cost(self, inputs: Types, outputs: Types) -> Cost:  # noqa: D102
        assert outputs[0] is not None
        per_axis = {"nearest": 1, "linear": 2, "cubic": 4}[self.mode]
        return Cost(0, outputs[0].size * per_axis, traffic(inputs, outputs))

    def is_identity(self, axis: int, old: int, new: int) -> bool:
        """Whether the axis, of size `old` before and `new` after, stays as it is; an empty one has no scale, and does."""
        if old == new == 0:
            return True
        if self.coordinate_transformation_mode == "tf_crop_and_resize":
            return old == new and np.array_equal(self.coordinates(axis, old, new, len(self.roi) // 2), np.arange(new))
        return old == new and bool(self._scale(axis, old, new) == 1)

    def moved_axes(self, old: Sequence[int], new: Sequence[int]) -> list[int]:
        """The axes that do not stay as they are."""
        return [i for i, (a, b) in enumerate(zip(old, new, strict=True)) if not self.is_identity(i, a, b)]

    def along(self, axis: int, shape: Sequence[Dim], size: Dim) -> Resize:
        """The part of this operator that resamples one axis, of a tensor of `shape`, to `size`."""
        rank = len(shape)
        sizes = tuple(size if i == axis else d for i, d in enumerate(shape))
        scales = tuple(s if i == axis else 1.0 for i, s in enumerate(self.scales))
        roi = tuple(r if i % rank == axis else float(i >= rank) for i, r in enumerate(self.roi))
        return replace(self, sizes=sizes, scales=scales, roi=roi)

    def _scale(self, axis: int, old: int, new: int) -> np.float32:
        return np.float32(self.scales[axis]) if self.scales else np.float32(new) / np.float32(max(old, 1))

    def coordinates(self, axis: int, old: int, new: int, rank: int) -> np.ndarray:
        """Where in the input each of the `new` samples of an axis lies, float32."""
        at, scale, f32 = np.arange(new, dtype=np.float32), self._scale(axis, old, new), np.float32
        match self.coordinate_transformation_mode:
            case "align_corners":
                length = scale * f32(old)  # may have a fraction, which ONNX keeps
                return at * f32(old - 1) / (length - f32(1)) if new > 1 else np.zeros(new, f32)
            case "asymmetric":
                return at / scale if self.scales else at * f32(old) / f32(new)  # halves stay halves
            case "tf_half_pixel_for_nn":
                return (at + f32(0.5)) / scale
            case "tf_crop_and_resize":
                begin, end = (f32(self.roi[axis]), f32(self.roi[axis + rank])) if self.roi else (f32(0), f32(1))
                if new > 1:
                    return begin * f32(old - 1) + at * (end - begin) * f32(old - 1) / f32(new - 1)
                return np.full(new, f32(0.5) * (begin + end) * f32(old - 1), f32)
            case "half_pixel_symmetric":
                adjustment = f32(new) / (scale * f32(old))
                offset = f32(old) / f32(2) * (f32(1) - adjustment)
                return offset + (at + f32(0.5)) / scale - f32(0.5)
            case "pytorch_half_pixel" if new <= 1:
                return np.zeros(new, f32)
        return (at + f32(0.5)) / scale - f32(0.5)

    def taps(self, axis: int, old: int, new: int, rank: int) -> Taps:
        """Which elements of an axis, of size `old`, each of the `new` ones combines, and with what weights."""
        at = self.coordinates(axis, old, new, rank)
        outside = np.zeros(new, bool)
        if self.coordinate_transformation_mode == "tf_crop_and_resize":
            outside = (at < 0) | (at > old - 1)
        if self.mode == "nearest":
            indices = np.clip(_nearest(at, self.nearest_mode), 0, max(old - 1, 0)).astype(np.int64)[:, None]
            return Taps(indices, np.ones((new, 1), np.float32), outside)
        if new == 0:  # no scale to shrink by, and no weight to tell the used taps by
            return Taps(np.zeros((0, 1), np.int64), np.ones((0, 1), np.float32), outside)
        offsets, shrink = self.window(axis, old, new)
        floor = np.floor(at)
        distance = np.abs(offsets - (at - floor)[:, None]) * shrink
        weights = np.maximum(0, 1 - distance) if self.mode == "linear" else _cubic(distance, np.float32(self.cubic_coeff_a))
        indices = floor.astype(np.int64)[:, None] + offsets
        if self.exclude_outside:
            weights = np.where((indices < 0) | (indices >= old), 0, weights)
        if self.exclude_outside or shrink < 1:
            weights = weights / weights.sum(axis=1, keepdims=True)
        used = np.flatnonzero(weights.any(axis=0))
        return Taps(np.clip(indices, 0, max(old - 1, 0))[:, used], weights.astype(np.float32)[:, used], outside)

    def window(self, axis: int, old: int, new: int) -> tuple[np.ndarray, np.float32]:
        """Which elements, counted from the one at or before a coordinate, interpolation takes; and what shrinks distances to them."""
        shrink = min(np.float32(1), self._scale(axis, old, new)) if self.antialias else np.float32(1)
        first = int(np.floor(-(1 if self.mode == "linear" else 2) / shrink)) + 1
        return np.arange(first, 2 - first), shrink


@dataclass(frozen=True)
class GridSample(Op):
    """Sample `x` [N, C, spatial...] at the places `grid` [N, out..., r] names, in (x, y[, z]) order, -1 to 1 across the image.

    Modes "linear", "nearest", "cubic"; `padding_mode` "zeros", "border" or "reflection" says what lies outside.
    """

    mode: str = "linear"
    padding_mode: str = "zeros"
    align_corners: bool = False

    def infer(self, x: TensorType, grid: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        require(self.mode in ("linear", "nearest", "cubic"), f"GridSample: unknown mode '{self.mode}'")
        require(self.padding_mode in ("zeros", "border", "reflection"), f"GridSample: unknown padding mode '{self.padding_mode}'")
        require(x.rank >= 3 and x.rank == grid.rank, f"GridSample: x {x} and grid {grid} must have the same rank, at least 3")
        require(grid.shape[-1] == x.rank - 2, f"GridSample: the last axis of grid {grid} must have size {x.rank - 2}")
        return (TensorType(x.dtype, (*x.shape[:2], *grid.shape[1:-1])),)

    def evaluate(self, x: Any, grid: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        source, sizes, places = widen(x), x.shape[2:], []
        for axis, size in enumerate(sizes):
            at = widen(grid)[..., len(sizes) - 1 - axis]
            at = (at + 1) / 2 * (size - 1) if self.align_corners else ((at + 1) * size - 1) / 2
            places.append(at if self.mode == "cubic" else self._wrapped(at, size))
        columns = [self._taps(at) for at in places]
        total = np.zeros((grid.shape[0], *grid.shape[1:-1], x.shape[1]), source.dtype)
        batch = np.arange(x.shape[0]).reshape(-1, *[1] * (grid.ndim - 2))
        for corner in itertools.product(*columns):
            index, weight = [], np.ones(grid.shape[:-1], source.dtype)
            for (at, part), size in zip(corner, sizes, strict=True):
                place = self._wrapped(at, size)
                weight = weight * np.where((place >= 0) & (place <= size - 1), part, 0).astype(source.dtype)
                index.append(np.clip(np.nan_to_num(place), 0, size - 1).astype(np.int64))
            total += source[(batch, slice(None), *index)] * weight[..., None]
        return (np.ascontiguousarray(np.moveaxis(total, -1, 1)).astype(x.dtype, copy=False),)

    def _taps(self, at: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """For one axis: the pixels that each sample combines, and their weights."""
        if self.mode == "nearest":
            return [(np.rint(at), np.ones_like(at))]
        base = np.floor(at)
        if self.mode == "linear":
            return [(base, 1 - (at - base)), (base + 1, at - base)]
        return [(base + o, _cubic(np.abs(at - base - o), at.dtype.type(-0.75))) for o in (-1, 0, 1, 2)]

    def _wrapped(self, at: np.ndarray, size: int) -> np.ndarray:
        """Coordinates brought into the image, unless what is outside is zero."""
        if self.padding_mode == "border":
            return np.asarray(np.clip(at, 0, size - 1))
        if self.padding_mode == "zeros":
            return at
        low, high = (0.0, size - 1.0) if self.align_corners else (-0.5, size - 0.5)
        if high <= low:
            return np.zeros_like(at)
        phase = np.mod(at - low, 2 * (high - low))
        mirrored = low + np.minimum(phase, 2 * (high - low) - phase)
        return np.clip(mirrored, 0, size - 1).astype(at.dtype)


@dataclass(frozen=True)
class AffineGrid(Op):
    """The sampling grid [N, (D,) H, W, r] of the affine maps `theta` [N, r, r + 1] over an image of `size` (N, C, (D,) H, W)."""

    size: tuple[Dim, ...]
    align_corners: bool = False

    def infer(self, theta: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        self._check(theta, len(self.size))
        return (TensorType(theta.dtype, (theta.shape[0], *self.size[2:], theta.shape[1])),)

    def _check(self, theta: TensorType, rank: int) -> None:
        require(rank in (4, 5), f"AffineGrid: size {self.size} needs 4 or 5 entries")
        require(
            theta.rank == 3 and theta.shape[1:] == (rank - 2, rank - 1), f"AffineGrid: theta {theta} must be [N, {rank - 2}, {rank - 1}]"
        )

    def infer_dynamic(self, params: tuple[str, ...], *inputs: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        rank = inputs[1].size
        self._check(inputs[0], rank)
        return (TensorType(inputs[0].dtype, (inputs[0].shape[0], *placeholders(rank - 2), rank - 2)),)

    def evaluate(self, theta: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        matrix = widen(theta)
        points = self.points(matrix.dtype)
        grid = points.reshape(-1, points.shape[-1]) @ matrix.transpose(0, 2, 1)
        return (grid.reshape(theta.shape[0], *points.shape[:-1], theta.shape[1]).astype(theta.dtype, copy=False),)

    def points(self, element: np.dtype) -> np.ndarray:
        """The homogeneous coordinates [(D,) H, W, r + 1] of the pixels of the identity map."""
        lines = []
        for n in ints(self.size[2:]):
            steps = np.arange(n, dtype=element)
            lines.append((2 * steps / max(n - 1, 1) - 1) * (n > 1) if self.align_corners else (2 * steps + 1) / n - 1)
        mesh = np.meshgrid(*lines, indexing="ij")
        return np.stack([*reversed(mesh), np.ones_like(mesh[0])], -1).astype(element)


def _scaled(size: Dim, scale: float) -> Dim:
    """`floor(size * scale)`."""
    if isinstance(size, int):
        return int(np.floor(np.float32(size) * np.float32(scale)))
    ratio = Fraction(scale).limit_denominator(4096)
    return floordiv(size * ratio.numerator, ratio.denominator)


def _nearest(at: np.ndarray, mode: str) -> np.ndarray:
    half = np.float32(0.5)
    table = {"floor": np.floor(at), "ceil": np.ceil(at), "round_prefer_ceil": np.floor(at + half), "round_prefer_floor": np.ceil(at - half)}
    return np.asarray(table[mode])


def _cubic(distance: np.ndarray, a: Any) -> np.ndarray:
    """Keys' cubic convolution kernel at non-negative distances."""
    d = distance
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0)).astype(d.dtype)


def _resample(x: np.ndarray, taps: Taps, axis: int, column: list[int]) -> np.ndarray:
    shape = list(x.shape)
    shape[axis] = len(taps.indices)
    total = np.zeros(shape, x.dtype)
    for t in range(taps.indices.shape[1]):
        total += np.take(x, taps.indices[:, t], axis) * taps.weights[:, t].reshape(column).astype(x.dtype)
    return total
