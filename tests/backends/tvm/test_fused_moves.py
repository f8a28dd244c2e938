"""Kernels that move elements between element-wise stages keep nothing but registers in between."""

from __future__ import annotations

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.ir.text import parse_graph


@pytest.mark.parametrize("op", ["Exp()(%r)", "Add()(%r, %r)"])
def test_a_transpose_between_element_wise_stages(op: str) -> None:
    text = f"""graph @g(%r: float32[1,96,54,54], %x: float32[1,54,54,96]) {{
      %p = {op} : float32[1,96,54,54]
      %t = Transpose(perm=(0,2,3,1))(%p) : float32[1,54,54,96]
      %y = Div()(%x, %t) : float32[1,54,54,96]
      return %y
    }}"""
    graph = parse_graph(text)
    model = lc.compile(graph, level=0)
    assert model.manifest["kernels"] == 1 and model.manifest["arena_bytes"] == 0
    rng = np.random.default_rng(0)
    feeds = {v.name: rng.standard_normal(v.type.static_shape).astype(np.float32) for v in graph.inputs}
    np.testing.assert_allclose(model.run(feeds)["y"], lc.evaluate(graph, feeds)["y"], rtol=1e-5)
