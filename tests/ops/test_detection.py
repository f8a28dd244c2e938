"""Regions of interest against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lepton_compiler.errors import InferenceError
from lepton_compiler.ir.dim import symbol
from lepton_compiler.ir.types import tensor_type
from lepton_compiler.ops.detection import MaxRoiPool, NonMaxSuppression, RoiAlign

RNG = np.random.default_rng(9)
X = RNG.standard_normal((2, 3, 9, 10)).astype(np.float32)
BOXES = np.array([[0, 0, 8, 7], [1.5, 2, 6, 9.5], [3, 3, 3.4, 3.2], [-4, -2, 30, 12]], np.float32)
IMAGES = np.array([0, 1, 1, 0])


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("place", ["half_pixel", "output_half_pixel"])
@pytest.mark.parametrize("ratio", [0, 2])
def test_roi_align_agrees_with_onnxruntime(onnxruntime_node: Any, mode: str, place: str, ratio: int) -> None:
    given = {"mode": mode, "output_height": 3, "output_width": 2, "sampling_ratio": ratio, "spatial_scale": 0.8}
    (want,) = onnxruntime_node("RoiAlign", [X, BOXES, IMAGES], **given, coordinate_transformation_mode=place)
    op = RoiAlign(**given, coordinate_transformation_mode=place)  # type: ignore[arg-type]
    np.testing.assert_allclose(op.evaluate(X, BOXES, IMAGES)[0], want, rtol=1e-4, atol=1e-5)


def test_max_roi_pool_agrees_with_onnxruntime(onnxruntime_node: Any) -> None:
    rois = np.concatenate([IMAGES[:, None].astype(np.float32), np.maximum(BOXES, 0)], 1)
    (want,) = onnxruntime_node("MaxRoiPool", [X, rois], pooled_shape=(3, 2), spatial_scale=0.7)
    np.testing.assert_array_equal(MaxRoiPool((3, 2), 0.7).evaluate(X, rois)[0], want)


@pytest.mark.parametrize("center", [0, 1])
def test_non_max_suppression_agrees_with_onnxruntime(onnxruntime_node: Any, center: int) -> None:
    boxes = RNG.uniform(0, 10, (2, 60, 4)).astype(np.float32)
    scores = np.round(RNG.uniform(0, 1, (2, 3, 60)), 2).astype(np.float32)
    limit, overlap, least = np.array([20]), np.array([0.3], np.float32), np.array([0.25], np.float32)
    (want,) = onnxruntime_node("NonMaxSuppression", [boxes, scores, limit, overlap, least], center_point_box=center)
    (got,) = NonMaxSuppression(center).evaluate(boxes, scores, limit, overlap, least)
    np.testing.assert_array_equal(got, want)
    assert NonMaxSuppression(center).evaluate(boxes, scores)[0].shape == (0, 3)


def test_types() -> None:
    (chosen,) = NonMaxSuppression().infer(tensor_type("float32[n,b,4]"), tensor_type("float32[n,c,b]"))
    assert chosen.shape == (symbol("?0"), 3)
    (y,) = RoiAlign(output_height=7, output_width=5).infer(*map(tensor_type, ("float32[n,c,h,w]", "float32[r,4]", "int64[r]")))
    assert y.shape == (symbol("r"), symbol("c"), 7, 5)


@pytest.mark.parametrize(
    ("op", "specs", "message"),
    [
        (MaxRoiPool((2, 2)), ("float32[1,3,8,8]", "float32[4,4]"), "must be"),
        (MaxRoiPool((2, 0)), ("float32[1,3,8,8]", "float32[4,5]"), "positive"),
        (RoiAlign(mode="min"), ("float32[1,3,8,8]", "float32[4,4]", "int64[4]"), "unknown mode"),
        (RoiAlign(), ("float32[1,3,8,8]", "float32[4,5]", "int64[4]"), "must be"),
        (NonMaxSuppression(), ("float32[1,3,5]", "float32[1,1,3]"), "must be"),
    ],
)
def test_refusals_say_what_is_wrong(op: Any, specs: tuple[str, ...], message: str) -> None:
    with pytest.raises(InferenceError, match=message):
        op.infer(*map(tensor_type, specs))
