"""Random graphs: whatever passes run, the evaluator's results stay; native code computes what the evaluator does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

import lepton_compiler as lc
from lepton_compiler.instruments import Verify
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.tensor import Tensor
from lepton_compiler.ir.text import parse_graph, print_graph
from lepton_compiler.ir.verify import verify
from lepton_compiler.ops.evaluator import evaluate
from lepton_compiler.passes import TABLE
from lepton_compiler.passes.levels import LEVELS, passes_for_level
from lepton_compiler.pipeline import PassContext, Pipeline, parse_pipeline
from lepton_compiler.testing.compare import compare, random_feeds
from lepton_compiler.testing.graphs import graphs

PIPELINES = {
    **{level: Pipeline(passes_for_level(level)) for level in LEVELS},
    **{name: parse_pipeline(name) for name in TABLE},
    "kernels": Pipeline((*passes_for_level("O2"), *parse_pipeline("legalize-native,layout,simplify-transposes,fuse"))),
}


def check_pipelines(graph: Graph) -> None:
    verify(graph)
    feeds = random_feeds(graph)
    expected = evaluate(graph, feeds)
    for name, pipeline in PIPELINES.items():
        result = pipeline.run(graph.copy(), PassContext(instruments=(Verify(),)))
        difference = compare(expected, evaluate(result, feeds), 1e-4, 1e-5)
        assert not difference, f"{name}: {difference}\n{print_graph(graph)}becomes\n{print_graph(result)}"


@settings(derandomize=True, deadline=None, max_examples=200, suppress_health_check=list(HealthCheck))
@given(graphs())
def test_passes_keep_results(graph: Graph) -> None:
    check_pipelines(graph)


@settings(derandomize=True, deadline=None, max_examples=50, suppress_health_check=list(HealthCheck))
@given(graphs())
def test_text_keeps_results(graph: Graph) -> None:
    weights = dict[str, Tensor]()
    text, feeds = print_graph(graph, weights), random_feeds(graph)
    again = parse_graph(text, weights)
    assert print_graph(again) == text
    assert not compare(evaluate(graph, feeds), evaluate(again, feeds), 0, 0)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One cache of kernels for all graphs: many share some."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("kernels")
        patch.setenv("LEPTON_CACHE", str(folder))
        yield folder


def check_native(graph: Graph) -> None:
    feeds = random_feeds(graph)
    expected = evaluate(graph, feeds)
    for level in (0, 3):
        difference = compare(expected, lc.compile(graph, level=level).run(feeds), 1e-4, 1e-5)
        assert not difference, f"O{level}: {difference}\n{print_graph(graph)}"


def natively(count: int, steps: int) -> Callable[[Callable[[Path, Graph], None]], Callable[[Path], None]]:
    """Graphs that each cost seconds to compile: as many as asked for and, where one fails, no shrinking."""
    options = settings(
        derandomize=True, deadline=None, max_examples=count, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    return lambda test: options(given(graph=graphs(steps))(test))


@natively(12, 5)
def test_native(cache: Path, graph: Graph) -> None:
    check_native(graph)


def test_not_of_a_comparison(cache: Path) -> None:
    check_native(
        parse_graph("""
graph @main(%x: float32[8]) {
  %half = const float32[] (0.5)
  %equal = Equal()(%x, %half)
  %y = Not()(%equal)
  return %y
}""")
    )


@pytest.mark.slow
@natively(150, 10)
def test_native_large(cache: Path, graph: Graph) -> None:
    check_native(graph)
