"""Limits that the user states, `--bound NODE=N`: checked where the size gets known at run time, and counted with everywhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lepton_compiler.errors import UnsupportedError, UsageError
from lepton_compiler.ir.dim import SymDim, symbols
from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ir.types import INT64, TensorType
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.control import Fail, If
from lepton_compiler.passes.bound_sizes.extents import Extents, number


class Limits:
    """The limits that were given, by name of a source node or of one of its results."""

    def __init__(self, given: Mapping[str, int]) -> None:
        self.given = dict(given)
        self.used: set[str] = set()

    def of(self, node: Node) -> int | None:
        """The limit for the sizes that data decides of this node's results."""
        for name in (*node.loc.sources, *(out.name for out in node.outputs)):
            if name in self.given:
                self.used.add(name)
                return self.given[name]
        return None

    def check_used(self, candidates: Sequence[str]) -> None:
        """Refuse limits of what has no such size.

        Raises:
            UsageError: one of them, with the nodes that have one.
        """
        for name in self.given:
            if name not in self.used:
                known = ", ".join(dict.fromkeys(candidates)) or "none"
                raise UsageError(f"no node '{name}' gives a size that data decides", hint=f"nodes that do: {known}")


def candidates(graph: Graph) -> list[str]:
    """Names of the nodes of a graph, and of those nested in it, whose results have sizes that no operand has."""
    found = []
    for node in graph.walk():
        known = {s for v in node.present_inputs for d in v.type.shape for s in symbols(d)}
        if any(symbols(d) - known for out in node.outputs for d in out.type.shape):
            found.append(node.loc.sources[-1] if node.loc.sources else node.outputs[0].name)
    return found


def at_most(b: Builder, size: Value, limit: int, where: str) -> Value:
    """The int64 scalar `size`; the program stops with an error where it is larger than `limit`."""
    message = f"the size of '{where}' is larger than the {limit} that it was bounded to"
    return checked(b, b.LessOrEqual(size, number(b, limit)), size, message)


def checked(b: Builder, fine: Value, size: Value, message: str) -> Value:
    """The int64 scalar `size`; the program stops with an error where `fine` does not hold."""
    good, bad = Graph("within"), Graph("beyond")
    good.set_outputs([good.add_input("size", TensorType(INT64, ()))])
    bad.add_input("size", TensorType(INT64, ()))
    bad.set_outputs([bad.add(Fail(message, INT64, (), "bound"), []).output])
    return b.node(If(), [fine, size], regions=[good, bad]).output


def tightened(extents: Extents, b: Builder, node: Node, results: Sequence[Value], limit: int) -> list[Value]:
    """The results of a node that has just defined its sizes, cut to the limit, which is checked."""
    named = [d for out in node.outputs for d in out.type.shape if isinstance(d, SymDim)]
    where = node.loc.sources[-1] if node.loc.sources else node.outputs[0].name
    for name in dict.fromkeys(s for d in named for s in symbols(d)):
        if extents.bounds.get(name, 0) > limit:
            extents.bounds[name] = limit
            extents.counts[name] = at_most(b, extents.counts[name], limit, where)
            extents.forget(name)
    return [fitted(b, new, extents.type(old.type)) for old, new in zip(node.outputs, results, strict=True)]


def fitted(b: Builder, value: Value, wanted: TensorType) -> Value:
    """A padded value in a buffer of other sizes: cut, or with zeros behind."""
    have, want = value.type.static_shape, wanted.static_shape
    if have == want:
        return value
    if value.type.rank != wanted.rank or value.type.dtype != wanted.dtype:
        raise UnsupportedError(f"it gives {value.type} where there is room for {wanted}")
    kept = tuple(map(min, have, want))
    if kept != have:
        axes = tuple(range(len(kept)))
        value = b.Slice(value, starts=(0,) * len(kept), ends=kept, axes=axes, steps=(1,) * len(kept))
    missing = [w - k for w, k in zip(want, kept, strict=True)]
    return b.Pad(value, pads=(*([0] * len(missing)), *missing)) if any(missing) else value
