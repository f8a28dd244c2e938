"""Quantization on cores without vectors: equal to the evaluator's bit for bit, also where float32 arithmetic rounds a middle between two codes."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.ir.graph import Graph, Value
from lepton_compiler.ir.types import FLOAT32, INT8, UINT8, DType, TensorType
from lepton_compiler.ops.builder import Builder
from lepton_compiler.target import parse_target
from lepton_compiler.toolchain import find_toolchain

pytestmark = pytest.mark.skipif(importlib.util.find_spec("unicorn") is None, reason="unicorn is not installed")
CORES = ["cortex-m0plus", "cortex-m4", pytest.param("cortex-m3", marks=pytest.mark.slow)]


def check(graph: Graph, feeds: dict[str, np.ndarray], core: str) -> None:
    """The compiled graph gives what the evaluator gives."""
    try:
        find_toolchain(parse_target(core))
    except lc.MissingDependency as error:
        pytest.skip(str(error))
    found, _ = lc.compile(graph, core, 2).emulate(feeds, count=False)
    for name, want in lc.evaluate(graph, feeds).items():
        np.testing.assert_array_equal(found[name], want, err_msg=name)


def numbers_near_ties(scale: float) -> np.ndarray:
    """Middles between two codes with their neighbours in float32, random numbers, and the ends of the range."""
    middles = ((np.arange(-150, 150) + 0.5) * np.float64(scale)).astype(np.float32)
    around = [middles]
    for direction in (-np.inf, np.inf):
        moved = middles
        for _ in range(3):
            moved = np.nextafter(moved, np.float32(direction))
            around.append(moved)
    random = np.random.default_rng(0)
    spread = (random.standard_normal(500) * 10.0 ** random.uniform(-45, 38, 500)).astype(np.float32)
    odd = np.array([0, -0.0, np.nan, np.inf, -np.inf, 1e-45, -1e-45, 3e38, 1e-38, 16777216, -16777216], np.float32)
    return np.concatenate([*around, spread, odd])


@pytest.mark.parametrize("core", CORES)
def test_numbers_are_quantized(core: str) -> None:
    scales: list[tuple[float, int, DType]] = [
        (0.1, 0, INT8),
        (0.0078125, -128, INT8),
        (3.7e-5, 17, INT8),
        (1.0, 128, UINT8),
        (41.3, 3, UINT8),
    ]
    graph = Graph("net")
    b, feeds, outputs = Builder(graph), dict[str, np.ndarray](), list[Value]()
    for k, (scale, zero, kind) in enumerate(scales):
        data = numbers_near_ties(scale)
        feeds[f"x{k}"] = data
        x = graph.add_input(f"x{k}", TensorType(FLOAT32, data.shape))
        outputs.append(b.QuantizeLinear(x, b.constant(np.float32(scale)), b.constant(np.array(zero, kind.numpy)), dtype=kind))
    graph.set_outputs(outputs)
    with np.errstate(all="ignore"):
        check(graph, feeds, core)


@pytest.mark.parametrize("core", CORES)
def test_sums_of_integers_are_scaled(core: str) -> None:
    """Bias by bias over many sums; factors among which are powers of two, whose products are ties, and tiny and large ones."""
    random, columns = np.random.default_rng(1), 1200
    factors = np.concatenate([2.0 ** -random.integers(-3, 34, 400), random.uniform(1e-6, 1e-2, 400), 10.0 ** random.uniform(-12, 3, 400)])
    bias = np.rint(random.uniform(-300, 300, columns) / factors).clip(-(2**31) + 70000, 2**31 - 70000).astype(np.int32)
    bias[:400] += (1 << random.integers(0, 20, 400)).astype(np.int32)
    graph = Graph("net")
    b, x = Builder(graph), graph.add_input("x", TensorType(INT8, (3, 4)))
    sums = b.Add(b.MatMulInteger(x, b.constant(random.integers(-128, 128, (4, columns)).astype(np.int8))), b.constant(bias))
    scaled = b.Mul(b.Cast(sums, to=FLOAT32), b.constant(factors.astype(np.float32)))
    graph.set_outputs([b.QuantizeLinear(scaled, b.constant(np.float32(1)), b.constant(np.int8(-5)), dtype=INT8)])
    feeds = {"x": np.concatenate([np.zeros((1, 4)), random.integers(-128, 128, (2, 4))]).astype(np.int8)}
    check(graph, feeds, core)


@pytest.mark.parametrize("core", CORES)
def test_codes_are_scaled_and_added(core: str) -> None:
    """All pairs of codes."""
    graph, shape = Graph("net"), (256, 256)
    b, feeds, outputs = Builder(graph), dict[str, np.ndarray](), list[Value]()
    codes = np.arange(-128, 128, dtype=np.int8)
    for k, (first, second) in enumerate([(0.5, 0.25), (0.7310585, 0.333), (1.0, 1.9), (2.0**-19, 1.0)]):
        left, right = (graph.add_input(f"{side}{k}", TensorType(INT8, shape)) for side in "ab")
        feeds |= {f"a{k}": np.broadcast_to(codes, shape), f"b{k}": np.broadcast_to(codes[:, None], shape)}
        numbers = [
            b.DequantizeLinear(v, b.constant(np.float32(s)), b.constant(np.int8(z)))
            for v, s, z in ((left, first, 3), (right, second, -128))
        ]
        outputs.append(b.QuantizeLinear(b.Add(*numbers), b.constant(np.float32(1)), b.constant(np.int8(-100)), dtype=INT8))
    graph.set_outputs(outputs)
    check(graph, feeds, core)


@pytest.mark.parametrize("zero", [-128, 0, 9])
def test_relu_between_codes(zero: int) -> None:
    graph = Graph("net")
    b, x = Builder(graph), graph.add_input("x", TensorType(INT8, (256,)))
    number = b.Relu(b.DequantizeLinear(x, b.constant(np.float32(0.83)), b.constant(np.int8(-11))))
    graph.set_outputs([b.QuantizeLinear(number, b.constant(np.float32(1)), b.constant(np.int8(zero)), dtype=INT8)])
    check(graph, {"x": np.arange(-128, 128, dtype=np.int8)}, "cortex-m4")
