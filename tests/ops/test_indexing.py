"""Indexing: numbers against numpy and ONNX Runtime, clamping, symbolic sizes, narrow types."""

from __future__ import annotations

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from lepton_compiler.errors import InferenceError
from lepton_compiler.ir.dim import bind, ceildiv, symbol
from lepton_compiler.ir.types import tensor_type
from lepton_compiler.ops import indexing as o
from lepton_compiler.ops.dynamic import Dynamic

RNG = np.random.default_rng(5)
X = RNG.standard_normal((3, 4, 5)).astype(np.float32)
N, S = symbol("n"), symbol("s")
END = 2**63 - 1


def shapes(op: Any, *specs: str) -> tuple[Any, ...]:
    return tuple(t.shape for t in op.infer(*(tensor_type(s) for s in specs)))


def test_gather() -> None:
    index = np.array([[0, -1], [2, 1]], np.int32)
    np.testing.assert_array_equal(o.Gather(axis=1).evaluate(X, index)[0], np.take(X, index, 1))
    assert shapes(o.Gather(axis=1), "float32[n,4,5]", "int64[s,2]") == ((N, S, 2, 5),)
    assert o.Gather().evaluate(X, np.array(1))[0].shape == (4, 5)
    for axis in (-4, 3):
        with pytest.raises(InferenceError, match="axis"):
            shapes(o.Gather(axis=axis), "float32[3,4,5]", "int64[1]")
    with pytest.raises(InferenceError, match="integers"):
        shapes(o.Gather(), "float32[3]", "float32[1]")


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gather_and_scatter_elements(onnxruntime_node: Any, axis: int) -> None:
    index = RNG.integers(-3, 3, (2, 3, 4))
    (want,) = onnxruntime_node("GatherElements", [X, index], axis=axis)
    np.testing.assert_array_equal(o.GatherElements(axis=axis).evaluate(X, index)[0], want)
    updates = RNG.standard_normal((2, 3, 4)).astype(np.float32)
    for reduction in ("add", "mul", "max", "min"):
        (want,) = onnxruntime_node("ScatterElements", [X, index, updates], axis=axis, reduction=reduction)
        np.testing.assert_allclose(o.ScatterElements(axis, reduction).evaluate(X, index, updates)[0], want, rtol=1e-6)


@pytest.mark.parametrize("kind", [np.int8, np.float16, ml_dtypes.bfloat16, ml_dtypes.int4, np.bool_])
def test_scatters_take_narrow_types(kind: Any) -> None:
    x, updates = np.zeros(4).astype(kind), np.ones(2).astype(kind)
    (y,) = o.ScatterElements().evaluate(x, np.array([1, -1]), updates)
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y.astype(int), [0, 1, 0, 1])
    if kind not in (np.bool_, ml_dtypes.int4):
        (y,) = o.ScatterND("add").evaluate(x, np.array([[1], [1]]), updates)
        np.testing.assert_array_equal(y.astype(int), [0, 2, 0, 0])


def test_gather_nd_and_scatter_nd(onnxruntime_node: Any) -> None:
    index = np.array([[[0, 1], [3, -1]], [[1, 1], [2, 0]], [[0, 0], [0, 4]]])
    (want,) = onnxruntime_node("GatherND", [X, index], batch_dims=1)
    np.testing.assert_array_equal(o.GatherND(batch_dims=1).evaluate(X, index)[0], want)
    index = np.array([[0, 1], [2, 3], [0, 1]])
    (want,) = onnxruntime_node("GatherND", [X, index])
    np.testing.assert_array_equal(o.GatherND().evaluate(X, index)[0], want)
    updates = RNG.standard_normal((3, 5)).astype(np.float32)
    for reduction in ("add", "mul", "max", "min"):
        (want,) = onnxruntime_node("ScatterND", [X, index, updates], reduction=reduction)
        np.testing.assert_allclose(o.ScatterND(reduction).evaluate(X, index, updates)[0], want, rtol=1e-6)
    assert shapes(o.GatherND(batch_dims=1), "float32[n,4,5]", "int64[n,s,1]") == ((N, S, 5),)
    with pytest.raises(InferenceError, match="must have shape"):
        shapes(o.ScatterND(), "float32[3,4]", "int64[2,1]", "float32[2,5]")


