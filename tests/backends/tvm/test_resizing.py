"""Resize against the evaluator over its attributes; what has several axes goes through the backend's passes first."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lepton_compiler.ops.resize import COORDINATES, NEAREST

CheckCases = Callable[..., None]

X = np.random.default_rng(0).normal(size=(2, 3, 5, 6)).astype(np.float32)
SHAPES = ((2, 3, 5, 12), (2, 3, 7, 6), (2, 3, 3, 6), (2, 3, 5, 4), (2, 3, 1, 6))
"""Results that differ from X along one axis."""


def scales(shape: tuple[int, ...]) -> tuple[float, ...]:
    return tuple(b / a for a, b in zip(X.shape, shape, strict=True))


def test_nearest_along_all_axes(check_cases: CheckCases) -> None:
    cases: list[Any] = []
    for transform, rounding in itertools.product(COORDINATES[:-1], NEAREST):
        shape = (2, 3, 10, 8) if transform in COORDINATES[::2] else (2, 3, 3, 12)
        fields = {"sizes": shape, "scales": scales(shape), "coordinate_transformation_mode": transform, "nearest_mode": rounding}
        cases.append(("Resize", fields, [X]))
    check_cases(cases, rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_interpolation_along_one_axis(check_cases: CheckCases, mode: str) -> None:
    cases: list[Any] = []
    for transform, shape in itertools.product(COORDINATES[:-1], SHAPES[:2]):
        cases.append(("Resize", {"sizes": shape, "scales": scales(shape), "mode": mode, "coordinate_transformation_mode": transform}, [X]))
    for shape, antialias, exclude in itertools.product(SHAPES[2:], (False, True), (False, True)):
        cases.append(("Resize", {"sizes": shape, "mode": mode, "antialias": antialias, "exclude_outside": exclude}, [X]))
    check_cases(cases, rtol=1e-5, atol=1e-5)


def test_regions_with_an_extrapolation_value(check_cases: CheckCases) -> None:
    cases: list[Any] = []
    for mode, (begin, end) in itertools.product(("nearest", "linear", "cubic"), ((-0.3, 0.8), (0.25, 1.5), (0.9, 0.1))):
        roi = (0.0, 0.0, begin, 0.0, 1.0, 1.0, end, 1.0)
        fields = {"sizes": (2, 3, 9, 6), "mode": mode, "coordinate_transformation_mode": "tf_crop_and_resize", "roi": roi}
        cases.append(("Resize", {**fields, "extrapolation_value": 10.0}, [X]))
    check_cases(cases, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["uint8", "int32", "float16", "float64"])
def test_other_types(check_cases: CheckCases, kind: str) -> None:
    x = (X * 20 + 100).astype(kind)
    cases: list[Any] = [
        ("Resize", {"sizes": (2, 3, 5, 11), "mode": m, "antialias": m == "cubic"}, [x]) for m in ("nearest", "linear", "cubic")
    ]
    check_cases(
        [*cases, ("Resize", {"sizes": (2, 3, 2, 6), "mode": "linear", "antialias": True}, [x])], rtol=1e-3 if kind == "float16" else 1e-5
    )


def test_interpolation_of_several_axes_is_split() -> None:
    import lepton_compiler as lc
    from lepton_compiler.ir.graph import Graph
    from lepton_compiler.ir.types import TensorType, dtype
    from lepton_compiler.ops.builder import Builder

    outputs, feeds, graph = [], {}, Graph("several")
    for kind in ("float32", "uint8", "float16"):
        x = graph.add_input(f"x_{kind}", TensorType(dtype(kind), X.shape))
        feeds[f"x_{kind}"] = (X * 20 + 100).astype(kind)
        b = Builder(graph)
        outputs.append(b.Resize(x, sizes=(2, 3, 11, 4), mode="cubic", antialias=True))
        outputs.append(b.Resize(x, sizes=(2, 3, 10, 12), mode="linear"))
        crop = {
            "coordinate_transformation_mode": "tf_crop_and_resize",
            "roi": (0, 0, -0.3, 0.2, 1, 1, 0.7, 1.4),
            "extrapolation_value": 7.0,
        }
        outputs.append(b.Resize(x, sizes=(2, 3, 10, 7), mode="linear", **crop))
        outputs.append(b.Resize(x, sizes=(2, 3, 10, 7), mode="nearest", **crop))
    graph.set_outputs(outputs)
    expected, got = lc.evaluate(graph, feeds), lc.compile(graph, level=0).run(feeds)
    for name, want in expected.items():
        if want.dtype == np.uint8:
            np.testing.assert_array_equal(got[name], want, err_msg=name)
        else:
            np.testing.assert_allclose(
                got[name].astype(np.float32), want.astype(np.float32), rtol=2e-3 if want.dtype == np.float16 else 1e-5, atol=1e-5
            )


def test_regions_that_are_known_at_run_time() -> None:
    import lepton_compiler as lc
    from lepton_compiler.ir.graph import Graph
    from lepton_compiler.ir.types import TensorType, dtype
    from lepton_compiler.ops.builder import Builder
    from lepton_compiler.ops.dynamic import Dynamic
    from lepton_compiler.ops.indexing import Trilu
    from lepton_compiler.ops.resize import Resize

    graph = Graph("regions")
    x, corners = graph.add_input("x", TensorType(dtype("float32"), X.shape)), graph.add_input("corners", TensorType(dtype("float32"), (4,)))
    k, b, outputs = graph.add_input("k", TensorType(dtype("int64"), ())), Builder(graph), []
    edges = b.Concat(corners, np.array([0, 1], np.float32), axis=0)
    roi = b.Gather(edges, np.array([4, 4, 0, 1, 5, 5, 2, 3]), axis=0)
    crop: dict[str, Any] = {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 7.0}
    for fields in (
        {"sizes": (2, 3, 9, 6)},
        {"sizes": (2, 3, 1, 3), "mode": "linear"},
        {"sizes": (2, 3, 9, 4), "mode": "cubic", "antialias": True, "exclude_outside": True},
    ):
        outputs.append(b(Dynamic(Resize(**crop, **fields), ("roi",)), x, roi))
    outputs += [b(Dynamic(Trilu(upper=upper), ("k",)), x, k) for upper in (False, True)]
    graph.set_outputs(outputs)
    model = lc.compile(graph, level=1)
    for region in ((-0.3, 0.2, 0.7, 1.4), (0.0, 0.0, 1.0, 1.0), (0.9, 0.1, 0.2, 0.3)):
        feeds = {"x": X, "corners": np.array(region, np.float32), "k": np.array(-1)}
        got = model.run(feeds)
        for name, want in lc.evaluate(graph, feeds).items():
            np.testing.assert_allclose(got[name], want, rtol=1e-5, atol=1e-5, err_msg=name)
