"""Quantization without division and depthwise convolutions of 8-bit integers: every bit as the evaluator has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.types import DTYPES, FLOAT32, UINT8, TensorType
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.conv import ConvInteger
from lepton_compiler.ops.quantize import QuantizeLinear
from lepton_compiler.target import _host_flags

CPUS = [None, *(["x86-64-v3"] if {"avx2", "fma", "f16c"} <= _host_flags() else []), *(["x86-64-v2"] if "sse4_2" in _host_flags() else [])]
STRANGE = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e30, -1e30, 1e-40]
DEPTHWISE: list[tuple[str, tuple[int, ...], int, dict[str, Any]]] = [
    ("uint8", (2, 32, 14, 15), 3, {"pads": (1, 1, 1, 1)}),
    ("uint8", (1, 24, 13, 17), 3, {"pads": (1, 1, 1, 1), "strides": (2, 2)}),
    ("int8", (1, 48, 9, 9), 5, {"pads": (2, 2, 2, 2)}),
    ("uint8", (2, 20, 15, 18), 5, {"pads": (2, 2, 2, 2), "strides": (2, 2)}),
    ("uint8", (1, 40, 23, 12), 7, {"pads": (3, 3, 3, 3)}),
    ("uint8", (1, 16, 11, 13), 5, {"strides": (3, 1), "dilations": (1, 2)}),
    ("uint8", (1, 16, 8, 30), 3, {}),
    ("int8", (1, 7, 8, 9), 3, {"pads": (2, 2, 2, 2), "dilations": (2, 2)}),
    ("uint8", (1, 32, 20, 16), 3, {"pads": (1, 0, 0, 1), "strides": (2, 1)}),
]


def check(graph: Graph, feeds: dict[str, np.ndarray], cpu: str | None) -> None:
    found = lc.compile(graph, level=1, cpu=cpu).run(feeds)
    for name, wanted in lc.evaluate(graph, feeds).items():
        assert len(np.unique(wanted)) > 20
        np.testing.assert_array_equal(found[name], wanted)


@pytest.mark.parametrize("cpu", CPUS)
def test_codes_beside_ties(cpu: str | None) -> None:
    rng, graph, feeds = np.random.default_rng(0), Graph("g"), dict[str, np.ndarray]()
    b, outputs = Builder(graph), []
    for k, (scale, zero, kind) in enumerate(
        [(0.05, 10, "uint8"), (1 / 3, -3, "int8"), (0.1, 0, "int8"), (0.007, 128, "uint8"), (0.25, 1, "int16")]
    ):
        step = np.float32(scale)
        ties = ((rng.integers(-300, 300, (20, 500)) + 0.5) * step).astype(np.float32)
        beside = np.nextafter(ties, rng.choice([-np.inf, np.inf], ties.shape).astype(np.float32))
        values = np.concatenate([ties, beside, rng.normal(0, 100 * scale, (10, 500)).astype(np.float32)])
        values[0, : len(STRANGE)] = STRANGE
        x = graph.add_input(f"x{k}", TensorType(FLOAT32, values.shape))
        feeds[x.name] = values
        outputs.append(b(QuantizeLinear(dtype=DTYPES[kind]), x, b.constant(step), b.constant(np.array(zero, kind))))
    graph.set_outputs(outputs)
    check(graph, feeds, cpu)


@pytest.mark.parametrize("cpu", CPUS)
def test_depthwise(cpu: str | None) -> None:
    rng, graph, feeds = np.random.default_rng(1), Graph("g"), dict[str, np.ndarray]()
    b, outputs = Builder(graph), []
    for k, (kind, shape, size, options) in enumerate(DEPTHWISE):
        channels = shape[1]
        x = graph.add_input(f"x{k}", TensorType(DTYPES[kind], shape))
        feeds[x.name] = rng.integers(0, 256, shape).astype(np.uint8).view(kind)
        w = b.constant(rng.integers(-128, 128, (channels, 1, size, size)).astype(np.int8))
        sums = b(ConvInteger(groups=channels, **options), x, w, b.constant(np.array(9, kind)))
        shifted = b.Add(sums, b.constant(rng.integers(-999, 999, (channels, 1, 1)).astype(np.int32)))
        scaled = b.Mul(b.Cast(shifted, to=FLOAT32), b.constant((rng.random((channels, 1, 1)) * 1e-3).astype(np.float32)))
        outputs.append(b(QuantizeLinear(dtype=UINT8), scaled, b.constant(np.float32(0.05)), b.constant(np.uint8(100))))
    graph.set_outputs(outputs)
    check(graph, feeds, cpu)
