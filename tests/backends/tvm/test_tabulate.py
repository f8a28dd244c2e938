"""Functions of 8-bit codes become tables: which ones do, and every bit as the evaluator has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.backends.tvm import REQUIRED_PASSES
from lepton_compiler.ir.graph import Graph, Value
from lepton_compiler.ir.types import DTYPES, TensorType
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.quantize import DequantizeLinear, QuantizeLinear

Function = Callable[[Builder, Value], Value]
SHAPE = (2, 5, 7, 9)
SIGMOID: Function = lambda b, x: b.Sigmoid(x)  # noqa: E731
FUNCTIONS: dict[str, Function] = {
    "sigmoid": SIGMOID,
    "gelu": lambda b, x: b.Gelu(x),
    "swish in two": lambda b, x: b.Mul(x, b.Sigmoid(x)),
    "with constants": lambda b, x: b.Tanh(b.Add(b.Mul(x, 0.7), -0.2)),
    "of a table": lambda b, x: b.Mul(x, dequantized(b, quantized(b, b.Sigmoid(x), "int8", 0.004, -128), 0.004, -128)),
}


def quantized(b: Builder, x: Value, kind: str = "uint8", scale: float = 0.01, zero: int = 5) -> Value:
    return b(QuantizeLinear(dtype=DTYPES[kind]), x, b.constant(np.float32(scale)), b.constant(np.array(zero, kind)))


def dequantized(b: Builder, x: Value, scale: float = 0.05, zero: int = 3) -> Value:
    return b(DequantizeLinear(), x, b.constant(np.float32(scale)), b.constant(np.array(zero, x.type.dtype.numpy)))


def net(function: Function, source: str = "int8", target: str = "uint8", shape: tuple[int, ...] = SHAPE) -> Graph:
    """Codes through a function to codes."""
    graph = Graph("net")
    x = graph.add_input("x", TensorType(DTYPES[source], shape))
    b = Builder(graph)
    graph.set_outputs([quantized(b, function(b, dequantized(b, x)), target)])
    return graph


def every_code(graph: Graph) -> dict[str, np.ndarray]:
    kind = graph.inputs[0].type
    return {"x": np.resize(np.arange(256, dtype=np.uint8), kind.static_shape).view(kind.dtype.numpy)}


def operators(graph: Graph, target: Any = "x86_64") -> list[str]:
    passes = ",".join(item for item in REQUIRED_PASSES if item != "fuse")
    return [node.op.name for node in lc.optimize(lc.optimize(graph, 2, target), 2, target, passes)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_of_codes_is_one_table(name: str) -> None:
    assert operators(net(FUNCTIONS[name])) == ["Lookup"]


@pytest.mark.parametrize(("source", "target"), [("int8", "int8"), ("int8", "uint8"), ("uint8", "int8"), ("uint8", "uint8")])
def test_all_codes_natively(source: str, target: str) -> None:
    """A graph with all functions, each of the same codes."""
    graph = Graph("net")
    x = graph.add_input("x", TensorType(DTYPES[source], SHAPE))
    b = Builder(graph)
    graph.set_outputs([quantized(b, function(b, dequantized(b, x)), target, zero=k) for k, function in enumerate(FUNCTIONS.values())])
    graph, feeds = lc.optimize(graph), every_code(graph)
    found = lc.compile(graph, level=0).run(feeds)
    for key, wanted in lc.evaluate(graph, feeds).items():
        np.testing.assert_array_equal(found[key], wanted)


def test_cheap_functions_stay_arithmetic_on_vectors_and_are_tables_elsewhere() -> None:
    graph = net(lambda b, x: b.Clip(b.Mul(x, 3.0), -2.0, 2.0))
    assert "Lookup" not in operators(graph)
    assert operators(graph, "cortex-m4") == ["Lookup"]


def test_refusals() -> None:
    """Scales per channel, two sources, 16 bits, few elements, and results that are needed as real numbers as well."""
    assert operators(net(lambda b, x: b.Sigmoid(b.Mul(x, np.linspace(0.1, 1, 5, dtype=np.float32).reshape(5, 1, 1)))))[-1] != "Lookup"
    assert operators(net(SIGMOID, shape=(3,)))[-1] != "Lookup"
    assert operators(net(SIGMOID, source="int16"))[-1] != "Lookup"
    graph = Graph("net")
    x, y = (graph.add_input(name, TensorType(DTYPES["int8"], SHAPE)) for name in "xy")
    b = Builder(graph)
    real = b.Sigmoid(dequantized(b, x))
    graph.set_outputs([quantized(b, b.Tanh(b.Add(dequantized(b, x), dequantized(b, y)))), quantized(b, real), real])
    assert "Lookup" not in operators(graph)


def test_a_table_after_a_layer_on_a_microcontroller() -> None:
    pytest.importorskip("unicorn")
    pytest.importorskip("elftools")
    rng, graph = np.random.default_rng(0), Graph("net")
    x = graph.add_input("x", TensorType(DTYPES["int8"], (1, 3, 8, 8)))
    b = Builder(graph)
    weights = dequantized(b, b.constant(rng.integers(-127, 128, (8, 3, 3, 3)).astype(np.int8)), 0.01, 0)
    layer = b.Conv(dequantized(b, x), weights, pads=(1, 1, 1, 1))
    graph.set_outputs([quantized(b, b.HardSwish(dequantized(b, quantized(b, layer, "int8", 0.05, 4), 0.05, 4)), "int8", 0.03, -20)])
    model = lc.compile(graph, target="cortex-m4", level="s")
    feeds = every_code(graph)
    outputs, _ = model.emulate(feeds)
    for key, wanted in lc.evaluate(lc.optimize(graph, "s", "cortex-m4"), feeds).items():
        np.testing.assert_array_equal(outputs[key], wanted)
