"""Patterns: little graphs with holes, written with the call syntax of `ops.builder.Builder`, and how they are matched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Union

import numpy as np

from lepton_compiler.ir.graph import Node, Value

COMMUTATIVE = frozenset({"Add", "Mul", "And", "Or", "Xor", "Equal", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Max", "Min"})
"""Operators whose two operands may come in either order."""

LITERAL_RTOL = 1e-4
"""How far a constant may be from a literal of a pattern: models write 0.7071 for the square root of a half. Halves must be exact."""

Predicate = Callable[[np.ndarray], bool]


class Hole:
    """Stands for any value; the same hole twice means the same value."""

    def __init__(self, name: str, predicate: Predicate | None = None) -> None:
        self.name, self.predicate = name, predicate


class Apply:
    """Stands for the output of one node: operator, attributes that must be equal, operands."""

    def __init__(self, op: str, inputs: tuple[Any, ...], attributes: dict[str, Any], name: str, index: int = 0) -> None:
        self.op, self.inputs, self.attributes, self.name, self.index = op, inputs, attributes, name, index

    @property
    def size(self) -> int:
        """Number of nodes of the pattern."""
        return 1 + sum(i.size for i in self.inputs if isinstance(i, Apply))


Pattern = Union[Hole, Apply, float, int, None]


class PatternBuilder:
    """`p.Mul(x, p.Sigmoid(x))`: as one would build it.

    Operands are holes, other patterns, numbers (a constant all of whose elements are that number), `None` (absent) or a final `...`
    (whatever operands follow). `named=` gives the node a name for `check` and `replace`.
    """

    def __getattr__(self, op: str) -> Callable[..., Apply]:
        if not op[:1].isupper():
            raise AttributeError(f"no operator '{op}'")

        def apply(*inputs: Any, named: str = "", **attributes: Any) -> Apply:
            return Apply(op, inputs, attributes, named)

        return apply

    @staticmethod
    def constant(name: str, predicate: Predicate = lambda array: True) -> Hole:
        """A constant whose values satisfy `predicate`, bound to `name`."""
        return Hole(name, predicate)


class Match:
    """A successful match.

    Attributes:
        bindings: hole name to value, node name to node.
        nodes: every matched node, the root first.
    """

    def __init__(self, bindings: dict[str, Any], nodes: tuple[Node, ...]) -> None:
        self.bindings, self.nodes = bindings, nodes


class Matcher:
    """Matches one pattern at one node, trying both orders of commutative operands.

    Attributes:
        matched: most nodes that matched at once.
        reason: what stopped the best try.
    """

    def __init__(self) -> None:
        self.matched = 0
        self._progress = (-1, -1)
        self._reason: Callable[[], str] = str

    def match(self, pattern: Apply, node: Node) -> Iterator[Match]:
        """All ways to match, lazily."""
        yield from self._node(pattern, node, Match({}, ()))

    @property
    def reason(self) -> str:
        """Written when asked for: few are read, and describing nodes takes longer than matching them."""
        return self._reason()

    def _miss(self, so_far: Match, reason: Callable[[], str]) -> None:
        progress = (len(so_far.nodes), len(so_far.bindings))
        if progress > self._progress:
            self._progress, self.matched, self._reason = progress, len(so_far.nodes), reason

    def _node(self, pattern: Apply, node: Node, so_far: Match) -> Iterator[Match]:
        if node.op.name != pattern.op:
            self._miss(so_far, lambda: f"{node.describe()} is not a {pattern.op}")
            return
        different = next((key for key, wanted in pattern.attributes.items() if getattr(node.op, key) != wanted), None)
        if different is not None:
            self._miss(
                so_far, lambda: f"{node.describe()} has {different}={getattr(node.op, different)!r}, not {pattern.attributes[different]!r}"
            )
            return
        bindings = {**so_far.bindings, pattern.name: node} if pattern.name else so_far.bindings
        found = Match(bindings, (*so_far.nodes, node))
        wanted_inputs, inputs = pattern.inputs, node.inputs
        if wanted_inputs and wanted_inputs[-1] is ...:
            wanted_inputs = wanted_inputs[:-1]
            inputs = inputs[: len(wanted_inputs)]
        while len(inputs) > len(wanted_inputs) and inputs[-1] is None:
            inputs = inputs[:-1]
        if len(inputs) > len(wanted_inputs):
            self._miss(found, lambda: f"{node.describe()} has {len(inputs)} operands, not {len(wanted_inputs)}")
            return
        inputs = inputs + (None,) * (len(wanted_inputs) - len(inputs))
        yield from self._all(tuple(zip(wanted_inputs, inputs, strict=True)), found)
        if pattern.op in COMMUTATIVE and len(inputs) == 2:
            yield from self._all(tuple(zip(wanted_inputs, inputs[::-1], strict=True)), found)

    def _all(self, pairs: tuple[tuple[Pattern, Value | None], ...], so_far: Match) -> Iterator[Match]:
        if not pairs:
            yield so_far
            return
        for found in self._value(*pairs[0], so_far):
            yield from self._all(pairs[1:], found)

    def _value(self, pattern: Pattern, value: Value | None, so_far: Match) -> Iterator[Match]:
        if value is None or pattern is None:
            if (value is None) == (pattern is None):
                yield so_far
            else:
                self._miss(so_far, lambda: "an optional operand is there" if value is not None else "an operand is absent")
        elif isinstance(pattern, Apply):
            if value.producer is None or value.producer.outputs[pattern.index] is not value:
                self._miss(so_far, lambda: f"'{value.name}' is not the output of a {pattern.op}")
            else:
                yield from self._node(pattern, value.producer, so_far)
        elif isinstance(pattern, Hole):
            yield from self._hole(pattern, value, so_far)
        elif is_constant_of(value, pattern):
            yield so_far
        else:
            self._miss(so_far, lambda: f"'{value.name}' is not the constant {pattern}")

    def _hole(self, hole: Hole, value: Value, so_far: Match) -> Iterator[Match]:
        if hole.predicate is not None and (value.tensor is None or not hole.predicate(value.numpy())):
            self._miss(so_far, lambda: f"'{value.name}' is not such a constant")
        elif so_far.bindings.get(hole.name, value) is not value and not same_constant(so_far.bindings[hole.name], value):
            self._miss(so_far, lambda: f"'{value.name}' is not '{so_far.bindings[hole.name].name}' again")
        else:
            yield Match({**so_far.bindings, hole.name: so_far.bindings.get(hole.name, value)}, so_far.nodes)


def is_constant_of(value: Value, number: float) -> bool:
    """Whether all elements of a constant are `number`; up to how models round literals, unless that is a multiple of a half."""
    if value.tensor is None or not value.type.size or value.type.dtype.kind not in ("float", "int", "uint"):
        return False
    array = value.numpy()
    first = float(array.reshape(-1)[0])
    slack = 0.0 if float(2 * number).is_integer() else LITERAL_RTOL * abs(number)
    return abs(first - number) <= slack and (array.size == 1 or bool((array == array.reshape(-1)[0]).all()))


def same_constant(a: Value, b: Value) -> bool:
    """Whether two values are constants of equal type and contents."""
    return (
        a.tensor is not None and b.tensor is not None and a.type == b.type and (a.tensor is b.tensor or a.tensor.digest == b.tensor.digest)
    )
