"""What the manifest tells of recurrent layers: which run in one kernel, and why others do not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from lepton_compiler.backends.tvm.cuda.recurrent.problem import problem_of
from lepton_compiler.backends.tvm.cuda.recurrent.rewrite import APART
from lepton_compiler.backends.tvm.package.source import calls
from lepton_compiler.backends.tvm.program import Branch, Call, Repeat, Statement
from lepton_compiler.ops.steps import RecurrentSteps


def layer_rows(statements: Sequence[Statement]) -> Iterator[dict[str, Any]]:
    """A row for each recurrent layer of a program, in order; a bidirectional one that was taken apart has two."""
    for s in statements:
        match s:
            case Call():
                yield from _one_kernel(s)
            case Branch():
                yield from layer_rows([*s.then, *s.other])
            case Repeat():
                yield from _apart(s)
                yield from layer_rows(s.body)


def _one_kernel(call: Call) -> Iterator[dict[str, Any]]:
    nodes = call.node.regions[0].nodes if call.node.op.name == "Fused" else [call.node]
    for node in nodes:
        if isinstance(node.op, RecurrentSteps):
            (launch,), problem = call.kernel.launches, problem_of(node.op.recurrent, node.present_inputs[0].type)
            facts = {"how": "one kernel", "steps": problem.time, "blocks": launch.grid[0], "together": launch.together}
            yield {"nodes": list(call.node.loc.sources), **facts}


def _apart(loop: Repeat) -> Iterator[dict[str, Any]]:
    reasons = [text for rule, text in APART.items() if rule in loop.node.loc.rules]
    if reasons and isinstance(loop.count, int):
        launches = sum(len(c.kernel.launches) for c in calls(loop.body))
        facts = {"how": "launches for each step", "steps": loop.count, "launches": launches, "reason": reasons[0]}
        yield {"nodes": list(loop.node.loc.sources), **facts}