def test_slice_is_clamped_as_onnx_says(onnxruntime_node: Any) -> None:
    x = np.arange(5, dtype=np.float32)
    bounds = [-(2**40), -7, -5, -2, 0, 2, 4, 5, 9, END]
    for start, end, step in itertools.product(bounds, bounds, (1, 2, -1, -3)):
        op = o.Slice(starts=(start,), ends=(end,), axes=(0,), steps=(step,))
        first, last = (min(max(b + 5 if b < 0 else b, -1 if step < 0 else 0), 4 if step < 0 else 5) for b in (start, end))
        want = [float(i) for i in range(first, last, step)]
        np.testing.assert_array_equal(op.evaluate(x)[0], want)
        assert shapes(op, "float32[5]") == ((len(want),),)


@pytest.mark.parametrize(
    ("start", "end", "step", "expected"),
    [
        (0, END, 1, S),
        (1, END, 1, S - 1),
        (0, -1, 1, S - 1),
        (-1, END, 1, 1),
        (-2, END, 1, 2),
        (0, 1, 1, 1),
        (0, END, 2, ceildiv(S, 2)),
        (-1, -END, -1, S),
        (0, N, 1, N),
    ],
)
def test_slice_of_a_symbolic_axis(start: Any, end: Any, step: int, expected: Any) -> None:
    assert shapes(o.Slice(starts=(start,), ends=(end,), axes=(1,), steps=(step,)), "float32[2,s]") == ((2, expected),)


def test_slice_of_a_table_up_to_a_symbol() -> None:
    op = o.Slice(starts=(0,), ends=(S,), axes=(1,), steps=(1,))
    (y,) = op.infer(tensor_type("float32[1,512,8]"))
    assert y.shape == (1, S, 8)
    (bound,) = op.bind({"s": 600}).infer(tensor_type("float32[1,512,8]"))
    assert bound.shape == (1, 512, 8)
    (short,) = o.Slice(starts=(0,), ends=(5,), axes=(0,)).infer(tensor_type("float32[s]"))
    assert [bind(short.shape[0], {"s": n}) for n in (3, 5, 9)] == [3, 5, 5]


def test_concat_and_split() -> None:
    assert shapes(o.Concat(axis=-1), "int8[2,n]", "int8[2,3]") == ((2, N + 3),)
    assert shapes(o.Concat(axis=1), "int8[n,2]", "int8[4,3]") == ((4, 5),)
    parts = o.Split(axis=1, sizes=(1, 0, 3)).evaluate(X)
    assert [p.shape for p in parts] == [(3, 1, 5), (3, 0, 5), (3, 3, 5)]
    np.testing.assert_array_equal(o.Concat(axis=1).evaluate(*parts)[0], X)
    with pytest.raises(InferenceError, match="differ outside axis"):
        shapes(o.Concat(axis=0), "int8[2,4]", "int8[2,3]")
    with pytest.raises(InferenceError, match="add up to 5"):
        shapes(o.Split(axis=0, sizes=(2, 3)), "int8[4]")
    dynamic = Dynamic(o.Split(axis=0, sizes=(0, 0)), ("sizes",))
    first, second = dynamic.infer(tensor_type("int8[4,2]"), tensor_type("int64[2]"))
    assert (first.shape, second.shape) == ((symbol("?0"), 2), (symbol("?1"), 2))
    assert [p.shape for p in dynamic.evaluate(np.zeros((4, 2), np.int8), np.array([1, 3]))] == [(1, 2), (3, 2)]


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
@pytest.mark.parametrize("pads", [(1, 0, 2, 0, 3, 1), (0, 0, 0, 0, 0, 0), (2, 1, -1, 0, -2, 1)])
def test_pad_agrees_with_onnxruntime(onnxruntime_node: Any, mode: str, pads: Any) -> None:
    if mode == "wrap" and min(pads) < 0:
        pytest.skip("the two orders of cropping and wrapping differ")
    (want,) = onnxruntime_node("Pad", [X, np.array(pads, np.int64)], mode=mode)
    np.testing.assert_array_equal(o.Pad(pads=pads, mode=mode).evaluate(X)[0], want)


def test_pad_value_and_types() -> None:
    x = np.ones((2,), ml_dtypes.bfloat16)
    (y,) = o.Pad(pads=(1, 2)).evaluate(x, np.array(7, ml_dtypes.bfloat16))
    np.testing.assert_array_equal(y.astype(int), [7, 1, 1, 7, 7])
    assert shapes(o.Pad(pads=(1, 0, N, 2)), "int8[n,3]") == ((2 * N + 1, 5),)
    with pytest.raises(InferenceError, match="entries"):
        shapes(o.Pad(pads=(1, 2)), "int8[n,3]")
    with pytest.raises(InferenceError, match="crop more"):
        shapes(o.Pad(pads=(-2, -2)), "int8[3]")


