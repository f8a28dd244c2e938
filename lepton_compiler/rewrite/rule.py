"""Rewrite rules.

A `Rule` is a class whose `pattern` and `replace` are both written as one builds graphs; the parameters of `pattern` are its holes:

    class Silu(Rule):
        \"\"\"x * sigmoid(x)  -->  Swish(x)\"\"\"

        def pattern(self, p, x):
            return p.Mul(x, p.Sigmoid(x))

        def replace(self, b, x):
            return b.Swish(x)

`check`, with any of the same parameters, may return a reason to refuse. What concerns a single node is shorter as a function:

    @simplifies("Neg")
    def double_negation(b, node):
        \"\"\"-(-x)  -->  x\"\"\"
        return node.inputs[0].producer.inputs[0] if ... else None
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Union

from lepton_compiler.ir.graph import Node, Value
from lepton_compiler.ops.builder import Builder
from lepton_compiler.registry import kebab
from lepton_compiler.rewrite.pattern import Apply, Hole, Match, Matcher, PatternBuilder

Replacement = Union[Value, Sequence[Union[Value, None]], str, None]
"""New values for the outputs of the root (None for an unused one), a reason for refusing, or None: not applicable."""
Miss = Callable[[int, Union[str, Callable[[], str]]], None]
"""Told how many nodes matched, and why not all did."""


class Rewrite:
    """What the driver applies.

    Attributes:
        name: goes into the provenance of new nodes.
        roots: names of the operators that `attempts` is asked about.
        size: number of nodes that a full match covers.
    """

    name: str
    roots: tuple[str, ...]
    size: int = 1

    def attempts(self, node: Node, miss: Miss) -> Iterator[tuple[Sequence[Node], Callable[[Builder], Replacement]]]:
        """The ways to rewrite at `node`: matched nodes and the builder of the replacement; says through `miss` why not, as text or as what writes it."""
        raise NotImplementedError


class Rule(Rewrite):
    """Base of rules with a pattern.

    Attributes:
        shared: whether intermediate values may have users outside the match (they are then computed twice).
    """

    shared: ClassVar[bool] = False
    pattern: ClassVar[Callable[..., Any]]
    replace: ClassVar[Callable[..., Replacement]]
    check: ClassVar[Callable[..., str | None]]

    def __init__(self) -> None:
        self.name = kebab(type(self).__name__)
        holes = list(inspect.signature(self.pattern).parameters)[1:]
        built = self.pattern(PatternBuilder(), *map(Hole, holes))
        self.patterns: tuple[Apply, ...] = built if isinstance(built, tuple) else (built,)
        self.roots = tuple(dict.fromkeys(p.op for p in self.patterns))
        self.size = max(p.size for p in self.patterns)

    def attempts(self, node: Node, miss: Miss) -> Iterator[tuple[Sequence[Node], Callable[[Builder], Replacement]]]:  # noqa: D102
        for pattern in self.patterns:
            if node.op.name != pattern.op:
                continue
            matcher, complete = Matcher(), False
            for match in matcher.match(pattern, node):
                complete = True
                reason = self._refusal(match)
                if reason:
                    miss(len(match.nodes), reason)
                else:
                    yield match.nodes, lambda b, found=match: self.replace(b, **_arguments(self.replace, found, 1))  # type: ignore[misc]
            if not complete:
                miss(matcher.matched, lambda found=matcher: found.reason)  # type: ignore[misc]

    def _refusal(self, match: Match) -> str | None:
        if not self.shared:
            inside = set(match.nodes)
            for node in match.nodes[1:]:
                for value in node.outputs:
                    if value.is_output or any(user not in inside for user, _ in value.uses):
                        return f"'{value.name}' is used elsewhere"
        check = getattr(self, "check", None)
        return check(**_arguments(check, match, 0)) if check is not None else None


class Simplification(Rewrite):
    """A rewrite of one node by a function; made by `simplifies`."""

    def __init__(self, roots: tuple[str, ...], function: Callable[[Builder, Node], Replacement]) -> None:
        self.name, self.roots, self.function = function.__name__.replace("_", "-"), roots, function
        self.__doc__ = function.__doc__

    def attempts(self, node: Node, miss: Miss) -> Iterator[tuple[Sequence[Node], Callable[[Builder], Replacement]]]:  # noqa: D102
        yield (node,), lambda b: self.function(b, node)


def simplifies(*roots: str) -> Callable[[Callable[[Builder, Node], Replacement]], Simplification]:
    """Make a rewrite of a function `(builder, node) -> new value(s) | reason | None` for nodes of these operators."""
    return lambda function: Simplification(roots, function)


def _arguments(function: Callable[..., Any], match: Match, skip: int) -> dict[str, Any]:
    wanted = list(inspect.signature(function).parameters)[skip:]
    return {name: match.bindings.get(name) for name in wanted}
