"""Kernels that move elements between element-wise stages keep nothing but registers in between."""

from __future__ import annotations

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.ir.graph import Graph, Value
from lepton_compiler.ir.text import parse_graph
from lepton_compiler.ir.types import DTYPES, FLOAT32, TensorType
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.quantize import QuantizeLinear
from lepton_compiler.target import _host_flags

CPUS = [None, *(["x86-64-v3"] if {"avx2", "fma", "f16c"} <= _host_flags() else []), *(["x86-64-v2"] if "sse4_2" in _host_flags() else [])]


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


@pytest.mark.parametrize("cpu", CPUS)
def test_planes_are_put_side_by_side_while_they_are_quantized(cpu: str | None) -> None:
    """One kernel each, but where the planes have different means, which the kernel does not read."""
    rng, graph, feeds = np.random.default_rng(1), Graph("g"), dict[str, np.ndarray]()
    b, outputs = Builder(graph), list[Value]()
    for shape, kind, mean in [
        ((1, 3, 19, 37), "uint8", (0.1,)),
        ((2, 2, 64, 130), "int8", (0.0,)),
        ((1, 4, 128), "uint8", ()),
        ((1, 3, 40, 40), "uint8", (0.1, -0.1, 0.0)),
    ]:
        x = graph.add_input(f"x{len(outputs)}", TensorType(FLOAT32, shape))
        feeds[x.name] = rng.normal(0, 3, shape).astype(np.float32)
        moved = b.Sub(x, b.constant(np.array(mean, np.float32).reshape(-1, 1, 1))) if mean else x
        codes = b(QuantizeLinear(dtype=DTYPES[kind]), moved, b.constant(np.float32(0.03)), b.constant(np.array(3, kind)))
        outputs.append(b.Transpose(codes, perm=(0, *range(2, len(shape)), 1)))
    graph.set_outputs(outputs)
    model = lc.compile(graph, level=0, cpu=cpu)
    assert model.manifest["kernels"] <= len(outputs) + 1
    found = model.run(feeds)
    for name, wanted in lc.evaluate(graph, feeds).items():
        assert len(np.unique(wanted)) > 20
        np.testing.assert_array_equal(found[name], wanted)
