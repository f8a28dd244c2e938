"""Applying rewrites until none applies, with a worklist: a node is looked at again only when something near it changed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from lepton_compiler.errors import InferenceError, InvalidIR
from lepton_compiler.ir.dim import Dim, symbols
from lepton_compiler.ir.graph import Graph, Loc, Node, Value
from lepton_compiler.ir.traverse import bodies
from lepton_compiler.ir.types import TensorType
from lepton_compiler.ir.verify import compatible
from lepton_compiler.ops.builder import Builder
from lepton_compiler.rewrite.rule import Replacement, Rewrite
from lepton_compiler.rewrite.trace import NearMiss, Tracer

FUEL_PER_NODE = 50
"""Rewrites per node after which a set of rules counts as going in circles."""


def rewrite(graph: Graph, rules: Sequence[Rewrite], tracer: Tracer | None = None) -> int:
    """Apply `rules` to a graph and the bodies nested in it, until none applies.

    Returns:
        The number of rewrites.

    Raises:
        InvalidIR: the rules undo each other.
    """
    return sum(_Driver(part, rules, tracer).run() for part in list(bodies(graph)))


class _Driver:
    """The worklist of one graph."""

    def __init__(self, graph: Graph, rules: Sequence[Rewrite], tracer: Tracer | None) -> None:
        self.graph, self.tracer = graph, tracer
        self.rules: dict[str, list[Rewrite]] = {}
        for rule in rules:
            for root in rule.roots:
                self.rules.setdefault(root, []).append(rule)
        self.queue: deque[Node] = deque()
        self.queued: set[Node] = set()
        self.gone: set[Node] = set()
        self.push(graph)

    def push(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            if node not in self.queued and node.op.name in self.rules:
                self.queued.add(node)
                self.queue.append(node)

    def run(self) -> int:
        count, fuel = 0, 1000 + FUEL_PER_NODE * len(self.graph)
        while self.queue:
            node = self.queue.popleft()
            self.queued.discard(node)
            if node in self.gone:
                continue
            applied = next((rule for rule in self.rules[node.op.name] if self.apply(rule, node)), None)
            count += applied is not None
            if count > fuel:
                raise InvalidIR(f"rewriting does not settle; the last rule was '{applied.name if applied else '?'}'", where=node.describe())
        return count

    def apply(self, rule: Rewrite, node: Node) -> bool:
        def miss(matched: int, reason: str | Callable[[], str]) -> None:
            if self.tracer is not None:
                text = reason if isinstance(reason, str) else reason()
                self.tracer.miss(NearMiss(rule.name, node.describe(), matched, rule.size, text))

        for matched, build in rule.attempts(node, miss):
            builder = Builder(self.graph, node, merged_loc(matched).by(rule.name))
            try:
                result = build(builder)
            except InferenceError as error:
                result = f"the replacement is not valid: {error.diagnostics[0].message}"
            result = self.accept(node, result, builder)
            if not isinstance(result, str):
                if result is None:
                    continue
                self.commit(node, result, builder)
                if self.tracer is not None:
                    self.tracer.hit(rule.name)
                return True
            miss(len(matched), result)
        return False

    def accept(self, node: Node, result: Replacement, builder: Builder) -> Sequence[Value | None] | str | None:
        """The new outputs if they fit; else nothing is left of what was built."""
        values: Sequence[Value | None] = (
            [result] if isinstance(result, Value) else [] if result is None or isinstance(result, str) else result
        )
        reason = result if isinstance(result, str) else None
        if values and not reason:
            reason = next((r for old, new in zip(node.outputs, values, strict=True) if (r := replaceable(old, new))), None)
            reason = reason or repeated(node, values)
        if values and not reason:
            return values
        for made in reversed(builder.created):
            self.graph.remove(made)
        return reason

    def commit(self, node: Node, values: Sequence[Value | None], builder: Builder) -> None:
        created = set(builder.created)
        for made in builder.created:
            self.push([made])
        names = []
        for old, new in zip(node.outputs, values, strict=True):
            if new is None:
                continue
            if new.is_constant and old.is_output:
                new = self.graph.constant(new.tensor, new.name)
            if new.producer in created:
                new.type = sharper(new.type, old.type)
            if new.producer in created or (self.graph.owner is None and old.is_output):
                names.append((old.is_output, new, old.name))
            self.push(old.users)
            self.push(user for user in new.users if user not in created)
            if new.producer is not None:
                self.push([new.producer])
            self.graph.replace_all_uses(old, new)
        self.erase(node)
        for _, new, name in sorted(names, key=lambda row: row[0]):  # where one value stands for several, the output's name wins
            self.graph.rename(new, name)

    def erase(self, node: Node) -> None:
        """Remove a node that nothing uses, and the producers that only it used."""
        stack = [node]
        while stack:
            node = stack.pop()
            if node in self.gone or any(out.uses or out.is_output for out in node.outputs):
                continue
            producers = [v.producer for v in node.present_inputs if v.producer is not None]
            self.graph.remove(node)
            self.gone.add(node)
            for producer in dict.fromkeys(producers):
                self.push([producer, *(u for out in producer.outputs for u in out.users)])
                stack.append(producer)


def replaceable(old: Value, new: Value | None) -> str:
    """Why `new` cannot stand for `old`, or an empty string."""
    if new is None:
        return f"'{old.name}' is in use" if old.uses or old.is_output else ""
    if not compatible(old.type, new.type):
        return f"the replacement is {new.type}, not {old.type}"
    if old.is_output and old.graph.owner is None and (new.is_input or new.is_output):
        return f"output '{old.name}' cannot be the same value as '{new.name}'"
    return ""


def repeated(node: Node, values: Sequence[Value | None]) -> str:
    """Why one value cannot stand for two outputs of the whole model, which have a name each, or an empty string."""
    if node.graph.owner is not None:
        return ""
    names: dict[Value, str] = {}
    for old, new in zip(node.outputs, values, strict=True):
        if new is not None and old.is_output and not new.is_constant and names.setdefault(new, old.name) != old.name:
            return f"outputs '{names[new]}' and '{old.name}' cannot be the same value"
    return ""


def sharper(new: TensorType, old: TensorType) -> TensorType:
    """The dimensions of `new`, but those of `old` where only the data decides about `new`'s."""
    return TensorType(new.dtype, tuple(o if _unknown(n) else n for n, o in zip(new.shape, old.shape, strict=True)))


def merged_loc(nodes: Iterable[Node]) -> Loc:
    """The provenance of what replaces `nodes`: in order of execution, which is the reverse of matching."""
    return Loc().merge(*(node.loc for node in reversed(list(nodes))))


def _unknown(dim: Dim) -> bool:
    return any("?" in name for name in symbols(dim))
