"""Removing what nobody reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lepton_compiler.ir.graph import Graph, Node
from lepton_compiler.ir.op import Op
from lepton_compiler.ir.traverse import bodies, erase_dead
from lepton_compiler.pipeline import Pass, PassContext


@dataclass(frozen=True)
class DCE(Pass):
    """Remove nodes without readers; captures, branch results, loop results and carried values that nothing reads as well."""

    def run(self, graph: Graph, ctx: PassContext) -> None:  # noqa: D102
        changed = True
        while changed:
            erase_dead(graph)
            changed = False
            for part in reversed(list(bodies(graph))):
                for node in [n for n in part if n.op.name in ("If", "Loop")]:
                    changed |= (_trim_if if node.op.name == "If" else _trim_loop)(node)
                erase_dead(part)


def _trim_if(node: Node) -> bool:
    dead_results = [i for i, out in enumerate(node.outputs) if not out.uses and not out.is_output]
    dead_captures = [i for i in range(len(node.inputs) - 1) if not any(_used(r, i) for r in node.regions)]
    if not dead_captures and (not dead_results or len(dead_results) == len(node.outputs)):
        return False
    for region in node.regions:
        _drop(region, dead_captures, dead_results)
    _rebuild(node, node.op, [0, *(i + 1 for i in range(len(node.inputs) - 1) if i not in dead_captures)], dead_results)
    return True


def _trim_loop(node: Node) -> bool:
    carried = getattr(node.op, "carried")  # noqa: B009
    region = node.regions[0]
    dead_outputs = [i for i, out in enumerate(node.outputs) if not out.uses and not out.is_output]
    dead_carried = [i for i in dead_outputs if i < carried and _self_contained(region, i)]
    dead_results = dead_carried + [i for i in dead_outputs if i >= carried]
    dead_captures = [i for i in range(2 + carried, len(node.inputs)) if not _used(region, i)]
    if (not dead_results and not dead_captures) or len(dead_results) == len(node.outputs):
        return False
    dead_inputs = [2 + i for i in dead_carried] + dead_captures
    _drop(region, dead_inputs, [1 + i for i in dead_results])
    kept = [i for i in range(len(node.inputs)) if i not in dead_inputs]
    _rebuild(node, replace(node.op, carried=carried - len(dead_carried)), kept, dead_results)  # type: ignore[call-arg]
    return True


def _used(region: Graph, index: int) -> bool:
    value = region.inputs[index]
    return bool(value.uses) or value.is_output


def _self_contained(region: Graph, index: int) -> bool:
    """Whether nothing in a loop body but its own next value reads a carried value; here: nothing at all, or it is passed through."""
    value = region.inputs[2 + index]
    return not value.uses and all(out is not value or i == 1 + index for i, out in enumerate(region.outputs))


def _drop(region: Graph, inputs: Sequence[int], outputs: Sequence[int]) -> None:
    region.set_outputs(v for i, v in enumerate(region.outputs) if i not in outputs)
    for value in [region.inputs[i] for i in inputs]:
        region.remove_input(value)


def _rebuild(node: Node, op: Op, kept_inputs: Sequence[int], dead_results: Sequence[int]) -> None:
    graph = node.graph
    new = graph.add(op, [node.inputs[i] for i in kept_inputs], before=node, regions=node.regions, loc=node.loc.by(DCE.name))
    kept = [out for i, out in enumerate(node.outputs) if i not in dead_results]
    names = [out.name for out in kept]
    for old, value in zip(kept, new.outputs, strict=True):
        value.type = old.type
        graph.replace_all_uses(old, value)
    node.regions = ()
    graph.remove(node)
    for value, name in zip(new.outputs, names, strict=True):
        graph.rename(value, name)
