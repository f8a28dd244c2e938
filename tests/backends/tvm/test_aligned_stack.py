"""Vectors longer than the calling convention's alignment are spilled to where they are aligned."""

from __future__ import annotations

import re

import numpy as np
import pytest

from lepton_compiler.backends.tvm.spec import spec_of
from lepton_compiler.backends.tvm.worker import kernel_text
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.types import FLOAT32, TensorType
from lepton_compiler.ops.builder import Builder
from lepton_compiler.target import parse_target


@pytest.mark.parametrize(("cpu", "size"), [("x86-64-v2", None), ("x86-64-v3", 32), ("x86-64-v4", 64)])
def test_stack_is_aligned_to_vectors(cpu: str, size: int | None) -> None:
    graph = Graph("g")
    b = Builder(graph)
    x, w = graph.add_input("x", TensorType(FLOAT32, (8, 64))), b.constant(np.ones((64, 64), np.float32))
    graph.set_outputs([b.MatMul(x, w)])
    text = kernel_text("k", spec_of(graph.nodes[0]), parse_target("x86_64", cpu), "asm")
    assert re.findall(r"andq\s+\$(-\d+), %rsp", text) == ([] if size is None else [str(-size)])
    assert "lepton_aligned_stack" not in text  # inlined, and nothing of it stays
