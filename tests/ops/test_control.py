"""Control flow: types seen through regions, execution, and refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lepton_compiler.errors import InferenceError
from lepton_compiler.ir.dim import symbol
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.op import Op
from lepton_compiler.ir.types import tensor_type
from lepton_compiler.ops.binary import Add, Less, Mul
from lepton_compiler.ops.control import Fused, If, Loop, Scan
from lepton_compiler.ops.evaluator import evaluate
from lepton_compiler.ops.indexing import Concat, NonZero
from lepton_compiler.ops.unary import Neg

N = symbol("n")


def region(inputs: tuple[str, ...], *steps: tuple[Op, tuple[int, ...]], outputs: tuple[int, ...]) -> Graph:
    """A region whose values are numbered: inputs first, then the result of each step."""
    graph = Graph("region")
    values = [graph.add_input(f"i{k}", tensor_type(s)) for k, s in enumerate(inputs)]
    for op, operands in steps:
        values.append(graph.add(op, [values[i] for i in operands]).output)
    graph.set_outputs(values[i] for i in outputs)
    return graph


def program(op: Op, inputs: tuple[str | None, ...], *regions: Graph) -> Graph:
    """A graph of one node; an absent operand is None."""
    graph = Graph()
    values = [None if s is None else graph.add_input(f"x{i}", tensor_type(s)) for i, s in enumerate(inputs)]
    graph.set_outputs(graph.add(op, values, regions=regions).outputs)
    return graph


def shapes(graph: Graph) -> list[str]:
    return [",".join(map(str, v.type.shape)) for v in graph.outputs]


def test_if_runs_one_branch() -> None:
    graph = program(
        If(),
        ("bool[]", "float32[n,2]"),
        region(("float32[n,2]",), (Neg(), (0,)), outputs=(1,)),
        region(("float32[n,2]",), (Add(), (0, 0)), outputs=(1,)),
    )
    assert shapes(graph) == ["n,2"]
    x = np.array([[1, 2]], np.float32)
    for cond, want in ((True, -x), (False, 2 * x)):
        (got,) = evaluate(graph, {"x0": np.array(cond), "x1": x}).values()
        np.testing.assert_array_equal(got, want)


def test_dimensions_in_which_branches_differ_are_unknown() -> None:
    doubled = region(("float32[n,2]",), (Concat(axis=0), (0, 0)), outputs=(1,))
    graph = program(If(), ("bool[]", "float32[n,2]"), region(("float32[n,2]",), outputs=(0,)), doubled)
    (dim, two) = graph.outputs[0].type.shape
    assert str(dim).endswith("?0") and two == 2


def test_dimensions_that_only_a_branch_knows_are_unknown() -> None:
    branches = [region(("float32[n]",), (NonZero(), (0,)), outputs=(1,)) for _ in range(2)]
    graph = program(If(), ("bool[]", "float32[n]"), *branches)
    assert graph.outputs[0].type.shape[0] == 1
    assert str(graph.outputs[0].type.shape[1]).startswith("if?")


@pytest.mark.parametrize(("other", "message"), [("float32[2]", "ranks differ"), ("int32[n,2]", "element types differ")])
def test_branches_must_agree(other: str, message: str) -> None:
    inputs = ("float32[n,2]", other)
    branches = region(inputs, outputs=(0,)), region(inputs, outputs=(1,))
    with pytest.raises(InferenceError, match=message):
        program(If(), ("bool[]", *inputs), *branches)


BODY = ("int64[]", "bool[]", "float32[2]", "float32[]")


def counting_body() -> Graph:
    """Carries x, doubles it, goes on while its condition input holds; scans x + capture."""
    return region(BODY, (Add(), (2, 2)), (Add(), (2, 3)), outputs=(1, 4, 5))


def test_loop_carries_and_scans() -> None:
    graph = program(Loop(carried=1), ("int64[]", None, "float32[2]", "float32[]"), counting_body())
    assert shapes(graph)[0] == "2"
    assert str(graph.outputs[1].type.shape[0]).startswith("loop")
    x = np.array([1, 2], np.float32)
    last, rows = evaluate(graph, {"x0": np.array(3), "x2": x, "x3": np.array(10, np.float32)}).values()
    np.testing.assert_array_equal(last, 8 * x)
    np.testing.assert_array_equal(rows, [x + 10, 2 * x + 10, 4 * x + 10])


@pytest.mark.parametrize(("count", "cond"), [(0, True), (5, False), (-1, True)])
def test_a_loop_that_never_runs(count: int, cond: bool) -> None:
    graph = program(Loop(carried=1), ("int64[]", "bool[]", "float32[2]", "float32[]"), counting_body())
    x = np.array([1, 2], np.float32)
    feeds = {"x0": np.array(count), "x1": np.array(cond), "x2": x, "x3": np.array(0, np.float32)}
    last, rows = evaluate(graph, feeds).values()
    np.testing.assert_array_equal(last, x)
    assert rows.shape == (0, 2)


def test_a_loop_ends_by_its_condition() -> None:
    body = region(("int64[]", "bool[]", "float32[]", "float32[]"), (Add(), (2, 2)), (Less(), (4, 3)), outputs=(5, 4))
    graph = program(Loop(carried=1), (None, "bool[]", "float32[]", "float32[]"), body)
    feeds = {"x1": np.array(True), "x2": np.array(1, np.float32), "x3": np.array(100, np.float32)}
    (last,) = evaluate(graph, feeds).values()
    assert last == 128


def test_a_known_number_of_trips_gives_scanned_results_their_size() -> None:
    graph = program(Loop(carried=1, trips=4), ("int64[]", None, "float32[2]", "float32[]"), counting_body())
    assert shapes(graph) == ["2", "4,2"]


def test_a_carried_value_may_not_change_its_shape_unless_declared() -> None:
    def growing(size: str) -> Graph:
        return region(("int64[]", "bool[]", f"float32[{size}]", "float32[1]"), (Concat(axis=0), (2, 3)), outputs=(1, 4))

    with pytest.raises(InferenceError, match="dimension 0 of carried value 'i2' is 2 before and 3 after"):
        program(Loop(carried=1), ("int64[]", None, "float32[2]", "float32[1]"), growing("2"))
    graph = program(Loop(carried=1), ("int64[]", None, "float32[2]", "float32[1]"), growing("size"))
    assert str(graph.outputs[0].type.shape[0]).endswith("?0")
    feeds = {"x0": np.array(3), "x2": np.zeros(2, np.float32), "x3": np.ones(1, np.float32)}
    (last,) = evaluate(graph, feeds).values()
    np.testing.assert_array_equal(last, [0, 0, 1, 1, 1])


def test_scan_directions_and_axes() -> None:
    body = region(("float32[]", "float32[2]", "float32[2]"), (Mul(), (1, 2)), (Neg(), (0,)), outputs=(4, 3))
    op = Scan(num_scan_inputs=2, input_axes=(1, 0), input_directions=(0, 1), output_axes=(-1,), output_directions=(1,), carried=1)
    graph = program(op, ("float32[]", "float32[2,n]", "float32[n,2]"), body)
    assert shapes(graph) == ["", "2,n"]
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(6, 12, dtype=np.float32).reshape(3, 2)
    last, rows = evaluate(graph, {"x0": np.array(5, np.float32), "x1": a, "x2": b}).values()
    assert last == -5
    np.testing.assert_array_equal(rows, np.stack([a[:, t] * b[2 - t] for t in (2, 1, 0)], -1))
    empty = evaluate(graph, {"x0": np.array(5, np.float32), "x1": a[:, :0], "x2": b[:0]})
    assert [v.shape for v in empty.values()] == [(), (2, 0)]


def test_scan_inputs_must_have_one_length() -> None:
    body = region(("float32[2]", "float32[2]"), (Add(), (0, 1)), outputs=(2,))
    with pytest.raises(InferenceError, match="3 and 4 elements"):
        program(Scan(num_scan_inputs=2), ("float32[3,2]", "float32[4,2]"), body)


def test_fused_is_its_region() -> None:
    body = region(("float32[n,2]", "float32[2]"), (Add(), (0, 1)), (Neg(), (2,)), outputs=(3, 2))
    graph = program(Fused(label="add-neg"), ("float32[4,2]", "float32[2]"), body)
    assert shapes(graph) == ["4,2", "4,2"]
    x = np.ones((4, 2), np.float32)
    negated, total = evaluate(graph, {"x0": x, "x1": x[0]}).values()
    np.testing.assert_array_equal(negated, -total)


@pytest.mark.parametrize(
    ("op", "inputs", "message"),
    [
        (Fused(), ("float32[4,2]",), "takes 2 values, gets 1"),
        (Fused(), ("float32[4,2]", "float32[3]"), "gets float32"),
        (If(), ("bool[]", "float32[4,2]"), "needs then and else"),
        (Loop(carried=3), ("int64[]", None), "carries 3 values"),
    ],
)
def test_refusals_say_what_is_wrong(op: Op, inputs: Any, message: str) -> None:
    body = region(("float32[n,2]", "float32[2]"), (Add(), (0, 1)), outputs=(2,))
    with pytest.raises(InferenceError, match=message):
        program(op, inputs, body)
