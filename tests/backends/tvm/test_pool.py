"""Max pooling against the evaluator: special values, indices, types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

CheckCases = Callable[..., None]

WINDOWS: list[dict[str, Any]] = [
    {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1), "dilations": (1, 1)},
    {"kernel_shape": (2, 3), "strides": (1, 2), "pads": (0, 2, 1, 0), "dilations": (2, 1)},
    {"kernel_shape": (3, 2), "strides": (2, 3), "pads": (0, 0, 0, 0), "dilations": (1, 2), "ceil_mode": True},
]
"""Windows for images of 9 x 10."""


def special(*shape: int) -> np.ndarray:
    """Normal values among which NaN, infinities, zeros of both signs, and equals are frequent."""
    rng = np.random.default_rng(0)
    x = np.round(rng.normal(0, 1, shape), 1).astype(np.float32)
    rare = rng.random(shape)
    x[rare < 0.04] = np.nan
    x[(rare > 0.1) & (rare < 0.5)] = -np.inf
    x[(rare > 0.95)] = np.inf
    return x


def finite(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip(np.nan_to_num(x), 0, 3))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_special_values(check_cases: CheckCases, layout: str) -> None:
    x = special(2, 4, 9, 10) if layout == "NCHW" else special(2, 9, 10, 4)
    cases: list[Any] = [("MaxPool", {**window, "layout": layout}, [x]) for window in WINDOWS]
    cases += [("MaxPool", {**WINDOWS[0], "layout": layout}, [finite(x).astype(k)]) for k in ("int8", "uint8", "float16", "float64", "bool")]
    wide = {"kernel_shape": (2, 40), "strides": (1, 1), "dilations": (1, 1)}
    image = special(1, 3, 50, 3) if layout == "NHWC" else special(1, 2, 3, 50)
    cases += [("MaxPool", {**wide, "pads": pads, "layout": layout}, [image]) for pads in ((0, 1, 0, 0), (0, 0, 0, 0))]
    cases += [("AveragePool", {**wide, "pads": pads, "layout": layout}, [finite(image)]) for pads in ((0, 1, 0, 0), (0, 0, 0, 0))]
    check_cases(cases)


def test_indices(check_cases: CheckCases) -> None:
    cases: list[Any] = []
    for window in WINDOWS:
        for order in (0, 1):
            cases.append(("MaxPool", {**window, "indices": True, "storage_order": order}, [special(2, 3, 9, 10)]))
    cases += [
        ("MaxPool", {**WINDOWS[0], "indices": True}, [finite(special(2, 3, 9, 10)).astype(k)])
        for k in ("int8", "uint8", "float16", "float64")
    ]
    line = {"kernel_shape": (3,), "strides": (1,), "pads": (1, 1), "dilations": (1,), "indices": True}
    cube = {
        "kernel_shape": (2, 2, 3),
        "strides": (2, 1, 2),
        "pads": (1, 0, 0, 0, 1, 1),
        "dilations": (1, 1, 1),
        "indices": True,
        "storage_order": 1,
    }
    cases += [("MaxPool", line, [special(2, 3, 9)]), ("MaxPool", cube, [special(1, 2, 4, 5, 6)])]
    nothing = {"kernel_shape": (2, 2), "strides": (2, 2), "pads": (2, 0, 0, 0), "dilations": (1, 1), "indices": True}
    check_cases([*cases, ("MaxPool", nothing, [special(1, 2, 4, 4)])])
