"""Each broken invariant is found, and the diagnostic shows what is wrong and where."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from lepton_compiler.errors import InvalidIR, UsageError
from lepton_compiler.ir.graph import Graph, Node
from lepton_compiler.ir.text import parse_graph
from lepton_compiler.ir.types import tensor_type
from lepton_compiler.ir.verify import compatible, verify
from lepton_compiler.ops.binary import Add
from lepton_compiler.ops.unary import Exp

TEXT = """
graph @main(%x: float32[2,3], %c: bool[]) {
  %k = const float32[3] (1.0, 2.0, 3.0)
  %a = Exp()(%x) loc("first")
  %b = Add()(%a, %k)
  %d = If()(%c, %b)
    graph @then(%v: float32[2,3]) {
      %r = Neg()(%v)
      return %r
    }
    graph @else(%v: float32[2,3]) {
      return %v
    }
  return %d
}
"""


def swap(graph: Graph, a: Node, b: Node) -> None:
    graph.move_before(b, a)


def retype(graph: Graph, spec: str) -> None:
    graph.nodes[0].output.type = tensor_type(spec)


def misname(graph: Graph) -> None:
    graph.nodes[1].output.name = "a"


def forget_use(graph: Graph) -> None:
    graph.nodes[0].output.uses.clear()


def invent_use(graph: Graph) -> None:
    graph.inputs[0].uses[graph.nodes[1], 1] = None


def read_foreign(graph: Graph) -> None:
    reader = graph.nodes[2].regions[0].nodes[0]
    graph.set_inputs(reader, [graph.nodes[0].output])
    graph.nodes[0].output.uses.pop((reader, 0))


def foreign_constant(graph: Graph) -> None:
    graph.set_inputs(graph.nodes[1], [graph.nodes[0].output, Graph().constant(np.ones(3, np.float32))])


def mistyped_constant(graph: Graph) -> None:
    graph.constants[0].type = tensor_type("float32[1]")


def return_foreign(graph: Graph) -> None:
    graph.set_outputs([graph.nodes[2].regions[0].outputs[0]])


def input_of_other_graph(graph: Graph) -> None:
    graph.inputs.append(Graph().add_input("z", tensor_type("float32[1]")))


def drop_region(graph: Graph) -> None:
    graph.nodes[2].regions = ()


def add_region(graph: Graph) -> None:
    graph.nodes[0].regions = (Graph("extra"),)


def disown_region(graph: Graph) -> None:
    graph.nodes[2].regions[0].owner = graph.nodes[0]


def branches_differ(graph: Graph) -> None:
    graph.nodes[2].regions[1].set_outputs([])


def swap_op(graph: Graph) -> None:
    graph.nodes[0].op = Add()


def drop_output(graph: Graph) -> None:
    graph.nodes[2].outputs = ()
    graph.set_outputs([graph.inputs[0]])


def disown_output(graph: Graph) -> None:
    graph.nodes[0].output.producer = graph.nodes[1]


def break_list(graph: Graph) -> None:
    graph.nodes[1].prev = None


def miscount(graph: Graph) -> None:
    graph._count += 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda g: swap(g, g.nodes[0], g.nodes[1]), "'b' .*operand 'a' is used before it is defined"),
        (lambda g: retype(g, "float32[2,4]"), r"output 'a' is declared float32\[2,4\] and inferred float32\[2,3\]"),
        (lambda g: retype(g, "float16[2,3]"), "node 'first' .*declared float16"),
        (misname, "two values are called 'a'"),
        (forget_use, r"operand 0 \('a'\) does not list this use"),
        (invent_use, "'x' lists a use that does not exist"),
        (read_foreign, "operand 'a' belongs to another graph"),
        (foreign_constant, "constant 'c' belongs to another graph"),
        (mistyped_constant, r"constant 'k' is not a float32\[1\]"),
        (return_foreign, "output 'r' is not defined in this graph"),
        (input_of_other_graph, "input 'z' is not an input value of this graph"),
        (drop_region, "If needs regions"),
        (add_region, "Exp takes no regions"),
        (disown_region, "region 'then' belongs to another node"),
        (branches_differ, "the operands do not fit: If: the branches return 1 and 0 values"),
        (swap_op, "the operands do not fit: Add needs operand 'b'"),
        (drop_output, "0 outputs instead of 1"),
        (disown_output, "output 'a' does not know its producer"),
        (break_list, "the node list is broken"),
        (miscount, "the graph counts 4 nodes and has 3"),
    ],
)
def test_violations(damage: Callable[[Graph], None], message: str) -> None:
    graph = parse_graph(TEXT)
    verify(graph)
    damage(graph)
    with pytest.raises(InvalidIR, match=message):
        verify(graph)


def test_the_message_shows_the_neighbourhood() -> None:
    graph = parse_graph(TEXT)
    swap(graph, graph.nodes[0], graph.nodes[1])
    with pytest.raises(InvalidIR) as caught:
        verify(graph)
    (found,) = caught.value.diagnostics
    assert found.where.startswith("node 'b' (Add: float32[2,3], float32[3])")
    assert "graph 'main' (3 nodes)" in found.message
    assert ">>> %b = Add()(%a, %k)\n    %a = Exp()(%x)" in found.message


@pytest.mark.parametrize(
    ("level", "line", "message"),
    [
        ("canonical", "%y = Softmax(axis=-1)(%x)", "axis=-1 is negative in canonical IR"),
        ("canonical", "%y = ReduceSum(axes=(0, -1))(%x)", r"axes=\(0, -1\) is negative"),
        ("static", "%y = Exp()(%s)", r"'s' is float32\[n\]: its dimensions must be bound"),
        ("canonical", '%k = const int64[1] (-1) %y = Dynamic(template=Reshape(), params=("shape",))(%x, %k)', "it should be static"),
    ],
)
def test_levels(level: str, line: str, message: str) -> None:
    graph = parse_graph(f"graph @main(%x: float32[2,3], %s: float32[n]) {{ {line} return %y }}")
    verify(graph)
    with pytest.raises(InvalidIR, match=message):
        verify(graph, level)


def test_kernels_are_flat() -> None:
    graph = parse_graph("""
graph @main(%x: float32[2]) {
  %y = Fused()(%x)
    graph @kernel(%v: float32[2]) {
      %r = Fused()(%v)
        graph @inner(%w: float32[2]) {
          %s = Exp()(%w)
          return %s
        }
      return %r
    }
  return %y
}""")
    verify(graph)
    with pytest.raises(InvalidIR, match="a kernel contains a node with regions"):
        verify(graph, "fused")


def test_unknown_level() -> None:
    with pytest.raises(UsageError, match="no IR level called 'perfect'"):
        verify(Graph(), "perfect")


def test_dimensions_that_data_decides_match_anything() -> None:
    assert compatible(tensor_type("float32[y?0,3]"), tensor_type("float32[7,3]"))
    assert not compatible(tensor_type("float32[n,3]"), tensor_type("float32[7,3]"))
    assert not compatible(tensor_type("float32[y?0]"), tensor_type("float32[y?0,1]"))


def test_nested_graphs_are_checked() -> None:
    graph = parse_graph(TEXT)
    region = graph.nodes[2].regions[0]
    region.add(Exp(), [region.inputs[0]], names=["e"]).output.type = tensor_type("int8[2,3]")
    with pytest.raises(InvalidIR, match=r"(?s)'e' is declared int8.*graph 'then'"):
        verify(graph)
