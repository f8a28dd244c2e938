"""Shapes: symbolic inference, chains of shape arithmetic, parameters that are known at run time only."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lepton_compiler.errors import InferenceError
from lepton_compiler.ir.dim import symbol
from lepton_compiler.ir.graph import Graph, Value
from lepton_compiler.ir.types import BOOL, FLOAT16, FLOAT32, INT64, TensorType, tensor_type
from lepton_compiler.ops.binary import Mul
from lepton_compiler.ops.dynamic import Dynamic
from lepton_compiler.ops.evaluator import evaluate
from lepton_compiler.ops.indexing import Concat, Gather, Slice
from lepton_compiler.ops.shape import ConstantOfShape, Expand, EyeLike, Range, Reshape, Shape, Size, Squeeze, Transpose, Unsqueeze

N, S = symbol("n"), symbol("s")


def infer(op: Any, *specs: str) -> tuple[Any, ...]:
    return tuple(t.shape for t in op.infer(*(tensor_type(s) for s in specs)))


@pytest.mark.parametrize(
    ("shape", "given", "expected"),
    [
        ((2, -1), "float32[4,6]", (2, 12)),
        ((-1,), "float32[]", (1,)),
        ((), "float32[1,1]", ()),
        ((N, -1), "float32[n,3,4]", (N, 12)),
        ((-1, 4), "float32[n,3,4]", (N * 3, 4)),
        ((N * S, 8), "float32[n,s,8]", (N * S, 8)),
        ((0, 5), "float32[3,0]", (0, 5)),
    ],
)
def test_reshape(shape: Any, given: str, expected: Any) -> None:
    assert infer(Reshape(shape=shape), given) == (expected,)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((5, -1), "does not fit"), ((-1, -1), "more than one"), ((7,), "does not fit"), ((-2, 3), "negative"), ((0, -1), "does not fit")],
)
def test_reshape_refuses(shape: Any, message: str) -> None:
    with pytest.raises(InferenceError, match=message):
        infer(Reshape(shape=shape), "float32[4,6]")


def test_squeeze_and_unsqueeze() -> None:
    assert infer(Squeeze(axes=(0, -1)), "float32[1,n,1]") == ((N,),)
    assert infer(Squeeze(axes=(0,)), "float32[n,3]") == ((3,),)
    assert infer(Unsqueeze(axes=(0, -1)), "float32[n,3]") == ((1, N, 3, 1),)
    x = np.zeros((1, 2, 1), np.float32)
    assert Squeeze(axes=(0, -1)).evaluate(x)[0].shape == (2,)
    assert Unsqueeze(axes=(-1, 0)).evaluate(x)[0].shape == (1, 1, 2, 1, 1)
    with pytest.raises(InferenceError, match="size one"):
        infer(Squeeze(axes=(1,)), "float32[1,2]")
    with pytest.raises(InferenceError, match="twice"):
        infer(Unsqueeze(axes=(0, 0)), "float32[1,2]")


def test_transpose() -> None:
    assert infer(Transpose(perm=(2, 0, 1)), "int8[n,3,4]") == ((4, N, 3),)
    x = np.arange(6).reshape(1, 2, 3)
    np.testing.assert_array_equal(Transpose(perm=(2, 0, 1)).evaluate(x)[0], x.transpose(2, 0, 1))
    with pytest.raises(InferenceError, match="permutation"):
        infer(Transpose(perm=(0, 0, 1)), "int8[1,3,4]")


def test_expand_broadcasts_both_ways() -> None:
    assert infer(Expand(shape=(2, 1, 4)), "float32[3,1]") == ((2, 3, 4),)
    assert infer(Expand(shape=(N, 1)), "float32[1,5]") == ((N, 5),)
    y = Expand(shape=(2, 1, 4)).evaluate(np.arange(3.0).reshape(3, 1))[0]
    assert y.shape == (2, 3, 4)
    assert y.flags.writeable
    with pytest.raises(InferenceError, match="broadcast"):
        infer(Expand(shape=(4,)), "float32[3]")


def test_shape_and_size() -> None:
    x = np.zeros((2, 0, 5), np.float32)
    np.testing.assert_array_equal(Shape(start=-2).evaluate(x)[0], [0, 5])
    np.testing.assert_array_equal(Shape(start=1, end=-1).evaluate(x)[0], [0])
    np.testing.assert_array_equal(Shape(start=2, end=1).evaluate(x)[0], [])
    assert Size().evaluate(x)[0] == 0
    content = Size().content_of(tensor_type("float32[n,s,2]"))[0]
    assert content.item() == N * S * 2


def test_a_chain_of_shape_arithmetic_resolves() -> None:
    graph = Graph()
    x = graph.add_input("x", tensor_type("float32[n,3,h,w]"))

    def add(op: Any, *values: Value) -> Value:
        return graph.add(op, values).output

    shape = add(Shape(), x)
    batch = add(Gather(axis=0), shape, graph.constant(np.array(0)))
    height = add(Gather(axis=0), shape, graph.constant(np.array([-2])))
    doubled = add(Mul(), height, graph.constant(np.array([2])))
    target = add(Concat(axis=0), add(Unsqueeze(axes=(0,)), batch), doubled, graph.constant(np.array([-1])))
    tail = add(Slice(starts=(1,), ends=(3,), axes=(0,), steps=(1,)), shape)
    h = symbol("h")
    assert target.content is not None and list(target.content) == [N, h * 2, -1]
    assert tail.content is not None and list(tail.content) == [3, h]
    resolved = Dynamic(Reshape(), ("shape",)).resolve([x, target])
    assert resolved == Reshape(shape=(N, h * 2, -1))
    (kept,) = graph.add(Dynamic(Reshape(), ("shape",)), [x, target]).outputs
    graph.set_outputs([kept])
    assert evaluate(graph, {"x": np.zeros((2, 3, 4, 8), np.float32)})[kept.name].shape == (2, 8, 12)


def test_range() -> None:
    assert infer(Range(start=0, limit=N, delta=1)) == ((N,),)
    np.testing.assert_array_equal(Range(start=10, limit=4, delta=-3).evaluate()[0], [10, 7])
    assert Range(start=3, limit=1, delta=1).evaluate()[0].shape == (0,)
    y = Range(start=0.5, limit=2.0, delta=0.5, dtype=FLOAT16).evaluate()[0]
    assert y.dtype == np.float16
    np.testing.assert_array_equal(y, [0.5, 1.0, 1.5])
    assert list(Range(start=N, limit=N + 2, delta=1).evaluate_symbolic()[0]) == [N, N + 1]
    with pytest.raises(InferenceError, match="zero"):
        infer(Range(start=0, limit=3, delta=0))


def test_constants_and_identity_matrices() -> None:
    op = ConstantOfShape(shape=(2, 0), value=True, dtype=BOOL)
    assert op.evaluate()[0].shape == (2, 0)
    assert op.infer() == (TensorType(BOOL, (2, 0)),)
    big = ConstantOfShape(shape=(1,), value=2**62 + 1, dtype=INT64).evaluate()[0]
    assert big[0] == 2**62 + 1
    np.testing.assert_array_equal(EyeLike(k=1, dtype=FLOAT32).evaluate(np.zeros((2, 3)))[0], np.eye(2, 3, 1))
    with pytest.raises(InferenceError, match="negative"):
        infer(ConstantOfShape(shape=(-1,)))


@pytest.mark.parametrize(
    ("template", "params", "specs", "expected"),
    [
        (Reshape(), ("shape",), ("float32[n,4]", "int64[3]"), "?0,?1,?2"),
        (Reshape(), ("shape",), ("float32[n,4]", "int64[1]"), "4*n"),
        (Expand(), ("shape",), ("float32[5,1]", "int64[3]"), "?0,5,?2"),
        (Squeeze(), ("axes",), ("float32[1,4,1]", "int64[2]"), "4"),
        (Squeeze(), ("axes",), ("float32[1,n]", "int64[1]"), "?0"),
        (Unsqueeze(), ("axes",), ("float32[4]", "int64[2]"), "?0,?1,?2"),
        (ConstantOfShape(), ("shape",), ("int64[2]",), "?0,?1"),
        (Range(), ("limit",), ("int64[]",), "?0"),
    ],
)
def test_parameters_known_at_run_time(template: Any, params: Any, specs: Any, expected: str) -> None:
    (y,) = Dynamic(template, params).infer(*(tensor_type(s) for s in specs))
    assert ",".join(map(str, y.shape)) == expected


def test_an_unknown_rank_is_refused() -> None:
    with pytest.raises(InferenceError, match="rank of the result depends on data"):
        Dynamic(Reshape(), ("shape",)).infer(tensor_type("float32[4]"), tensor_type("int64[n]"))
