"""Sampling at places known at run time against the evaluator: grids, regions, learnt offsets."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

CheckCases = Callable[..., None]


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).normal(0, scale, shape), np.float32)


def grid(*shape: int) -> np.ndarray:
    """Places in the image and around it, many halfway between pixels or on the border, some nowhere."""
    rng = np.random.default_rng(1)
    places = np.where(rng.random(shape) < 0.5, rng.uniform(-1.7, 1.7, shape), rng.integers(-12, 13, shape) / 6).astype(np.float32)
    flat = places.reshape(-1)
    flat[::41], flat[5::67], flat[7::89], flat[9::97] = np.nan, np.inf, -1e4, 1e4
    return places


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_grids(check_cases: CheckCases, mode: str) -> None:
    cases: list[Any] = []
    for padding, align in itertools.product(("zeros", "border", "reflection"), (False, True)):
        fields = {"mode": mode, "padding_mode": padding, "align_corners": align}
        cases.append(("GridSample", fields, [normal(2, 3, 5, 4), grid(2, 6, 20, 2)]))
        cases.append(("GridSample", fields, [normal(1, 2, 3, 4, 5), grid(1, 3, 4, 18, 3)]))
        if padding != "border":
            cases.append(("GridSample", fields, [normal(1, 2, 1, 7), grid(1, 2, 20, 2)]))
    cases.append(("GridSample", {"mode": mode}, [normal(2, 3, 9), grid(2, 8, 1)]))
    check_cases(cases, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["float16", "float64", "uint8", "bool"])
def test_grids_over_other_types(check_cases: CheckCases, kind: str) -> None:
    x = np.abs(normal(1, 2, 5, 4, scale=9)).astype(kind)
    cases: list[Any] = [("GridSample", {"mode": "nearest", "padding_mode": p}, [x, grid(1, 6, 20, 2)]) for p in ("zeros", "border")]
    if x.dtype.kind == "f":
        places = np.clip(np.nan_to_num(grid(1, 6, 20, 2)), -2, 2).astype(kind)
        cases += [("GridSample", {"mode": mode, "padding_mode": "border"}, [x, places]) for mode in ("linear", "cubic")]
    check_cases(cases, rtol=2e-3 if kind == "float16" else 1e-6)


def boxes(count: int, width: float, height: float) -> np.ndarray:
    """Boxes inside, across the border of, and outside an image; some empty or inside out."""
    rng = np.random.default_rng(2)
    corners = rng.uniform(-0.4, 1.1, (count, 2, 2)) * [width, height]
    ordered = np.where(rng.random((count, 1, 1)) < 0.8, np.sort(corners, axis=1), corners)
    return np.asarray(ordered.reshape(count, 4), np.float32)


def test_aligned_regions(check_cases: CheckCases) -> None:
    cases: list[Any] = []
    x, rois, batches = normal(2, 19, 12, 15), boxes(25, 30, 24), np.arange(25) % 2
    for mode, ratio, transform in itertools.product(("avg", "max"), (0, 1, 3), ("half_pixel", "output_half_pixel")):
        fields = {"mode": mode, "sampling_ratio": ratio, "coordinate_transformation_mode": transform, "spatial_scale": 0.5}
        cases.append(("RoiAlign", {**fields, "output_height": 3, "output_width": 2}, [x, rois, batches]))
    cases.append(("RoiAlign", {"output_height": 2, "output_width": 5}, [x[:, :3].astype(np.float16), rois.astype(np.float16), batches]))
    cases.append(("RoiAlign", {"mode": "max"}, [x.astype(np.float64), rois.astype(np.float64), batches.astype(np.int32)]))
    check_cases(cases, rtol=1e-5, atol=1e-5)


def test_many_aligned_regions_on_two_threads(check_cases: CheckCases) -> None:
    fields = {"output_height": 7, "output_width": 7, "sampling_ratio": 2}
    check_cases([("RoiAlign", fields, [normal(1, 40, 30, 30), boxes(50, 30, 30), np.zeros(50, np.int64)])], rtol=1e-5, atol=1e-5, threads=2)


def test_regions_of_whole_pixels(check_cases: CheckCases) -> None:
    x, rois = normal(2, 3, 12, 15), np.concatenate([np.arange(20)[:, None] % 2, boxes(20, 30, 24)], 1).astype(np.float32)
    x[0, 0, 4, 4] = np.nan
    cases: list[Any] = [("MaxRoiPool", {"pooled_shape": (3, 2), "spatial_scale": scale}, [x, rois]) for scale in (0.5, 0.3)]
    check_cases([*cases, ("MaxRoiPool", {"pooled_shape": (2, 2)}, [x.astype(np.float16), rois.astype(np.float16)])])


DEFORMED: list[dict[str, Any]] = [
    {},
    {"strides": (2, 1), "pads": (1, 2, 0, 1), "dilations": (1, 2)},
    {"pads": (1, 1, 1, 1), "groups": 2},
    {"pads": (1, 1, 1, 1), "offset_groups": 3},
    {"groups": 3, "offset_groups": 2, "dilations": (2, 1)},
    {"groups": 6, "offset_groups": 3},
]


@pytest.mark.parametrize("constant", [True, False])
def test_convolutions_with_learnt_offsets(constant: bool) -> None:
    import lepton_compiler as lc
    from lepton_compiler.ir.graph import Graph, Value
    from lepton_compiler.ir.types import TensorType, dtype
    from lepton_compiler.ops.builder import Builder

    graph, feeds = Graph("deformed"), {}
    b, outputs = Builder(graph), []

    def operand(name: str, array: np.ndarray) -> Value:
        feeds[name] = array
        return graph.add_input(name, TensorType(dtype(array.dtype), array.shape))

    for k, (fields, kind) in enumerate([*((f, "float32") for f in DEFORMED), (DEFORMED[3], "float16"), (DEFORMED[4], "float64")]):
        if constant and kind != "float32":
            continue
        groups, taps = fields.get("groups", 1), 6 * fields.get("offset_groups", 1)
        weights = normal(6, 6 // groups, 3, 2, seed=k).astype(kind)
        x, w = operand(f"x{k}", normal(2, 6, 8, 9, seed=k).astype(kind)), b.constant(weights) if constant else operand(f"w{k}", weights)
        template = b.Conv(x, w, **{n: v for n, v in fields.items() if n != "offset_groups"})
        rows, columns = template.type.static_shape[2:]
        offset = operand(f"offset{k}", normal(2, 2 * taps, rows, columns, seed=k, scale=2).astype(kind))
        outputs.append(b.DeformConv(x, w, offset, **fields))
        if k % 2:
            mask, bias = (
                operand(f"mask{k}", normal(2, taps, rows, columns, seed=k).astype(kind)),
                operand(f"bias{k}", normal(6).astype(kind)),
            )
            outputs.append(b.Relu(b.DeformConv(x, w, offset, bias, mask, **fields)))
    graph.set_outputs(outputs)
    expected, got = lc.evaluate(graph, feeds), lc.compile(graph, level=2).run(feeds)
    for name, want in expected.items():
        half = want.dtype == np.float16
        np.testing.assert_allclose(
            got[name].astype(float), want.astype(float), rtol=5e-3 if half else 1e-4, atol=2e-2 if half else 1e-4, err_msg=name
        )
