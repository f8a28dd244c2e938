"""Random graphs: whatever passes run, the evaluator's results stay; native code computes what the evaluator does."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from lepton_compiler import ops
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.tensor import Tensor
from lepton_compiler.ir.text import parse_graph, print_graph
from lepton_compiler.ir.verify import verify
from lepton_compiler.ops.evaluator import evaluate
from lepton_compiler.pipeline import Pass, PassContext, Pipeline
from lepton_compiler.testing import fuzz
from lepton_compiler.testing.compare import compare, random_feeds
from lepton_compiler.testing.generate import graphs, random_case
from lepton_compiler.testing.rounding import ensemble

QUICK, ALL, BLOCK = 300, 10_000, 100
FOUND = Path(__file__).with_name("random_graphs")

MADE_BY_PASSES = ("DeformPatches", "Dynamic", "Fail", "Fused", "Lookup", "RecurrentSteps", "Sized")
CLASSICAL = ("TfIdfVectorizer", "TreeEnsemble")
ROUNDS_ITS_STATE = ("DynamicQuantizeLSTM",)
"""An error of one rounding may become one of a code in every later step; `tests/ops/test_recurrent.py` compares such layers."""


def check(seeds: range) -> None:
    report = fuzz.run(seeds)
    print(report)
    assert not report.failures, "\n".join(map(str, report.failures))
    assert report.cases == len(seeds)


@pytest.mark.parametrize("first", range(0, QUICK, fuzz.BATCH))
def test_passes_and_native_code_keep_results(first: int) -> None:
    check(range(first, first + fuzz.BATCH))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(QUICK, ALL, BLOCK))
def test_ten_thousand_graphs(first: int) -> None:
    check(range(first, min(first + BLOCK, ALL)))


@pytest.mark.parametrize("name", sorted(p.stem for p in FOUND.glob("*.lir")))
def test_what_was_found_stays_mended(name: str) -> None:
    """Graphs on which random ones failed, shrunk: each shows a fault that there was."""
    assert not fuzz.replay(FOUND / f"{name}.lir")


def test_cases_reach_every_operator() -> None:
    seen = {node.op.name for seed in range(6000) for node in random_case(seed).graph.walk()}
    every = {name for names in ops.FAMILIES.values() for name in names.split()}
    assert every - seen == {*MADE_BY_PASSES, *CLASSICAL, *ROUNDS_ITS_STATE}


def test_cases_are_valid_and_reproducible() -> None:
    for seed in range(200):
        case = random_case(seed)
        verify(case.graph)
        assert print_graph(case.graph) == print_graph(random_case(seed).graph)


@settings(derandomize=True, deadline=None, max_examples=50, suppress_health_check=list(HealthCheck))
@given(graphs())
def test_text_keeps_results(graph: Graph) -> None:
    weights = dict[str, Tensor]()
    text, feeds = print_graph(graph, weights), random_feeds(graph)
    again = parse_graph(text, weights)
    assert print_graph(again) == text
    assert not compare(evaluate(graph, feeds), evaluate(again, feeds), 0, 0)


def test_a_failure_is_shrunk_and_replays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass that takes cosine for sine is found, on a graph of one node, from what it writes down as well."""
    monkeypatch.setitem(fuzz.PIPELINES, "broken", Pipeline((_Cosine(),)))
    cases = (c for c in map(random_case, range(5000)) if len(c.graph) > 5 and any(n.op.name == "Sin" for n in c.graph))
    tried = ((c, fuzz.pass_difference("broken", c.graph, c.feeds, ensemble(c.graph, c.feeds))) for c in cases)
    case, reason = next((c, r) for c, r in tried if r)
    failure = fuzz.smaller(fuzz.Failure(0, "broken", reason, case.graph, case.feeds))
    assert [n.op.name for n in failure.graph] == ["Sin"]
    assert fuzz.replay(failure.write(tmp_path)).startswith("broken: output")


class _Cosine(Pass):
    def run(self, graph: Graph, ctx: PassContext) -> None:
        for node in graph:
            if node.op.name == "Sin":
                graph.replace_all_uses(node.output, graph.add(ops.get("Cos")(), node.inputs, before=node).output)
