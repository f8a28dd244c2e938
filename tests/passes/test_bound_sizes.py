"""Sizes that data decides: what the pass writes computes the same, in the evaluator and natively, in the actual size."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.errors import UnsupportedError
from lepton_compiler.ir.text import parse_graph

Draw = Callable[[np.random.Generator], np.ndarray]


def sparse(*shape: int) -> Draw:
    """Numbers of which some are zero."""
    return lambda rng: (rng.standard_normal(shape) * (rng.random(shape) > 0.4)).astype(np.float32)


def whole(low: int, high: int, *shape: int) -> Draw:
    """Integers."""
    return lambda rng: np.asarray(rng.integers(low, high, shape))


def truth(*shape: int) -> Draw:
    """Booleans."""
    return lambda rng: np.asarray(rng.random(shape) > 0.5)


CASES: dict[str, tuple[str, Mapping[str, Draw]]] = {
    "non_zero": (
        """graph @g(%x: float32[3,4]) {
          %n = NonZero()(%x) : int64[2,n?0]
          %t = Transpose(perm=(1,0))(%n) : int64[n?0,2]
          %v = GatherND()(%x, %t) : float32[n?0]
          return %n, %t, %v
        }""",
        {"x": sparse(3, 4)},
    ),
    "non_zero_of_scalar": ("graph @g(%x: float32[]) {\n%n = NonZero()(%x) : int64[0,n?0]\nreturn %n\n}", {"x": sparse()}),
    "chained": (
        """graph @g(%x: float32[6], %c: bool[6]) {
          %y = Compress(axis=0)(%x, %c) : float32[y?0]
          %z = NonZero()(%y) : int64[1,z?0]
          return %y, %z
        }""",
        {"x": sparse(6), "c": truth(6)},
    ),
    "carriers": (
        """graph @g(%x: float32[3,4], %c: bool[3]) {
          %n = Compress(axis=1)(%x, %c) : float32[3,n?0]
          %r = Relu()(%n) : float32[3,n?0]
          %s = ReduceSum(axes=(1,), keepdims=False)(%r) : float32[3]
          %m = ReduceMax(axes=(1,))(%n) : float32[3,1]
          %e = ReduceMean(axes=(1,))(%n) : float32[3,1]
          %f = Softmax(axis=1)(%n) : float32[3,n?0]
          %g = Concat(axis=1)(%n, %x, %r) : float32[3,n?0+n?0+4]
          %h = Slice(starts=(-2,), ends=(9223372036854775807,), axes=(1,), steps=(1,))(%g) : float32[3,2]
          %q = Shape()(%n) : int64[2]
          %z = Reshape(shape=(-1,))(%n) : float32[n?0*3]
          %k = Transpose(perm=(1,0))(%n) : float32[n?0,3]
          %p = MatMul()(%n, %k) : float32[3,3]
          return %n, %r, %s, %m, %e, %f, %g, %h, %q, %z, %p
        }""",
        {"x": sparse(3, 4), "c": truth(3)},
    ),
    "late_parameters": (
        """graph @g(%x: float32[5,2], %k: int64[1], %s: int64[1]) {
          %v, %i = Dynamic(template=TopK(k=1, axis=0), params=("k",))(%x, %k) : float32[v?0,2], int64[v?0,2]
          %w = Dynamic(template=Slice(starts=(0,), ends=(0,), axes=(0,), steps=(1,)), params=("starts",))(%x, %s) : float32[w?0,2]
          %y = Dynamic(template=Slice(starts=(1,), ends=(0,), axes=(0,), steps=(2,)), params=("ends",))(%x, %s) : float32[y?0,2]
          return %v, %i, %w, %y
        }""",
        {"x": sparse(5, 2), "k": whole(0, 5, 1), "s": whole(-6, 6, 1)},
    ),
    "unique": (
        """graph @g(%x: int64[7]) {
          %y, %first, %inverse, %counts = Unique(sorted=False)(%x) : int64[y?0], int64[y?0], int64[7], int64[y?0]
          %a, %b, %c, %d = Unique()(%x) : int64[a?0], int64[a?0], int64[7], int64[a?0]
          return %y, %first, %inverse, %counts, %a, %b, %c, %d
        }""",
        {"x": whole(0, 4, 7)},
    ),
    "unique_slices": (
        """graph @g(%x: int64[2,5]) {
          %y, %first, %inverse, %counts = Unique(axis=1)(%x) : int64[2,y?0], int64[y?0], int64[5], int64[y?0]
          return %y, %first, %inverse, %counts
        }""",
        {"x": whole(0, 2, 2, 5)},
    ),
    "non_max_suppression": (
        """graph @g(%boxes: float32[2,6,4], %scores: float32[2,3,6], %most: int64[], %iou: float32[], %score: float32[]) {
          %y = NonMaxSuppression()(%boxes, %scores, %most, %iou, %score) : int64[y?0,3]
          return %y
        }""",
        {
            "boxes": lambda rng: rng.random((2, 6, 4)).astype(np.float32),
            "scores": lambda rng: rng.integers(0, 6, (2, 3, 6)).astype(np.float32),
            "most": whole(0, 5),
            "iou": lambda rng: np.array(0.2, np.float32),
            "score": lambda rng: np.array(1, np.float32),
        },
    ),
    "branches_of_different_sizes": (
        """graph @g(%c: bool[], %x: float32[2]) {
          %y, %z = If()(%c, %x) : float32[y?0], float32[2]
            graph @then(%a: float32[2]) {
              %b = Concat(axis=0)(%a, %a) : float32[4]
              return %b, %a
            }
            graph @else(%a: float32[2]) {
              %d = Neg()(%a) : float32[2]
              return %a, %d
            }
          %m = Exp()(%y) : float32[y?0]
          return %m, %z
        }""",
        {"c": truth(), "x": sparse(2)},
    ),
    "loop_that_data_ends": (
        """graph @g(%m: int64[], %x: float32[2]) {
          %n0 = const int64[] (7)
          %t = const bool[] (True)
          %y, %z = Loop(carried=1)(%n0, %t, %x, %m) : float32[2], float32[z?0,2]
            graph @body(%i: int64[], %c: bool[], %a: float32[2], %m: int64[]) {
              %b = Add()(%a, %a) : float32[2]
              %e = Less()(%i, %m) : bool[]
              return %e, %b, %a
            }
          %r = ReduceSum(axes=(0,))(%z) : float32[1,2]
          return %y, %z, %r
        }""",
        {"m": whole(-1, 9), "x": sparse(2)},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_same_results_in_actual_size(name: str) -> None:
    text, draws = CASES[name]
    graph = parse_graph(text)
    bounded, model = lc.optimize(graph, passes="bound-sizes"), lc.compile(graph, level=2)
    rng = np.random.default_rng(7)
    for _ in range(8):
        feeds = {key: draw(rng) for key, draw in draws.items()}
        wanted = lc.evaluate(graph, feeds)
        for results in (lc.evaluate(bounded, feeds), model.run(feeds)):
            for key, array in wanted.items():
                assert results[key].shape == array.shape, key
                np.testing.assert_allclose(results[key], array, rtol=1e-5, atol=1e-6, err_msg=key)


def test_the_manifest_and_the_header_tell_which_sizes_are_reported() -> None:
    model = lc.compile(parse_graph(CASES["non_zero"][0]), name="found")
    assert [row["dynamic"] for row in model.manifest["outputs"]] == [[1], [0], [0]]
    assert model.artifact is not None
    header = model.artifact.files["found.h"].decode()
    assert "int64_t n_dims[2];" in header
    assert "#define FOUND_OUTPUT_N_SHAPE {2, 12} /* at most */" in header


def test_a_loop_without_any_bound_is_refused_by_name() -> None:
    text = CASES["loop_that_data_ends"][0].replace("%n0 = const int64[] (7)\n", "").replace("(%n0, %t, %x, %m)", "(none, %t, %x, %m)")
    with pytest.raises(UnsupportedError, match=r"'y' \(Loop.*nothing bounds how often it runs"):
        lc.compile(parse_graph(text))


def test_everything_that_cannot_be_bounded_is_named_at_once() -> None:
    text = """graph @g(%x: float32[4], %c: bool[4], %d: bool[4]) {
      %a = Compress(axis=0)(%x, %c) : float32[a?0]
      %b = Compress(axis=0)(%x, %d) : float32[b?0]
      %s = Add()(%a, %b) : float32[max(a?0,b?0)]
      %t, %i = TopK(k=1)(%a) : float32[1], int64[1]
      return %s, %t
    }"""
    with pytest.raises(UnsupportedError) as caught:
        lc.compile(parse_graph(text))
    assert [d.where.split("'")[1] for d in caught.value.diagnostics] == ["s", "t"]
