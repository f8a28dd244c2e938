"""Each `golden/NAME.in.lir` starts with `# PIPELINE`; what that makes of the graph is `golden/NAME.out.lir`.

`pytest tests/passes --update-golden` writes the results; read the diff before committing it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.tensor import Tensor
from lepton_compiler.ir.text import parse_graph, print_graph, read_lir
from lepton_compiler.ir.verify import verify
from lepton_compiler.ops.evaluator import evaluate
from lepton_compiler.passes import TABLE
from lepton_compiler.pipeline import PassContext, Pipeline, parse_pipeline
from lepton_compiler.target import parse_target
from lepton_compiler.testing.compare import compare, random_feeds

FOLDER = Path(__file__).parent / "golden"
CASES = sorted(path.name.removesuffix(".in.lir") for path in FOLDER.glob("*.in.lir"))


def load(case: str) -> tuple[Pipeline, Graph]:
    path = FOLDER / f"{case}.in.lir"
    first = path.read_text().splitlines()[0]
    assert first.startswith("# "), f"{path} must start with '# PIPELINE' or '# PIPELINE @TARGET'"
    return parse_pipeline(first[2:].partition(" @")[0]), read_lir(path)


def context(case: str) -> PassContext:
    """For the machine that the case names after an @, or the usual one."""
    target = (FOLDER / f"{case}.in.lir").read_text().splitlines()[0].partition(" @")[2]
    return PassContext(parse_target(target or "x86_64"))


@pytest.mark.parametrize("case", CASES)
def test_text(case: str, update_golden: bool) -> None:
    pipeline, graph = load(case)
    verify(graph)
    result = pipeline.run(graph, context(case))
    verify(result)
    weights = dict[str, Tensor]()
    text, path = print_graph(result, weights), FOLDER / f"{case}.out.lir"
    assert print_graph(parse_graph(text, weights)) == text
    if update_golden:
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("case", CASES)
def test_numbers_and_interface_stay(case: str) -> None:
    pipeline, graph = load(case)
    before = graph.copy()
    pipeline.run(graph, context(case))
    assert [repr(v) for v in graph.inputs] == [repr(v) for v in before.inputs]
    assert [v.name for v in graph.outputs] == [v.name for v in before.outputs]
    for seed in range(5):
        feeds = random_feeds(before, seed)
        with np.errstate(invalid="ignore"):  # infinities minus infinities
            assert not compare(evaluate(before, feeds), evaluate(graph, feeds))


@pytest.mark.parametrize("case", CASES)
def test_a_second_run_changes_nothing(case: str) -> None:
    pipeline, graph = load(case)
    text = print_graph(pipeline.run(graph, context(case)))
    assert print_graph(pipeline.run(graph, context(case))) == text


def test_every_pass_has_a_case() -> None:
    assert {step.name for case in CASES for step in load(case)[0]} == set(TABLE)


def test_no_result_is_left_over() -> None:
    assert sorted(path.name.removesuffix(".out.lir") for path in FOLDER.glob("*.out.lir")) == CASES
