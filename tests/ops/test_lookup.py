"""Tables of bytes."""

from __future__ import annotations

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.errors import InferenceError
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.types import DTYPES, TensorType, tensor_type
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.decompose import expand_where
from lepton_compiler.ops.lookup import Lookup


@pytest.mark.parametrize("kind", ["int8", "uint8"])
def test_every_code_reads_the_entry_of_its_bits(kind: str) -> None:
    table = np.random.default_rng(0).integers(0, 1 << 16, 256).astype(np.uint16)
    codes = np.arange(256, dtype=np.uint8)[::-1].reshape(4, 64).T.view(kind)
    graph = Graph("g")
    b = Builder(graph)
    x = graph.add_input("x", TensorType(DTYPES[kind], codes.shape))
    graph.set_outputs([b(Lookup(), x, b.constant(table))])
    (found,) = lc.evaluate(graph, {"x": codes}).values()
    np.testing.assert_array_equal(found, table[codes.astype(int) % 256])
    expand_where(graph, lambda node: node.op.name == "Lookup")
    assert [node.op.name for node in graph] == ["Cast", "Gather"]
    (gathered,) = lc.evaluate(graph, {"x": codes}).values()
    np.testing.assert_array_equal(gathered, found)


def test_refusals() -> None:
    with pytest.raises(InferenceError, match="codes of 8 bits, not int16"):
        Lookup().infer(tensor_type("int16[3]"), tensor_type("uint8[256]"))
    with pytest.raises(InferenceError, match="one of 256 entries"):
        Lookup().infer(tensor_type("int8[3]"), tensor_type("uint8[255]"))
