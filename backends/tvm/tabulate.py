"""Functions of 8-bit codes as tables: what stands between codes and codes has 256 results, and the evaluator knows them all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lepton_compiler.backends.tvm.spec import is_elementwise
from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ir.traverse import bodies, erase_dead
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.evaluator import evaluate_node
from lepton_compiler.ops.lookup import ENTRIES, Lookup
from lepton_compiler.pipeline import Pass, PassContext
from lepton_compiler.target import Target

FEWEST = 64
"""Elements from which a table is worth its bytes."""
LONGEST = 32
"""Operators that are looked at: more are no activation."""
COSTLY = frozenset(
    "Acos Acosh Asin Asinh Atan Atanh Celu Cos Cosh Elu Erf Exp Gelu HardSwish Log Lookup Mish Pow Selu Sigmoid Sin Sinh Softplus Swish Tan Tanh".split()
)
"""Functions that take vector code longer than a read of each element from a table."""
CODES = frozenset({"DequantizeLinear", "QuantizeLinear"})
"""Operators between codes and numbers; each element stands for itself, since scales are single here."""
FREE = frozenset({"Cast", "DequantizeLinear"})
"""Operators that readers of codes repeat rather than share."""


@dataclass(frozen=True)
class Tabulate(Pass):
    """QuantizeLinear(Sigmoid(DequantizeLinear(x)))  -->  Lookup(x, table): any function of one element, computed here for all 256 codes

    Everywhere on cores without vectors; elsewhere where the function is costly.
    """

    def run(self, graph: Graph, ctx: PassContext) -> None:  # noqa: D102
        for part in list(bodies(graph)):
            for node in part.nodes:
                found = _function(node) if node.op.name == "QuantizeLinear" else None
                if found is not None and _pays(found, ctx.target):
                    _replace(found)
            erase_dead(part)


@dataclass(frozen=True)
class Function:
    """A function of one 8-bit code.

    Attributes:
        source: the codes that it is a function of.
        nodes: the operators that compute it, in order; the last one gives codes again.
    """

    source: Value
    nodes: tuple[Node, ...]


def _function(last: Node) -> Function | None:
    """The function that ends in a node, if all that it depends on are the codes of one value, element by element."""
    if last.output.type.dtype.bits != 8 or not last.output.type.is_static:
        return None
    found, sources = set[Node](), dict[Value, None]()
    pending = [last]
    while pending:
        node = pending.pop()
        if node in found:
            continue
        found.add(node)
        if len(found) > LONGEST or not (is_elementwise(node.op) or node.op.name in CODES):
            return None
        for value in node.present_inputs:
            if value.is_constant:
                if value.type.size != 1:
                    return None
            elif value.type.dtype.is_integer and value.type.dtype.bits == 8:
                sources[value] = None
            elif value.producer is None or value.producer.graph is not last.graph:
                return None
            else:
                pending.append(value.producer)
    roots = {_root(value) for value in sources}
    if len(roots) != 1:
        return None
    (root,) = roots
    found |= {value.producer for value in sources if value is not root and value.producer is not None}
    alike = root.type.shape == last.output.type.shape
    return Function(root, tuple(node for node in last.graph if node in found)) if alike else None


def _root(value: Value) -> Value:
    """The codes that a table was read with, if that is how these codes came to be."""
    producer = value.producer
    return producer.present_inputs[0] if producer is not None and producer.op.name == "Lookup" else value


def _pays(function: Function, target: Target) -> bool:
    """Whether reading a table takes less time than the operators that it stands for, and these go."""
    last = function.nodes[-1]
    if last.output.type.size < FEWEST:
        return False
    inside = set(function.nodes)
    going = [n for n in function.nodes if n is last or (not n.output.is_output and all(user in inside for user in n.output.users))]
    if any(n not in going and n.op.name not in FREE for n in function.nodes if n.op.name != "Lookup"):
        return False
    return target.lanes(8) == 1 or any(n.op.name in COSTLY for n in going)


def _replace(function: Function) -> None:
    last = function.nodes[-1]
    graph, name = last.graph, last.output.name
    b = Builder(graph, last, last.loc.by("tabulate"))
    for node in function.nodes:
        b.loc = b.loc.merge(node.loc)
    result = b(Lookup(), function.source, b.constant(_table(function), name="table"))
    graph.replace_all_uses(last.output, result)
    graph.remove(last)
    graph.rename(result, name)


def _table(function: Function) -> np.ndarray:
    """The results of a function by the bits of the code, as the evaluator computes them."""
    values = {function.source: np.arange(ENTRIES, dtype=np.uint8).view(function.source.type.dtype.numpy)}
    with np.errstate(all="ignore"):
        for node in function.nodes:
            inputs = [None if v is None else v.numpy() if v.is_constant else values[v] for v in node.inputs]
            (values[node.output],) = evaluate_node(node, inputs)
    return np.ascontiguousarray(values[function.nodes[-1].output].reshape(ENTRIES))
