"""Bounds of numbers inside kernels, and the rounding of those that need none of its own."""

from __future__ import annotations

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.backends.tvm.spec import spec_of
from lepton_compiler.backends.tvm.value_ranges import ROUNDS, bounded_operands
from lepton_compiler.ir.graph import Graph, Value
from lepton_compiler.ir.text import parse_graph
from lepton_compiler.ir.types import DTYPES, FLOAT32, TensorType
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.matmul import MatMulInteger
from lepton_compiler.ops.quantize import QuantizeLinear
from lepton_compiler.target import _host_flags

CPUS = [None, *(["x86-64-v3"] if {"avx2", "fma", "f16c"} <= _host_flags() else []), *(["x86-64-v2"] if "sse4_2" in _host_flags() else [])]


def quantized(lines: str, scale: str = "1.0", kind: str = "float32") -> list[str]:
    """The names of the bounded values of a kernel that quantizes %r."""
    graph = parse_graph(
        f"""
graph @main(%u: uint8[4], %h: float32[4], %i: int32[4], %x: uint8[4,9], %w: int8[9,4]) {{
  %s = const float32[] ({scale})
  %z = const uint8[] (7)
  %two = const float32[] (2.0)
  %half = const float32[] (0.5)
  %big = const float32[] (1e30)
  %endless = const float32[] (inf)
  {lines}
  %q = QuantizeLinear(dtype=uint8)(%r, %s, %z) : uint8[4]
  return %q
}}
"""
    )
    return [v.name for v in bounded_operands(graph.nodes, {})]


@pytest.mark.parametrize(
    ("lines", "scale", "bounded"),
    [
        ("%r = Cast(to=float32)(%i) : float32[4]", "1.0", False),
        ("%r = Cast(to=float32)(%i) : float32[4]", "2.0", True),
        ("%r = Cast(to=float32)(%u) : float32[4]", "1e-6", True),
        ("%r = Cast(to=float32)(%u) : float32[4]", "1e-9", False),
        ("%r = DequantizeLinear()(%u, %two, %z) : float32[4]", "1.0", True),
        ("%r = DequantizeLinear()(%u, %endless, %z) : float32[4]", "1.0", False),
        ("%r = Mul()(%h, %two) : float32[4]", "1.0", False),
        ("%r = Clip()(%h, %half, %two) : float32[4]", "1.0", False),
        ("%r = Sigmoid()(%h) : float32[4]", "1.0", False),
        ("%a = Cast(to=float32)(%i) : float32[4]\n  %r = Mul()(%a, %half) : float32[4]", "1.0", True),
        ("%a = Cast(to=float32)(%i) : float32[4]\n  %r = Clip()(%a, %half, %two) : float32[4]", "1.0", True),
        ("%a = Cast(to=float32)(%i) : float32[4]\n  %r = Mul()(%a, %big) : float32[4]", "1.0", False),
        ("%a = Cast(to=float32)(%i) : float32[4]\n  %r = Mul()(%a, %endless) : float32[4]", "1.0", False),
        ("%a = Mul()(%i, %i) : int32[4]\n  %r = Cast(to=float32)(%a) : float32[4]", "2.0", True),
    ],
)
def test_what_is_bounded(lines: str, scale: str, bounded: bool) -> None:
    assert quantized(lines, scale) == (["r"] if bounded else [])


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize(("kind", "zero"), [("uint8", 255), ("int8", -5)])
def test_rounded_and_packed(kind: str, zero: int, cpu: str | None) -> None:
    rng, graph, feeds, outputs = np.random.default_rng(2), Graph("g"), dict[str, np.ndarray](), list[Value]()
    b = Builder(graph)
    for columns in (4, 8, 24, 40, 64, 70):
        for multiplier in (0.02, 0.9 * ROUNDS / (12 * 255**2), 1e7):
            x = graph.add_input(f"x{len(outputs)}", TensorType(DTYPES["uint8"], (21, 12)))
            feeds[x.name] = rng.integers(0, 256, (21, 12)).astype(np.uint8)
            w = b.constant(rng.integers(-127, 128, (12, columns)).astype(np.int8))
            sums = b.Cast(b(MatMulInteger(), x, w, b.constant(np.uint8(100))), to=FLOAT32)
            scaled = b.Mul(sums, b.constant((multiplier * 10.0 ** rng.uniform(-4, 0, columns)).astype(np.float32)))
            outputs.append(b(QuantizeLinear(dtype=DTYPES[kind]), scaled, b.constant(np.float32(1)), b.constant(np.array(zero, kind))))
    graph.set_outputs(outputs)
    found = lc.compile(graph, level=1, cpu=cpu).run(feeds)
    for name, wanted in lc.evaluate(graph, feeds).items():
        assert len(np.unique(wanted)) > 1
        np.testing.assert_array_equal(found[name], wanted)
    kernels = lc.optimize(graph, level=1, passes="fuse").nodes
    assert [bool(spec_of(node).bounded) for node in kernels] == [True, True, False] * 6


@pytest.mark.parametrize("cpu", CPUS)
def test_scales_of_channels_that_are_codes_themselves(cpu: str | None) -> None:
    """What another kernel gives is known to be codes times a scale; codes in the middle of a kernel are rounded to as numbers."""
    graph = parse_graph(
        """
graph @main(%x: uint8[48,40], %g: uint8[1,40]) {
  %s = const float32[] (0.013)
  %u = const float32[] (0.4)
  %one = const float32[] (1.0)
  %z = const uint8[] (100)
  %d = DequantizeLinear()(%x, %u, %z) : float32[48,40]
  %f = DequantizeLinear()(%g, %s, %z) : float32[1,40]
  %m = Mul()(%d, %f) : float32[48,40]
  %q = QuantizeLinear(dtype=uint8)(%m, %one, %z) : uint8[48,40]
  %e = DequantizeLinear()(%q, %u, %z) : float32[48,40]
  %y = QuantizeLinear(dtype=uint8)(%e, %one, %z) : uint8[48,40]
  return %y
}
"""
    )
    rng = np.random.default_rng(3)
    feeds = {v.name: rng.integers(0, 256, v.type.static_shape).astype(np.uint8) for v in graph.inputs}
    kernels = lc.optimize(graph, level=0, passes="fuse,round-inside").nodes
    assert [len(spec_of(node).bounded) for node in kernels] == [0, 1]
    assert [node.op.name for node in kernels[1].regions[0]] == ["DequantizeLinear", "Mul", "Round", "Clip", "Mul", "QuantizeLinear"]
    (wanted,), (found,) = (values.values() for values in (lc.evaluate(graph, feeds), lc.compile(graph, level=0, cpu=cpu).run(feeds)))
    assert len(np.unique(wanted)) > 20
    np.testing.assert_array_equal(found, wanted)
