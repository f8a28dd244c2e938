"""Edits keep uses and definitions together, and refuse what would break them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from lepton_compiler.errors import InferenceError, InvalidIR, LeptonError
from lepton_compiler.ir.graph import Graph, Loc, Value
from lepton_compiler.ir.text import parse_graph
from lepton_compiler.ir.traverse import bodies, erase_dead
from lepton_compiler.ir.types import tensor_type
from lepton_compiler.ir.verify import verify
from lepton_compiler.ops.activation import Relu
from lepton_compiler.ops.binary import Add, Mul
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.matmul import MatMul
from lepton_compiler.ops.unary import Exp, Neg

NESTED = """
graph @main(%x: float32[n,2], %c: bool[]) {
  %a = Exp()(%x)
  %y = If()(%c, %a)
    graph @then(%v: float32[n,2]) {
      %k = const float32[2] (1.0, 2.0)
      %r = Mul()(%v, %k)
      return %r
    }
    graph @else(%v: float32[n,2]) {
      %r = Neg()(%v)
      return %r
    }
  return %y
}
"""


@pytest.fixture
def graph() -> Graph:
    """y = (x + 1) * (x + 1)"""
    graph = Graph()
    b, x = Builder(graph), graph.add_input("x", tensor_type("float32[2]"))
    total = b.Add(x, 1.0)
    graph.set_outputs([b.Mul(total, total)])
    graph.rename(graph.outputs[0], "y")
    return graph


def value(graph: Graph, name: str) -> Value:
    return next(v for v in (*graph.inputs, *graph.constants, *(o for n in graph for o in n.outputs)) if v.name == name)


def test_uses_list_every_operand(graph: Graph) -> None:
    add, mul = graph.nodes
    assert list(add.output.uses) == [(mul, 0), (mul, 1)] and add.output.users == [mul]
    assert graph.outputs[0].is_output and not graph.outputs[0].uses
    assert [v.name for v in graph.constants] == ["c"]


def test_set_inputs_moves_uses(graph: Graph) -> None:
    add, mul = graph.nodes
    x = graph.inputs[0]
    graph.set_inputs(mul, [x, add.output])
    assert (mul, 0) in x.uses and list(add.output.uses) == [(mul, 1)]
    verify(graph)


def test_replace_all_uses_reaches_outputs(graph: Graph) -> None:
    y = graph.outputs[0]
    new = graph.add(Exp(), [y]).output
    graph.set_outputs([y, new])
    graph.replace_all_uses(y, graph.inputs[0])
    assert graph.outputs == (graph.inputs[0], new) and new.producer is not None and new.producer.inputs == (graph.inputs[0],)
    assert erase_dead(graph) == 2
    verify(graph)


def test_remove_refuses_and_names_the_user(graph: Graph) -> None:
    add, mul = graph.nodes
    with pytest.raises(InvalidIR, match=r"cannot remove node 'add' \(Add.*'add' is used by node 'y' \(Mul"):
        graph.remove(add)
    with pytest.raises(InvalidIR, match="'y' is used by the graph's outputs"):
        graph.remove(mul)
    assert len(graph) == 2
    graph.set_outputs([graph.inputs[0]])
    graph.remove(mul)
    graph.remove(add)
    assert len(graph) == 0 and not graph.inputs[0].uses and graph.nodes == []


def test_inputs_in_use_stay(graph: Graph) -> None:
    with pytest.raises(InvalidIR, match="input 'x' is still in use"):
        graph.remove_input(graph.inputs[0])
    spare = graph.add_input("spare", tensor_type("float32[1]"))
    graph.remove_input(spare)
    assert [v.name for v in graph.inputs] == ["x"]


def test_names_are_unique_and_rename_takes_them_over(graph: Graph) -> None:
    again = graph.add(Exp(), [graph.inputs[0]], names=["y"]).output
    assert again.name == "y_1"
    y = graph.outputs[0]
    graph.rename(again, "y")
    assert again.name == "y" and y.name not in ("y", "x")
    assert graph.fresh_name("y") not in ("y", y.name)
    verify(graph)


def test_insertion_and_order(graph: Graph) -> None:
    add, mul = graph.nodes
    first = graph.add(Relu(), [graph.inputs[0]], before=add)
    last = graph.add(Neg(), [graph.inputs[0]])
    assert graph.nodes == [first, add, mul, last]
    graph.move_before(last, first)
    assert graph.nodes == [last, first, add, mul] and len(graph) == 4
    assert all(a.next is b and b.prev is a for a, b in pairwise(graph.nodes))


def test_iterating_while_editing(graph: Graph) -> None:
    for node in graph:
        new = graph.add(Relu(), [node.output], before=node.next)
        for user, _ in list(node.output.uses):
            if user is not new:
                graph.set_inputs(user, [new.output if v is node.output else v for v in user.inputs])
        if len(graph) > 6:
            break
    verify(graph)


def test_operands_that_do_not_fit_add_nothing(graph: Graph) -> None:
    x, before = graph.inputs[0], len(graph)
    for inputs in ([x], [x, x, x], [x, graph.constant(np.zeros(3, np.float32))]):
        with pytest.raises(InferenceError):
            graph.add(MatMul() if len(inputs) == 3 else Add(), inputs)
    assert len(graph) == before and all(node.op in (Add(), Mul()) for node in x.users)
    verify(graph)


def test_the_edit_counter_sees_every_edit_nested_ones_too() -> None:
    graph = parse_graph(NESTED)
    branch = next(graph.graphs().__iter__()).nodes[1].regions[0]
    counts = [graph.edits]
    edits = (
        lambda: graph.rename(graph.nodes[0].output, "other"),
        lambda: branch.add(Exp(), [branch.inputs[0]]),
        lambda: branch.set_outputs(branch.outputs),
        lambda: branch.remove(branch.nodes[-1]),
        lambda: graph.set_inputs(graph.nodes[0], graph.nodes[0].inputs),
    )
    for edit in edits:
        edit()
        counts.append(graph.edits)
    assert counts == sorted(set(counts))


def test_walking_visits_nested_graphs() -> None:
    graph = parse_graph(NESTED)
    assert [n.op.name for n in graph.walk()] == ["Exp", "If", "Mul", "Neg"]
    assert [g.name for g in graph.graphs()] == ["main", "then", "else"] == [g.name for g in bodies(graph)]


def test_copies_share_constants_and_nothing_else() -> None:
    graph = parse_graph(NESTED)
    copy = graph.copy()
    assert graph.nodes[1].regions[0].constants[0].tensor is copy.nodes[1].regions[0].constants[0].tensor
    assert not set(graph.walk()) & set(copy.walk())
    copy.rename(copy.outputs[0], "z")
    assert graph.outputs[0].name == "y"
    verify(graph)
    verify(copy)


def test_copy_binds_sizes_everywhere() -> None:
    copy = parse_graph(NESTED).copy({"n": 5}, name="bound")
    verify(copy, "static")
    assert copy.name == "bound" and copy.free_symbols == frozenset()
    assert all(v.type.shape == (5, 2) for n in copy.walk() for v in n.outputs)


def test_copy_with_sizes_that_do_not_fit_names_the_node() -> None:
    graph = Graph()
    x, y = (graph.add_input(name, tensor_type(f"float32[{name},2]")) for name in ("n", "m"))
    graph.add(Add(), [x, y], loc=Loc(("sum",)))
    with pytest.raises(InferenceError, match="node 'sum'"):
        graph.copy({"n": 2, "m": 3})


def test_only_constants_have_values(graph: Graph) -> None:
    assert value(graph, "c").numpy() == 1
    with pytest.raises(LeptonError, match="value 'x': not a constant"):
        graph.inputs[0].numpy()
    with pytest.raises(ValueError, match="read-only"):
        value(graph, "c").numpy()[...] = 2


def test_provenance_merges_in_order() -> None:
    merged = Loc(("a",), ("r",)).merge(Loc(("b", "a")), Loc((), ("s", "r"))).by("t").by("r")
    assert merged == Loc(("a", "b"), ("r", "s", "t"))
