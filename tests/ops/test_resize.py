"""Resizing and grid sampling against ONNX Runtime in all modes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.errors import InferenceError
from lepton_compiler.ir.dim import symbol
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.types import FLOAT32, TensorType, tensor_type
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.dynamic import Dynamic
from lepton_compiler.ops.resize import COORDINATES, NEAREST, AffineGrid, GridSample, Resize

RNG = np.random.default_rng(2)
X = RNG.standard_normal((1, 2, 6, 7)).astype(np.float32)
SIZES = [(1, 2, 12, 14), (1, 2, 9, 10), (1, 2, 3, 4), (1, 2, 1, 1)]


def reference(run: Any, sizes: Any, roi: Any = None, **attributes: Any) -> np.ndarray:
    region = None if roi is None else np.array(roi, np.float32)
    found: np.ndarray = run("Resize", [X, region, None, np.array(sizes, np.int64)], opset=19, **attributes)[0]
    return found


@pytest.mark.parametrize("sizes", SIZES)
def test_nearest_agrees_with_onnxruntime(onnxruntime_node: Any, sizes: Any) -> None:
    for mode, rounding in itertools.product(("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"), NEAREST):
        want = reference(onnxruntime_node, sizes, mode="nearest", coordinate_transformation_mode=mode, nearest_mode=rounding)
        (got,) = Resize(sizes=sizes, coordinate_transformation_mode=mode, nearest_mode=rounding).evaluate(X)
        np.testing.assert_array_equal(got, want, err_msg=f"{mode} {rounding}")


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("sizes", SIZES)
def test_interpolation_agrees_with_onnxruntime(onnxruntime_node: Any, sizes: Any, mode: str) -> None:
    for place in ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel", "half_pixel_symmetric"):
        want = reference(onnxruntime_node, sizes, mode=mode, coordinate_transformation_mode=place)
        (got,) = Resize(sizes=sizes, mode=mode, coordinate_transformation_mode=place).evaluate(X)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4, err_msg=place)


@pytest.mark.parametrize("outside", [False, True])
def test_cubic_variants_agree_with_onnxruntime(onnxruntime_node: Any, outside: bool) -> None:
    want = reference(onnxruntime_node, SIZES[1], mode="cubic", cubic_coeff_a=-0.5, exclude_outside=int(outside))
    (got,) = Resize(sizes=SIZES[1], mode="cubic", cubic_coeff_a=-0.5, exclude_outside=outside).evaluate(X)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_antialias_agrees_with_onnxruntime(onnxruntime_node: Any, mode: str) -> None:
    for sizes in SIZES[1:3]:
        want = reference(onnxruntime_node, sizes, mode=mode, antialias=1, exclude_outside=1)
        (got,) = Resize(sizes=sizes, mode=mode, antialias=True, exclude_outside=True).evaluate(X)
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)


def test_crop_and_resize_agrees_with_onnxruntime(onnxruntime_node: Any) -> None:
    roi = (0, 0, 0.2, -0.3, 1, 1, 0.7, 1.2)
    given = {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 10.0}
    want = reference(onnxruntime_node, (1, 2, 5, 4), roi, **given)
    (got,) = Resize(sizes=(1, 2, 5, 4), roi=roi, **given).evaluate(X)  # type: ignore[arg-type]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize(("old", "new"), [((0, 3, 2), (0, 3, 1)), ((2, 3, 2), (0, 3, 1)), ((0, 3, 2), (0, 0, 1))])
def test_nothing_is_resized_to_nothing(mode: str, old: tuple[int, ...], new: tuple[int, ...]) -> None:
    graph = Graph("g")
    x = graph.add_input("x", TensorType(FLOAT32, old))
    options = [{"antialias": False}, {"antialias": True}, {"exclude_outside": True, "coordinate_transformation_mode": "align_corners"}]
    b = Builder(graph)
    graph.set_outputs([b(Resize(sizes=new, mode=mode, **o), x) for o in options[: 1 if mode == "nearest" else None]])  # type: ignore[arg-type]
    feeds = {"x": np.ones(old, np.float32)}
    for case in (graph, lc.optimize(graph, passes="legalize-decompose")):
        assert [r.shape for r in lc.evaluate(case, feeds).values()] == [new] * len(graph.outputs)


def test_sizes_and_scales_follow_from_each_other() -> None:
    (y,) = Resize(scales=(1.0, 1.0, 2.0, 0.5)).infer(tensor_type("float32[1,2,h,w]"))
    assert y.shape == (1, 2, symbol("h") * 2, symbol("w") // 2)
    assert Resize(scales=(1.0, 1.0, 1.5, 0.5)).evaluate(X)[0].shape == (1, 2, 9, 3)
    (unknown,) = Dynamic(Resize(), ("sizes",)).infer(tensor_type("float32[1,2,h,w]"), tensor_type("int64[4]"))
    assert unknown.shape == tuple(symbol(f"?{i}") for i in range(4))


@pytest.mark.parametrize("kind", [np.uint8, np.float16, np.int32])
def test_result_keeps_the_type(kind: Any) -> None:
    x = (np.arange(16).reshape(1, 1, 4, 4) * 3).astype(kind)
    for mode in ("nearest", "linear"):
        (y,) = Resize(sizes=(1, 1, 8, 8), mode=mode).evaluate(x)
        assert y.dtype == kind
        assert y.min() >= x.min() and y.max() <= x.max()


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (Resize(sizes=(1, 2)), "needs 4 entries"),
        (Resize(sizes=SIZES[0], mode="area"), "unknown mode"),
        (Resize(sizes=SIZES[0], coordinate_transformation_mode="middle"), "unknown mode"),
        (Resize(scales=(1, 1, 0, 1)), "positive"),
        (Resize(), "needs sizes or scales"),
    ],
)
def test_refusals_say_what_is_wrong(op: Resize, message: str) -> None:
    with pytest.raises(InferenceError, match=message):
        op.infer(tensor_type("float32[1,2,6,7]"))


def test_every_coordinate_mode_is_implemented() -> None:
    for mode in COORDINATES:
        assert Resize(sizes=SIZES[1], mode="linear", coordinate_transformation_mode=mode).evaluate(X)[0].shape == SIZES[1]


@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("corners", [False, True])
def test_grid_sample_agrees_with_onnxruntime(onnxruntime_node: Any, mode: str, padding: str, corners: bool) -> None:
    grid = RNG.uniform(-1.4, 1.4, (1, 5, 4, 2)).astype(np.float32)
    (want,) = onnxruntime_node("GridSample", [X, grid], mode=mode, padding_mode=padding, align_corners=int(corners))
    np.testing.assert_allclose(GridSample(mode, padding, corners).evaluate(X, grid)[0], want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("corners", [False, True])
def test_the_identity_map_samples_the_image_itself(corners: bool) -> None:
    theta = np.array([[[1, 0, 0], [0, 1, 0]]], np.float32)
    (grid,) = AffineGrid(X.shape, corners).evaluate(theta)
    np.testing.assert_allclose(GridSample(align_corners=corners).evaluate(X, grid)[0], X, rtol=1e-4, atol=1e-5)
    assert AffineGrid((2, 3, 4, 5, 6)).evaluate(np.zeros((2, 3, 4), np.float32))[0].shape == (2, 4, 5, 6, 3)
    with pytest.raises(InferenceError, match="must be"):
        AffineGrid((2, 3, 4, 5)).infer(tensor_type("float32[2,3,4]"))