def test_tile_and_blocks() -> None:
    np.testing.assert_array_equal(o.Tile(repeats=(1, 2, 3)).evaluate(X)[0], np.tile(X, (1, 2, 3)))
    assert shapes(o.Tile(repeats=(N, 2)), "int8[3,s]") == ((N * 3, S * 2),)
    x = RNG.standard_normal((2, 12, 3, 4)).astype(np.float32)
    (wide,) = o.DepthToSpace(blocksize=2).evaluate(x)
    assert wide.shape == (2, 3, 6, 8)
    np.testing.assert_array_equal(o.SpaceToDepth(blocksize=2).evaluate(wide)[0], x)
    assert shapes(o.DepthToSpace(blocksize=2, mode="CRD"), "int8[n,8,h,3]") == ((N, 2, symbol("h") * 2, 6),)
    with pytest.raises(InferenceError, match="blocks"):
        shapes(o.DepthToSpace(blocksize=2), "int8[1,6,2,2]")


def test_one_hot() -> None:
    (y,) = o.OneHot(depth=3, axis=0).evaluate(np.array([1, -1, 5]), np.array([0.5, 2], np.float16))
    assert y.dtype == np.float16
    np.testing.assert_array_equal(y, [[0.5, 0.5, 0.5], [2, 0.5, 0.5], [0.5, 2, 0.5]])
    (dynamic,) = Dynamic(o.OneHot(depth=1), ("depth",)).infer(*map(tensor_type, ("int64[n]", "int8[2]", "int64[]")))
    assert dynamic.shape == (N, symbol("?0"))


def test_data_dependent_results() -> None:
    x = np.array([[3, 0, 3], [0, 2, 3]], np.int32)
    np.testing.assert_array_equal(o.NonZero().evaluate(x)[0], [[0, 0, 1, 1], [0, 2, 1, 2]])
    assert o.NonZero().evaluate(np.array(5))[0].shape == (0, 1)
    assert shapes(o.NonZero(), "int8[2,3]") == ((2, symbol("?0")),)
    np.testing.assert_array_equal(o.Compress(axis=1).evaluate(x, np.array([True, False]))[0], [[3], [0]])
    np.testing.assert_array_equal(o.Compress().evaluate(x, np.array([False, True, True]))[0], [0, 3])


@pytest.mark.parametrize(("axis", "sort"), [(None, True), (None, False), (0, True), (1, False)])
def test_unique_agrees_with_onnxruntime(onnxruntime_node: Any, axis: int | None, sort: bool) -> None:
    x = np.array([[2, 1, 2, 0], [0, 1, 0, 0], [2, 1, 2, 0]], np.float32)
    given = {} if axis is None else {"axis": axis}
    want = onnxruntime_node("Unique", [x], 4, sorted=int(sort), **given)
    for a, b in zip(o.Unique(axis, sort).evaluate(x), want, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("batch", "time"), [(0, 1), (1, 0)])
def test_reverse_sequence_agrees_with_onnxruntime(onnxruntime_node: Any, batch: int, time: int) -> None:
    lengths = np.array([2, 1, 4, 3][: X.shape[batch]])
    lengths = np.minimum(lengths, X.shape[time])
    (want,) = onnxruntime_node("ReverseSequence", [X, lengths], batch_axis=batch, time_axis=time)
    np.testing.assert_array_equal(o.ReverseSequence(batch, time).evaluate(X, lengths)[0], want)


def test_trilu_and_tensor_scatter() -> None:
    np.testing.assert_array_equal(o.Trilu(k=1).evaluate(X)[0], np.triu(X, 1))
    np.testing.assert_array_equal(o.Trilu(k=-1, upper=False).evaluate(X)[0], np.tril(X, -1))
    past, update = np.zeros((2, 4, 1), np.float32), np.array([[[1], [2]], [[3], [4]]], np.float32)
    (y,) = o.TensorScatter().evaluate(past, update, np.array([1, 2]))
    np.testing.assert_array_equal(y[..., 0], [[0, 1, 2, 0], [0, 0, 3, 4]])
    (y,) = o.TensorScatter(mode="circular").evaluate(past, update, np.array([3, 0]))
    np.testing.assert_array_equal(y[..., 0], [[2, 0, 0, 1], [3, 4, 0, 0]])
    with pytest.raises(ValueError, match="exceeds the axis"):
        o.TensorScatter().evaluate(past, update, np.array([3, 0]))
