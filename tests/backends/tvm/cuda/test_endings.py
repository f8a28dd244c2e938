"""What follows a product within its kernel: operands as large as the result are read in vectors."""

from __future__ import annotations

import re

import pytest

from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.text import parse_graph


def product(columns: int, other: str, kind: str = "float32", rows: int = 34) -> Graph:
    """A product, a bias, something of the shape `other` that is added, and a maximum with zero."""
    result = f"{kind}[2,{rows // 2},{columns}]"
    lines = [
        f"%p = MatMul()(%x,%w) : {result}",
        f"%q = Add()(%p,%b) : {result}",
        f"%r = Add()(%q,%o) : {result}",
        f"%y = Relu()(%r) : {result}",
    ]
    head = f"graph @net(%x: {kind}[2,{rows // 2},64], %w: {kind}[64,{columns}], %b: {kind}[{columns}], %o: {kind}[{other}]) {{"
    return parse_graph("\n".join([head, *(f"  {line}" for line in lines), "  return %y", "}", ""]))


def reads(model) -> list[str]:
    """What the function of several sums reads as vectors."""
    return re.findall(r"lepton::taken<COUNT>\((\w+) \+", model.artifact.files["net.cu"].decode())


@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_operands_of_the_results_shape_are_read_in_vectors(agrees, kind):
    graph = product(48, "2,17,48", kind)
    model = agrees(graph, tolerance=1e-5 if kind == "float32" else 2e-3)
    assert model.manifest["launches"] == 1
    assert len(set(reads(model))) == 2


def test_operands_that_all_columns_share_are_no_vectors(agrees):
    graph = product(36, "2,17,1")
    assert len(set(reads(agrees(graph)))) == 1


def test_rows_of_odd_length_are_no_vectors(agrees):
    graph = product(33, "2,17,33")
    assert not reads(agrees(graph))


def test_shared_sums_are_finished_in_vectors(agrees):
    graph = parse_graph(
        "graph @net(%x: float32[8,4096], %w: float32[4096,40], %o: float32[8,40]) {\n"
        "  %p = MatMul()(%x,%w) : float32[8,40]\n  %y = Add()(%p,%o) : float32[8,40]\n  return %y\n}\n"
    )
    model = agrees(graph)
    assert len(reads(model)) == 1
    assert "_finish" in model.artifact.files["net.cu"].decode()
