"""Places of elements in views, against numpy doing the same to an array of places."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from lepton_compiler.analysis.attention import Rows, sizes_of
from lepton_compiler.analysis.layouts import Layout, common, through
from lepton_compiler.ops.builder import make_op


def places(layout: Layout) -> np.ndarray:
    """Where each element lies."""
    found = np.full((), layout.offset)
    for extent, step in layout.factors:
        found = found[..., None] + np.arange(extent) * step
    return found.reshape(layout.shape)


CHAINS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "heads": [("Reshape", {"shape": (2, 6, 3, 4)}), ("Transpose", {"perm": (0, 2, 1, 3)})],
    "packed heads": [
        ("Reshape", {"shape": (2, 6, 3, 2, 2)}),
        ("Transpose", {"perm": (2, 0, 3, 1, 4)}),
        ("Split", {"axis": 0, "sizes": (1, 2)}),
        ("Slice", {"starts": (-1,), "ends": (9,), "axes": (0,), "steps": (1,)}),
        ("Squeeze", {"axes": (0,)}),
    ],
    "shared heads": [("Unsqueeze", {"axes": (1,)}), ("Expand", {"shape": (2, 5, 6, 12)}), ("Reshape", {"shape": (10, 6, 12)})],
    "every second row": [("Slice", {"starts": (1,), "ends": (6,), "axes": (1,), "steps": (2,)}), ("Reshape", {"shape": (2, 3, 2, 6)})],
}


@pytest.mark.parametrize("chain", CHAINS)
def test_views_are_where_numpy_puts_them(chain):
    layout: Layout | None = Layout.dense((2, 6, 12))
    values = np.arange(2 * 6 * 12).reshape(2, 6, 12)
    for name, attributes in CHAINS[chain]:
        op = make_op(name, attributes)
        values = op.evaluate(values)[-1]
        assert layout is not None
        layout = through(op, layout, values.shape, 1 if name == "Split" else 0)
    assert layout is not None and np.array_equal(places(layout), values)


def test_a_picked_slice():
    layout = through(make_op("Gather", {"axis": 1}), Layout.dense((2, 3, 4)), (2, 4), index=-1)
    assert layout is not None and np.array_equal(places(layout), np.arange(24).reshape(2, 3, 4)[:, -1])


def test_uneven_steps_have_no_layout():
    rows = Layout.dense((4, 6)).transposed((1, 0))
    assert rows.reshaped((8, 3)) is None
    assert rows.reshaped((24,)) is not None  # one axis of two factors
    assert rows.sliced(0, 5, -1, 6) is None
    assert through(make_op("Tile", {"repeats": (2, 1)}), rows, (12, 4)) is None


@pytest.mark.parametrize(
    ("lists", "runs"),
    [
        ([[(2, 60), (3, 20), (5, 1)], [(2, 100), (15, 1)]], [(2, (60, 100)), (3, (20, 5)), (5, (1, 1))]),
        ([[(6, 5), (5, 1)], [(30, 1)]], [(30, (1, 1))]),
        ([[(4, 1)], [(6, 1)]], None),
        ([[(4, 3), (3, 1)], [(6, 2), (2, 1)]], None),
    ],
)
def test_common_runs(lists, runs):
    assert common(lists) == runs


def test_heads_that_share_keys_are_an_axis_of_the_batch():
    q = Layout.dense((2, 10, 4, 8)).transposed((0, 2, 1, 3))
    shared = Layout.dense((2, 12, 2, 8)).transposed((0, 2, 1, 3)).reshaped((2, 2, 1, 12, 8))
    assert shared is not None
    k = shared.expanded((2, 2, 2, 12, 8)).reshaped((2, 4, 12, 8))
    assert k is not None
    sizes = sizes_of(q, k.transposed((0, 1, 3, 2)), k, (2, 4, 10, 12), (2, 4, 10, 8))
    assert sizes is not None and math.prod(sizes.batch) == 8
    assert (sizes.batch, sizes.queries, sizes.keys, sizes.head, sizes.width) == ((2, 2, 2), 10, 12, 8, 8)
    assert (sizes.query, sizes.key, sizes.value) == (Rows((320, 16, 8), 32), Rows((192, 8, 0), 16), Rows((192, 8, 0), 16))


def test_rows_can_be_kept_apart():
    q = Layout.dense((2, 20, 8))
    k, v = Layout.dense((2, 12, 8)).transposed((0, 2, 1)), Layout.dense((2, 12, 8))
    whole, halves = (sizes_of(q, k, v, (2, 20, 12), (2, 20, 8), queries) for queries in (None, 10))
    assert whole is not None and (whole.batch, whole.queries) == ((2,), 20)
    assert halves is not None and (halves.batch, halves.queries) == ((2, 2), 10)
    assert sizes_of(q, v, v, (2, 20, 8), (2, 20, 8)) is None  # keys are not neighbouring elements
