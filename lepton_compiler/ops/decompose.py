"""Decompositions: how a composite operator is written with simpler ones, for a backend that does not take it whole.

    @decomposition(HardSwish)
    def _(build: Builder, node: Node) -> Sequence[Value]:
        ...

A decomposition computes what `evaluate` does, up to rounding. Those of the built-in operators lie in
`lepton_compiler.ops.decompositions`, one module per family, and are loaded when first asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec

from lepton_compiler.errors import InvalidIR, UnsupportedError
from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ir.op import Op
from lepton_compiler.ir.traverse import bodies
from lepton_compiler.ir.types import DType
from lepton_compiler.ops.broadcasting import may_equal
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.cast import Cast
from lepton_compiler.ops.precision import wide_dtype
from lepton_compiler.ops.shape import Reshape

Decomposition = Callable[[Builder, Node], Sequence[Value]]
ElementWise = Callable[..., Value]

_PACKAGE = "lepton_compiler.ops"
_registered: dict[type[Op], Decomposition] = {}


def decomposition(cls: type[Op]) -> Callable[[Decomposition], Decomposition]:
    """Register the decorated function as the decomposition of `cls`.

    The function adds nodes through the builder and returns one value per output of the node, of the types of those outputs. It checks
    what it cannot do, and raises UnsupportedError, before it adds anything.
    """

    def register(function: Decomposition) -> Decomposition:
        _registered[cls] = function
        return function

    return register


def decomposition_in_float32(cls: type[Op]) -> Callable[[ElementWise], ElementWise]:
    """Register `function(build, op, *operands) -> Value`; operands that are narrow floats arrive as float32, and the result is cast back."""

    def register(function: ElementWise) -> ElementWise:
        def expansion(build: Builder, node: Node) -> Sequence[Value]:
            result = function(build, node.op, *(None if v is None else wide(build, v) for v in node.inputs))
            return [as_type(build, result, node.output.type.dtype)]

        _registered[cls] = expansion
        return function

    return register


def decomposition_of(op: Op) -> Decomposition | None:
    """The decomposition of an operator, or None if it has none."""
    package, _, family = type(op).__module__.rpartition(".")
    if type(op) not in _registered and package == _PACKAGE:
        _load(family)
    return _registered.get(type(op))


@cache
def _load(family: str) -> None:
    """Import the decompositions of a family of built-in operators, if it has any."""
    module = f"{_PACKAGE}.decompositions.{family}"
    if find_spec(module) is not None:
        importlib.import_module(module)


def expand(node: Node, function: Decomposition | None = None) -> list[Node] | None:
    """Replace a node by its decomposition, or by what `function` makes of it; the new values take over the names of its outputs.

    Returns:
        The nodes that were added, or None if the operator has no decomposition and nothing was done.

    Raises:
        UnsupportedError: the decomposition needs something known that is not, such as a size.
        InvalidIR: the decomposition gave values of the wrong types.
    """
    function = function or decomposition_of(node.op)
    if function is None:
        return None
    graph = node.graph
    build = Builder(graph, before=node, loc=node.loc.by(f"decompose-{node.op.name.lower()}"))
    results = [_own(build, old, new) for old, new in zip(node.outputs, function(build, node), strict=True)]
    for old, new in zip(node.outputs, results, strict=True):
        same = old.type.dtype == new.type.dtype and old.type.rank == new.type.rank and all(map(may_equal, old.type.shape, new.type.shape))
        if not same:
            raise InvalidIR(f"the decomposition of {node.op.name} gives {new.type}, not {old.type}", where=node.describe())
        graph.replace_all_uses(old, new)
    names = [old.name for old in node.outputs]
    graph.remove(node)
    for name, new in zip(names, results, strict=True):
        if new.producer in build.created:
            graph.rename(new, name)
    return build.created


DEPTH = 8
"""Decompositions of decompositions that are followed; more than this is a circle."""


def expand_where(graph: Graph, unsupported: Callable[[Node], bool], leave: bool = False) -> None:
    """Replace the `unsupported` nodes of a graph and of those nested in it by their decompositions, until none is left that has one.

    Raises:
        UnsupportedError: a decomposition refuses a node; with `leave`, the node stays instead.
    """
    pending = [(node, 0) for part in reversed(list(bodies(graph))) for node in reversed(part.nodes)]
    while pending:
        node, depth = pending.pop()
        if depth < DEPTH and unsupported(node) and decomposition_of(node.op) is not None:
            for new in reversed(_expanded(node, leave)):
                pending.append((new, depth + 1))
                nested = [part for region in new.regions for part in bodies(region)]
                pending.extend((inner, depth + 1) for part in nested for inner in part)


def _expanded(node: Node, leave: bool) -> list[Node]:
    try:
        return expand(node) or []
    except UnsupportedError:
        if not leave:
            raise
        return []


def _own(build: Builder, old: Value, new: Value) -> Value:
    """`new`, copied where it is an operand passed through that is to become an output of the model, which has its own name."""
    passed_through = new.producer not in build.created and old.is_output and build.graph.owner is None
    return build(Reshape(shape=new.type.shape), new) if passed_through else new


def wide(build: Builder, value: Value) -> Value:
    """`value` as float32 if it is a narrower float, else itself."""
    return as_type(build, value, wide_dtype(value.type.dtype))


def as_type(build: Builder, value: Value, element: DType) -> Value:
    """`value` cast to `element`, or itself if it has that type."""
    return value if value.type.dtype == element else build(Cast(to=element), value)
