"""Sizes that only the data decides, for backends that need to know all sizes."""

from __future__ import annotations

from dataclasses import dataclass

from lepton_compiler import ops
from lepton_compiler.errors import Diagnostic, UnsupportedError
from lepton_compiler.ir.dim import SymDim
from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ir.traverse import erase_dead
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.decompose import decomposition_of, expand
from lepton_compiler.passes.bound_sizes import layers, sequences, suppression, windows  # noqa: F401  they register rules
from lepton_compiler.passes.bound_sizes.carriers import compacted, rule_for
from lepton_compiler.passes.bound_sizes.extents import Extents, number, reads_unbounded
from lepton_compiler.passes.bound_sizes.limits import Limits, candidates, fitted, tightened
from lepton_compiler.passes.bound_sizes.producers import PRODUCERS, template_name
from lepton_compiler.passes.bound_sizes.regions import bound_if, bound_loop
from lepton_compiler.pipeline import Pass, PassContext

__all__ = ["BoundSizes"]


@dataclass(frozen=True)
class BoundSizes(Pass):
    """NonZero(x)  -->  Sized(buffer, count): buffers of the largest possible size, and how much of them is in use

    Every value of a size that data decides becomes a buffer of static shape, its bound known at compile time, and int64 scalars for the
    actual sizes. Operators that would mix the unused part into their results get it masked. A `Sized` at each output of the model
    gives the tensor in its actual size. `PassContext.bounds` bounds sizes that nothing else does, or that may get too large.
    """

    def run(self, graph: Graph, ctx: PassContext) -> None:  # noqa: D102
        limits, names = Limits(ctx.bounds), candidates(graph) if ctx.bounds else []
        if any(not out.type.is_static for part in graph.graphs() for node in part for out in node.outputs) and not graph.free_symbols:
            walk = _Walk(limits)
            extents = walk.inside(graph)
            walk.finish(graph, extents)
        limits.check_used(names)


class _Walk:
    """One walk over a graph and what is nested in it; everything that cannot be bounded is collected."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.problems: list[Diagnostic] = []
        self.failed: set[Value] = set()

    def inside(self, graph: Graph) -> Extents:
        """Replace what has no static shape in `graph`, but for its outputs; gives what is known of them."""
        extents = Extents(graph, self.limits)
        pending = list(reversed(graph.nodes))
        while pending:
            node = pending.pop()
            loose = any(not out.type.is_static for out in node.outputs)
            if node.op.name == "Sized" or not (loose or reads_unbounded(node, extents)):
                for region in node.regions:
                    self.nested(region)
                continue
            if self.failed.isdisjoint(node.present_inputs):
                pending += reversed(self.replace(node, extents))
            else:
                self.failed.update(node.outputs)
        return extents

    def nested(self, region: Graph) -> None:
        """A nested graph whose outputs are all static."""
        erase_after = self.inside(region)
        if erase_after.padded:
            erase_dead(region)

    def replace(self, node: Node, extents: Extents) -> list[Node]:
        """Compute a node on padded operands; gives the nodes that it was decomposed into, where these are to be replaced instead."""
        b = Builder(extents.graph, before=node, loc=node.loc.by("bound-sizes"))
        defines = any(not extents.known(d) for out in node.outputs for d in out.type.shape)
        try:
            results = self.results(node, extents, b)
            limit = self.limits.of(node) if defines else None
            if limit is not None:
                results = tightened(extents, b, node, results, limit)
            results = [self.checked(old, new, extents, b) for old, new in zip(node.outputs, results, strict=True)]
        except UnsupportedError as error:
            if decomposition_of(node.op) is not None and (parts := self.decomposed(node)):
                return parts
            problem = error.diagnostics[0]
            hint = problem.hint or "native code needs a bound of every size that is known at compile time"
            self.problems.append(Diagnostic(problem.message, problem.where or node.describe(), hint))
            self.failed.update(node.outputs)
            return []
        for old, new in zip(node.outputs, results, strict=True):
            if old.type.is_static:
                extents.graph.replace_all_uses(old, new)
                if new.producer in b.created:
                    extents.graph.rename(new, old.name)
            else:
                extents.padded[old] = new
        return []

    def decomposed(self, node: Node) -> list[Node]:
        """The parts of a composite operator, in its place; none where its decomposition refuses it."""
        try:
            return expand(node) or []
        except UnsupportedError:
            return []

    def results(self, node: Node, extents: Extents, b: Builder) -> list[Value]:
        if all(out.type.is_static and out.content is not None for out in node.outputs):
            return [_from_content(out, extents, b) for out in node.outputs]
        if node.op.name in ("If", "Loop"):
            captured = [v for v in node.present_inputs if not v.type.is_static]
            if captured:
                raise UnsupportedError(f"its regions read '{captured[0].name}', whose size data decides: {captured[0].type}")
            rule = bound_if if node.op.name == "If" else bound_loop
            return list(rule(extents, self.inside, b, node))
        simple = PRODUCERS.get(template_name(node)) or rule_for(node)
        if simple is None:
            loose = next((v for v in (*node.present_inputs, *node.outputs) if not v.type.is_static), node.output)
            raise UnsupportedError(f"the size of '{loose.name}' depends on the data: {loose.type}")
        return list(simple(extents, b, node))

    def checked(self, old: Value, new: Value, extents: Extents, b: Builder) -> Value:
        """The result `new`, in a buffer of the size that `old` can have."""
        unknown = [d for d in old.type.shape if not extents.known(d)]
        if unknown:
            raise UnsupportedError(f"nothing says how large {unknown[0]!r} can get")
        return fitted(b, new, extents.type(old.type))

    def finish(self, graph: Graph, extents: Extents) -> None:
        """Give the outputs of the model their actual sizes.

        Raises:
            UnsupportedError: all the nodes that could not be bounded.
        """
        if self.problems:
            raise UnsupportedError(list(dict.fromkeys(self.problems)))
        outputs = []
        for out in graph.outputs:
            if out not in extents.padded:
                outputs.append(out)
                continue
            b = Builder(graph, loc=out.producer.loc.by("bound-sizes") if out.producer else None)
            buffer = b.Reshape(compacted(extents, b, out), shape=extents.padded[out].type.static_shape)
            axes = extents.dynamic_axes(out.type)
            sized = b(ops.get("Sized")(axes=axes), buffer, *(extents.count(b, out.type.shape[a]) for a in axes))  # type: ignore[call-arg]
            outputs.append(sized)
        names = [out.name for out in graph.outputs]
        graph.set_outputs(outputs)
        erase_dead(graph)
        for value, name in zip(outputs, names, strict=True):
            graph.rename(value, name)


def _from_content(value: Value, extents: Extents, b: Builder) -> Value:
    """Shape arithmetic: the elements are computed from the actual sizes."""
    content = value.content
    assert content is not None
    elements = [d if isinstance(d, SymDim) else int(d) for d in content.flat]
    scalars = [b.Unsqueeze(number(b, d) if isinstance(d, int) else extents.count(b, d), axes=(0,)) for d in elements]
    joined = b.Reshape(b.Concat(*scalars, axis=0), shape=value.type.static_shape)
    return joined if value.type.dtype == joined.type.dtype else b.Cast(joined, to=value.type.dtype)
