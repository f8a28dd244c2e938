"""Rules match what they are written as, say why they do not apply, and leave their name on what they make."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lepton_compiler.errors import InvalidIR
from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ir.text import parse_graph
from lepton_compiler.ir.verify import verify
from lepton_compiler.ops.builder import Builder
from lepton_compiler.rewrite import Rewrite, Rule, Tracer, is_constant_of, rewrite, simplifies
from lepton_compiler.rewrite.rule import Replacement


class Silu(Rule):
    """x * sigmoid(x)  -->  Swish(x)"""

    def pattern(self, p: Any, x: Any) -> Any:
        return p.Mul(x, p.Sigmoid(x, named="gate"))

    def check(self, x: Value) -> str | None:
        return None if x.type.rank == 2 else f"'{x.name}' is not a matrix"

    def replace(self, b: Builder, x: Value) -> Replacement:
        return b.Swish(x)


@simplifies("Neg")
def double_negation(b: Builder, node: Node) -> Replacement:
    """-(-x)  -->  x"""
    producer = node.present_inputs[0].producer
    if producer is None:
        return f"'{node.present_inputs[0].name}' has no producer"
    return producer.inputs[0] if producer.op.name == "Neg" else None


def graph_of(lines: str, inputs: str = "%x: float32[2,3]", outputs: str = "%y") -> Graph:
    return parse_graph(f"graph @main({inputs}) {{\n{lines}\nreturn {outputs}\n}}")


def apply(graph: Graph, *rules: Rewrite) -> tuple[int, Tracer]:
    tracer = Tracer()
    count = rewrite(graph, rules, tracer)
    verify(graph)
    return count, tracer


def names(graph: Graph) -> list[str]:
    return [node.op.name for node in graph.walk()]


@pytest.mark.parametrize("order", ["%x, %s", "%s, %x"])
def test_a_match_in_either_order(order: str) -> None:
    graph = graph_of(f'%s = Sigmoid()(%x) loc("sig")\n%y = Mul()({order}) loc("mul" by "earlier")')
    count, tracer = apply(graph, Silu())
    assert count == 1 and tracer.applied == {"silu": 1} and not tracer.best
    (swish,) = graph.nodes
    assert swish.op.name == "Swish" and swish.output.name == "y"
    assert swish.loc.sources == ("sig", "mul") and swish.loc.rules == ("earlier", "silu")


def test_near_miss_says_how_close_and_why() -> None:
    graph = graph_of('%a = Tanh()(%x)\n%y = Mul()(%x, %a) loc("gate")')
    count, tracer = apply(graph, Silu())
    miss = tracer.best["silu"]
    assert count == 0 and (miss.matched, miss.total) == (1, 2)
    assert miss.where == "node 'gate' (Mul: float32[2,3], float32[2,3])"
    assert "node 'a' (Tanh: float32[2,3]) is not a Sigmoid" in miss.reason
    assert tracer.report() == f"silu: 1/2 nodes at {miss.where}: {miss.reason}"


def test_the_best_of_several_misses_is_kept() -> None:
    lines = "%a = Mul()(%x, %x)\n%s = Sigmoid()(%a)\n%b = Mul()(%x, %s)\n%y = Mul()(%b, %b)"
    _, tracer = apply(graph_of(lines), Silu())
    assert (tracer.best["silu"].matched, tracer.best["silu"].reason) == (2, "'a' is not 'x' again")


def test_a_check_refuses_with_its_reason() -> None:
    graph = graph_of("%s = Sigmoid()(%x)\n%y = Mul()(%x, %s)", "%x: float32[3]")
    count, tracer = apply(graph, Silu())
    assert count == 0 and str(tracer.best["silu"]).endswith("2/2 nodes at node 'y' (Mul: float32[3], float32[3]): 'x' is not a matrix")


@pytest.mark.parametrize("outputs", ["%y, %s", "%y, %z"])
def test_values_used_elsewhere_are_not_taken(outputs: str) -> None:
    graph = graph_of("%s = Sigmoid()(%x)\n%y = Mul()(%x, %s)\n%z = Neg()(%s)", outputs=outputs)
    count, tracer = apply(graph, Silu())
    assert count == 0 and tracer.best["silu"].reason == "'s' is used elsewhere"


def test_shared_rules_take_them_anyway() -> None:
    class Shared(Silu):
        shared = True

    graph = graph_of("%s = Sigmoid()(%x)\n%y = Mul()(%x, %s)", outputs="%y, %s")
    assert apply(graph, Shared())[0] == 1 and names(graph) == ["Sigmoid", "Swish"]


def test_attributes_numbers_and_constants() -> None:
    class Line(Rule):
        """LeakyRelu(alpha=0.5)(x * c + 2)  -->  x"""

        def pattern(self, p: Any, x: Any) -> Any:
            return p.LeakyRelu(p.Add(p.Mul(x, p.constant("c", lambda a: a.size == 1)), 2.0), alpha=0.5)

        def replace(self, b: Builder, x: Value, c: Value) -> Replacement:
            return b.Mul(x, float(c.numpy().reshape(-1)[0]) * 10)

    def lines(alpha: float = 0.5, number: float = 2.0, c: str = "float32[1] (3.0)") -> str:
        head = f"%c = const {c}\n%two = const float32[] ({number})\n%a = Mul()(%c, %x)\n%b = Add()(%two, %a)\n"
        return f"{head}%y = LeakyRelu(alpha={alpha})(%b)"

    graph = graph_of(lines())
    assert apply(graph, Line())[0] == 1 and graph.constants[0].numpy() == 30
    for changed, reason in (
        (lines(alpha=0.25), "has alpha=0.25, not 0.5"),
        (lines(number=2.00001), "'two' is not the constant 2.0"),
        (lines(c="float32[3] (3.0, 3.0, 3.0)"), "is not such a constant"),
    ):
        count, tracer = apply(graph_of(changed), Line())
        assert count == 0
        assert reason in tracer.best["line"].reason


def test_several_patterns_optional_and_further_operands() -> None:
    class Forms(Rule):
        def pattern(self, p: Any, x: Any) -> Any:
            return p.Clip(x, None, 6.0), p.Conv(p.Relu(x), ...)

        def replace(self, b: Builder, x: Value) -> Replacement:
            return b.Min(x, 6.0) if x.type.rank == 2 else "no matrix"

    rule = Forms()
    assert rule.roots == ("Clip", "Conv") and rule.size == 2
    graph = graph_of("%six = const float32[] (6.0)\n%y = Clip()(%x, none, %six)")
    assert apply(graph, rule)[0] == 1 and names(graph) == ["Min"]
    graph = graph_of("%six = const float32[] (6.0)\n%y = Clip()(%x, %six, %six)")
    assert apply(graph, rule)[1].best["forms"].reason == "an optional operand is there"
    graph = graph_of("%w = const float32[1,1,1,1] (1.0)\n%r = Relu()(%x)\n%y = Conv()(%r, %w)", "%x: float32[1,1,2,2]")
    assert apply(graph, rule)[1].best["forms"].reason == "no matrix"


def test_replacements_that_do_not_fit_leave_nothing() -> None:
    @simplifies("Exp")
    def halved(b: Builder, node: Node) -> Replacement:
        return b.ReduceSum(b.Neg(node.inputs[0]), axes=(0,))

    @simplifies("Exp")
    def invalid(b: Builder, node: Node) -> Replacement:
        return b.MatMul(b.Neg(node.inputs[0]), node.inputs[0])

    graph = graph_of("%y = Exp()(%x)")
    count, tracer = apply(graph, halved, invalid)
    assert count == 0 and names(graph) == ["Exp"]
    assert tracer.best["halved"].reason == "the replacement is float32[1,3], not float32[2,3]"
    assert tracer.best["invalid"].reason.startswith("the replacement is not valid: [2,3] and [2,3] differ")


def test_rewrites_of_one_node() -> None:
    graph = graph_of("%a = Neg()(%x)\n%b = Neg()(%a)\n%c = Neg()(%b)\n%y = Neg()(%c)")
    count, tracer = apply(graph, double_negation)
    assert count == 1 and names(graph) == ["Neg", "Neg"]  # the output cannot become the input
    assert tracer.best["double-negation"].reason in ("'x' has no producer", "output 'y' cannot be the same value as 'x'")
    assert graph.outputs[0].name == "y"


def test_two_outputs_of_the_model_are_two_values() -> None:
    @simplifies("Split")
    def same(b: Builder, node: Node) -> Replacement:
        value = b.Slice(node.inputs[0], starts=(0,), ends=(1,), axes=(0,), steps=(1,))
        return [value, value]

    graph = graph_of("%y, %z = Split(axis=0, sizes=(1, 1))(%x)", outputs="%y, %z")
    count, tracer = apply(graph, same)
    assert count == 0 and tracer.best["same"].reason == "outputs 'y' and 'z' cannot be the same value"
    graph = graph_of("%y, %z = Split(axis=0, sizes=(1, 1))(%x)\n%w = Neg()(%z)", outputs="%y, %w")
    assert apply(graph, same)[0] == 1 and [v.name for v in graph.outputs] == ["y", "w"]


def test_unused_outputs_need_no_replacement() -> None:
    @simplifies("Split")
    def first(b: Builder, node: Node) -> Replacement:
        return [b.Slice(node.inputs[0], starts=(0,), ends=(1,), axes=(0,), steps=(1,)), None]

    graph = graph_of("%y, %z = Split(axis=0, sizes=(1, 1))(%x)")
    assert apply(graph, first)[0] == 1 and names(graph) == ["Slice"]
    graph = graph_of("%y, %z = Split(axis=0, sizes=(1, 1))(%x)", outputs="%y, %z")
    assert apply(graph, first)[1].best["first"].reason == "'z' is in use"


def test_nested_graphs_are_rewritten_kernels_are_not() -> None:
    def text(op: str, extra: str) -> str:
        region = "graph @r(%v: float32[2,3]) {\n%a = Neg()(%v)\n%b = Neg()(%a)\n%r = Exp()(%b)\nreturn %r }"
        return f"%y = {op}()({extra}%x)\n{region}\n{region if op == 'If' else ''}"

    graph = graph_of(text("If", "%c, "), "%x: float32[2,3], %c: bool[]")
    assert apply(graph, double_negation)[0] == 2 and names(graph) == ["If", "Exp", "Exp"]
    graph = graph_of(text("Fused", ""))
    assert apply(graph, double_negation)[0] == 0


def test_rules_that_undo_each_other_are_stopped() -> None:
    @simplifies("Relu")
    def there(b: Builder, node: Node) -> Replacement:
        return b.Abs(node.inputs[0])

    @simplifies("Abs")
    def back(b: Builder, node: Node) -> Replacement:
        return b.Relu(node.inputs[0])

    with pytest.raises(InvalidIR, match=r"rewriting does not settle; the last rule was '(there|back)'"):
        apply(graph_of("%y = Relu()(%x)"), there, back)


@pytest.mark.parametrize(
    ("array", "number", "expected"),
    [
        (np.full((2, 3), 0.5, np.float32), 0.5, True),
        (np.array([0.5, 0.25], np.float32), 0.5, False),
        (np.float32(0.70711), np.sqrt(0.5), True),
        (np.float32(0.71), np.sqrt(0.5), False),
        (np.float32(1.00001), 1.0, False),
        (np.float32(1e-9), 0.0, False),
        (np.zeros((0,), np.float32), 0.0, False),
        (np.array([3]), 3.0, True),
        (np.array([True]), 1.0, False),
    ],
)
def test_literals(array: Any, number: float, expected: bool) -> None:
    assert is_constant_of(Graph().constant(np.asarray(array)), number) == expected


def test_an_input_is_no_literal() -> None:
    assert not is_constant_of(graph_of("%y = Exp()(%x)").inputs[0], 0.0)
