"""Regions of interest: pooling inside boxes, and choosing among boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_compiler.ir.dim import symbol
from lepton_compiler.ir.op import Op, require
from lepton_compiler.ir.types import INT64, TensorType
from lepton_compiler.ops.precision import widen


@dataclass(frozen=True)
class MaxRoiPool(Op):
    """The maximum over each bin of a `pooled_shape` grid in each box of `rois` [R, 5]: (batch, x1, y1, x2, y2), both ends included."""

    pooled_shape: tuple[int, int]
    spatial_scale: float = 1.0

    def infer(self, x: TensorType, rois: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        require(x.rank == 4, f"MaxRoiPool: x {x} must be [N, C, H, W]")
        require(rois.rank == 2 and rois.shape[1] == 5, f"MaxRoiPool: rois {rois} must be [R, 5]")
        require(
            len(self.pooled_shape) == 2 and min(self.pooled_shape) > 0,
            f"MaxRoiPool: pooled_shape {self.pooled_shape} needs two positive sizes",
        )
        return (TensorType(x.dtype, (rois.shape[0], x.shape[1], *self.pooled_shape)),)

    def evaluate(self, x: Any, rois: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        y = np.zeros((len(rois), x.shape[1], *self.pooled_shape), x.dtype)
        for box, result in zip(widen(rois), y, strict=True):
            corners = np.floor(np.abs(box[1:] * self.spatial_scale) + 0.5) * np.sign(box[1:])  # half away from zero
            left, top, right, bottom = corners.astype(int)
            rows = _bins(top, bottom, self.pooled_shape[0], x.shape[2])
            cols = _bins(left, right, self.pooled_shape[1], x.shape[3])
            image = x[int(box[0])]
            for i, (r0, r1) in enumerate(rows):
                for j, (c0, c1) in enumerate(cols):
                    if r1 > r0 and c1 > c0:
                        result[:, i, j] = image[:, r0:r1, c0:c1].max(axis=(1, 2))
        return (y,)


@dataclass(frozen=True)
class RoiAlign(Op):
    """Bilinear samples inside each box of `rois` [R, 4] (x1, y1, x2, y2) of image `batch_indices` [R], averaged or maximised per bin.

    `sampling_ratio` 0 takes `ceil(box / output)` samples per bin and axis. `coordinate_transformation_mode` "half_pixel"
    shifts boxes by half a pixel; "output_half_pixel" does not, and lets no box be smaller than a pixel. In mode "max" the
    maximum is over the four weighted neighbours of every sample.
    """

    mode: str = "avg"
    output_height: int = 1
    output_width: int = 1
    sampling_ratio: int = 0
    spatial_scale: float = 1.0
    coordinate_transformation_mode: str = "half_pixel"

    def infer(self, x: TensorType, rois: TensorType, batch_indices: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        require(self.mode in ("avg", "max"), f"RoiAlign: unknown mode '{self.mode}'")
        known = self.coordinate_transformation_mode in ("half_pixel", "output_half_pixel")
        require(known, f"RoiAlign: unknown coordinate_transformation_mode '{self.coordinate_transformation_mode}'")
        require(x.rank == 4, f"RoiAlign: x {x} must be [N, C, H, W]")
        require(rois.rank == 2 and rois.shape[1] == 4, f"RoiAlign: rois {rois} must be [R, 4]")
        require(
            batch_indices.rank == 1 and batch_indices.dtype.is_integer, f"RoiAlign: batch_indices {batch_indices} must be an integer vector"
        )
        return (TensorType(x.dtype, (rois.shape[0], x.shape[1], self.output_height, self.output_width)),)

    def evaluate(self, x: Any, rois: Any, batch_indices: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        source, f32 = widen(x), np.float32
        y = np.zeros((len(rois), x.shape[1], self.output_height, self.output_width), source.dtype)
        half = self.coordinate_transformation_mode == "half_pixel"
        for n, box in enumerate(widen(rois)):
            left, top, right, bottom = box * f32(self.spatial_scale) - f32(0.5 if half else 0)
            height, width = bottom - top, right - left
            if not half:
                height, width = max(height, f32(1)), max(width, f32(1))
            rows = self._samples(top, height, self.output_height)
            cols = self._samples(left, width, self.output_width)
            y[n] = self._pool(source[int(batch_indices[n])], rows, cols)
        return (y.astype(x.dtype, copy=False),)

    def _samples(self, start: Any, extent: Any, bins: int) -> np.ndarray:
        """Sample positions `[bins, samples]` along one axis."""
        size = extent / np.float32(bins)
        samples = self.sampling_ratio or max(int(np.ceil(size)), 0)
        offsets = np.arange(bins, dtype=np.float32)[:, None] * size + (
            np.arange(samples, dtype=np.float32) + np.float32(0.5)
        ) * size / np.float32(max(samples, 1))
        return np.asarray(start + offsets)

    def _pool(self, image: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        if not rows.size or not cols.size:
            return np.zeros((image.shape[0], len(rows), len(cols)), image.dtype)
        (r0, r1, rw, r_in), (c0, c1, cw, c_in) = _neighbours(rows, image.shape[1]), _neighbours(cols, image.shape[2])
        inside = r_in[:, None, :, None] & c_in[None, :, None, :]
        parts = []
        for r, a in ((r0, 1 - rw), (r1, rw)):
            for c, b in ((c0, 1 - cw), (c1, cw)):
                weight = np.where(inside, a[:, None, :, None] * b[None, :, None, :], 0).astype(image.dtype)
                parts.append(image[:, r[:, None, :, None], c[None, :, None, :]] * weight)
        if self.mode == "avg":
            total: np.ndarray = (parts[0] + parts[1] + parts[2] + parts[3]).mean(axis=(3, 4))
            return total
        best: np.ndarray = np.maximum.reduce(parts).max(axis=(3, 4))
        return best


@dataclass(frozen=True)
class NonMaxSuppression(Op):
    """Choose boxes by falling score, leaving out those that overlap a chosen one of the same image and class.

    `boxes` [N, B, 4] are two corners (y1, x1, y2, x2), or (x, y, width, height) around a centre with `center_point_box` 1;
    `scores` [N, classes, B]; at most `max_output` per image and class (absent: none), an overlap (intersection over union)
    above `iou` excludes, scores must exceed `score`. Gives int64 [chosen, 3]: (image, class, box). Equal scores: lower box first.
    """

    center_point_box: int = 0

    def infer(  # noqa: D102
        self,
        boxes: TensorType,
        scores: TensorType,
        max_output: TensorType | None = None,
        iou: TensorType | None = None,
        score: TensorType | None = None,
    ) -> tuple[TensorType, ...]:
        require(boxes.rank == 3 and boxes.shape[2] == 4, f"NonMaxSuppression: boxes {boxes} must be [N, B, 4]")
        require(scores.rank == 3, f"NonMaxSuppression: scores {scores} must be [N, classes, B]")
        require(self.center_point_box in (0, 1), f"NonMaxSuppression: center_point_box {self.center_point_box} must be 0 or 1")
        for name, t in (("max_output", max_output), ("iou", iou), ("score", score)):
            require(t is None or t.rank <= 1, f"NonMaxSuppression: {name} {t} must be a scalar")
        return (TensorType(INT64, (symbol("?0"), 3)),)

    def evaluate(self, boxes: Any, scores: Any, max_output: Any = None, iou: Any = None, score: Any = None) -> tuple[np.ndarray, ...]:  # noqa: D102
        limit = 0 if max_output is None else int(max_output.reshape(()))
        overlap = np.float32(0) if iou is None else iou.reshape(())
        chosen: list[tuple[int, int, int]] = []
        corners = [self._corners(b) for b in boxes]
        for image, per_class in enumerate(scores):
            for label, values in enumerate(per_class):
                order = np.argsort(-values, kind="stable")
                if score is not None:
                    order = order[values[order] > score.reshape(())]
                chosen += [(image, label, int(box)) for box in _suppress(corners[image], order, limit, overlap)]
        return (np.array(chosen, np.int64).reshape(-1, 3),)

    def _corners(self, boxes: np.ndarray) -> np.ndarray:
        """`[B, 4]` as (low, low, high, high)."""
        first, second = boxes[:, :2], boxes[:, 2:]
        if self.center_point_box:
            return np.concatenate([first - second / 2, first + second / 2], 1)
        return np.concatenate([np.minimum(first, second), np.maximum(first, second)], 1)


def _suppress(boxes: np.ndarray, order: np.ndarray, limit: int, overlap: Any) -> list[int]:
    chosen: list[int] = []
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    while len(order) and len(chosen) < limit:
        best, order = order[0], order[1:]
        chosen.append(int(best))
        low, high = np.maximum(boxes[best, :2], boxes[order, :2]), np.minimum(boxes[best, 2:], boxes[order, 2:])
        shared = np.prod(np.maximum(high - low, 0), axis=1)
        union = areas[best] + areas[order] - shared
        ratio = np.where((areas[best] > 0) & (areas[order] > 0) & (shared > 0), shared / np.where(union > 0, union, 1), 0)
        order = order[ratio <= overlap]
    return chosen


def _bins(start: int, end: int, bins: int, size: int) -> list[tuple[int, int]]:
    """The clamped, half-open ranges of the bins of one axis of a box."""
    step = np.float32(max(end - start + 1, 1)) / np.float32(bins)
    edges = [(int(np.floor(i * step)) + start, int(np.ceil((i + 1) * step)) + start) for i in range(bins)]
    return [(min(max(a, 0), size), min(max(b, 0), size)) for a, b in edges]


def _neighbours(at: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """For sample positions: lower and upper pixel, weight of the upper one, and whether the sample is in the image."""
    inside = (at >= -1) & (at <= size)
    at = np.clip(at, 0, size - 1)
    low = np.floor(at).astype(np.int64)
    return low, np.minimum(low + 1, size - 1), at - low, inside
