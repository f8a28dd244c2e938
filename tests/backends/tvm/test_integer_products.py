"""Products of 8-bit integers and dynamic quantization: every bit as the evaluator has it, with each instruction set that runs here."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.backends.tvm.compute.integer_product import Geometry, plan
from lepton_compiler.backends.tvm.dot import dot_of
from lepton_compiler.backends.tvm.spec import spec_of
from lepton_compiler.backends.tvm.worker import compile_spec, kernel_text
from lepton_compiler.ir.graph import Graph, Value
from lepton_compiler.ir.types import DTYPES, FLOAT32, TensorType
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.cast import Cast
from lepton_compiler.ops.conv import ConvInteger
from lepton_compiler.ops.matmul import MatMulInteger
from lepton_compiler.ops.quantize import DynamicQuantizeLinear
from lepton_compiler.target import _host_flags, parse_target

NEEDS = {"x86-64-v2": {"sse4_2"}, "x86-64-v3": {"avx2", "fma", "f16c"}, "x86-64-v4": {"avx512f", "avx512bw", "avx512dq", "avx512vl"}}
"""Flags of the processor that code for each level needs."""
ZEROS: list[tuple[str, str, int | None, int | None, bool]] = [
    ("uint8", "int8", 7, None, True), ("uint8", "uint8", 200, 119, True), ("int8", "int8", -3, 0, False),
    ("uint8", "int8", None, None, False), ("int8", "uint8", 5, 3, True),
]  # fmt: skip
"""Types of data and weights, their zero points, and whether that of the data is known only at run time."""
MATRICES = [((3, 5, 37), 20), ((1, 256), 300), ((25, 200), 129), ((2, 4), 1)]
IMAGES: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((1, 3, 9, 11), (20, 3, 3, 3), {"pads": (1, 1, 1, 1)}),
    ((2, 24, 12, 14), (70, 24, 3, 3), {"pads": (1, 0, 2, 1), "strides": (2, 2)}),
    ((1, 16, 7, 6), (8, 16, 2, 3), {"dilations": (1, 2), "pads": (0, 1, 1, 2)}),
    ((1, 32, 5, 5), (33, 32, 1, 1), {}),
    ((1, 8, 30), (17, 8, 5), {"strides": (1,), "pads": (2, 2), "dilations": (1,)}),
    ((1, 64, 8, 8), (16, 64, 3, 3), {}),
]


def cpus() -> list[str | None]:
    """Processors whose code this machine can run; None is the machine itself, with all that it has."""
    return [None, *(cpu for cpu, flags in NEEDS.items() if flags <= _host_flags())]


def codes(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """All 8-bit numbers, each as likely as another."""
    return rng.integers(0, 256, shape, dtype=np.uint8).view(kind)


def usual(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """Weights as layers have them, most of them small: few pairs of those that lie side by side would not fit 16 bits."""
    weights = np.clip(np.rint(rng.normal(0, 25, shape)), -128, 127).astype(np.int8)
    weights.flat[: min(6, weights.size)] = -128
    return weights if kind == "int8" else (weights.view(np.uint8) ^ np.uint8(128))


def products(weights_of: Callable[..., np.ndarray], data_of: Callable[..., np.ndarray]) -> tuple[Graph, dict[str, np.ndarray]]:
    """A graph with products of all kinds, plain and with element-wise operators after them, and its inputs."""
    rng, graph, feeds = np.random.default_rng(3), Graph("g"), dict[str, np.ndarray]()
    b = Builder(graph)

    def given(array: np.ndarray) -> Value:
        value = graph.add_input(f"x{len(feeds)}", TensorType(DTYPES[str(array.dtype)], array.shape))
        feeds[value.name] = array
        return value

    outputs = []
    shapes: Iterator[Any] = itertools.chain(
        ((MatMulInteger(), s, (s[-1], n)) for s, n in MATRICES), ((ConvInteger(**kw), s, w) for s, w, kw in IMAGES)
    )
    for (op, shape, filters), (data, weights, x_zero, w_zero, late) in itertools.product(shapes, ZEROS):
        zero = None if x_zero is None else np.array(x_zero, data)
        operands: list[Any] = [given(data_of(rng, data, shape)), b.constant(weights_of(rng, weights, filters))]
        operands.append(None if zero is None else given(zero) if late else b.constant(zero))
        y = b(op, *operands, None if w_zero is None else b.constant(np.array(w_zero, weights)))
        if late:
            channels = (filters[1],) if op.name == "MatMulInteger" else (filters[0], *(1,) * (len(filters) - 2))
            y = b.Mul(
                b.Relu(b(Cast(to=FLOAT32), b.Add(y, b.constant(rng.integers(-9, 9, channels, dtype=np.int32))))),
                b.constant(np.float32(0.25)),
            )
        outputs.append(y)
    graph.set_outputs(outputs)
    return graph, feeds


def largest(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """The largest numbers: sums of pairs are where 16 bits end."""
    return np.full(shape, np.iinfo(kind).max, kind)


def dense(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """Weights of which many pairs would not fit 16 bits, but all of whose magnitudes are signed bytes."""
    weights = rng.integers(-127, 128, shape).astype(np.int8)
    weights.flat[: min(6, weights.size)] = 127
    return weights if kind == "int8" else (weights.view(np.uint8) ^ np.uint8(128))


def ends(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers of which each is the smallest or the largest."""
    return rng.choice(np.array([np.iinfo(kind).min, np.iinfo(kind).max], kind), shape)


@pytest.mark.parametrize("cpu", cpus())
@pytest.mark.parametrize(("weights_of", "data_of"), [(codes, codes), (usual, codes), (usual, largest), (dense, codes), (dense, ends)])
def test_products_are_exact(cpu: str | None, weights_of: Callable[..., np.ndarray], data_of: Callable[..., np.ndarray]) -> None:
    graph, feeds = products(weights_of, data_of)
    found = lc.compile(graph, cpu=cpu, level=1).run(feeds)
    for name, wanted in lc.evaluate(graph, feeds).items():
        np.testing.assert_array_equal(found[name], wanted, name)


@pytest.mark.parametrize("cpu", cpus()[:2])
@pytest.mark.parametrize("shape", [(), (1, 7), (3, 50, 33), (1000,)])
def test_dynamic_quantization_is_exact(cpu: str | None, shape: tuple[int, ...]) -> None:
    graph = Graph("g")
    x = graph.add_input("x", TensorType(FLOAT32, shape))
    graph.set_outputs(Builder(graph).node(DynamicQuantizeLinear(), [x]).outputs)
    model, rng = lc.compile(graph, cpu=cpu, level=1), np.random.default_rng(4)
    ties = np.asarray(rng.integers(-255, 256, shape) / 2, np.float32)  # half steps, once the range is from -127.5 to 127.5
    for array in (rng.normal(0, 2, shape), rng.random(shape), -rng.random(shape), np.zeros(shape), ties, ties * 3.7):
        feeds = {"x": np.asarray(array, np.float32)}
        for (name, wanted), found in zip(lc.evaluate(graph, feeds).items(), model.run(feeds).values(), strict=True):
            np.testing.assert_array_equal(found, wanted, name)


@pytest.mark.parametrize(
    ("name", "cpu", "weight", "wanted", "avoided"),
    [
        ("x86_64,avx512vnni", "x86-64-v4", 64, "vpdpbusd", "vpmaddwd"),
        ("x86_64", "x86-64-v4", 64, "vpmaddubsw", "vpmovsxbw"),
        ("x86_64", "x86-64-v3", 64, "vpmaddubsw", "vpmovsxbw"),
        ("x86_64", "x86-64-v3", 127, "vpmaddubsw", "vpmovsxbw"),
        ("x86_64", "x86-64-v3", -128, "vpmaddwd", "vpmaddubsw"),
        ("x86_64", "x86-64-v2", 64, "pmaddubsw", "pmovsxbw"),
        ("x86_64", "x86-64-v2", -128, "pmaddwd", "pmaddubsw"),
        ("x86_64", "x86-64", 64, "pmaddwd", "pmaddubsw"),
    ],
)
def test_instructions(name: str, cpu: str, weight: int, wanted: str, avoided: str) -> None:
    graph = Graph("g")
    b = Builder(graph)
    x, weights = graph.add_input("x", TensorType(DTYPES["uint8"], (24, 64))), b.constant(np.full((64, 64), weight, np.int8))
    graph.set_outputs([b(MatMulInteger(), x, weights)])
    text = kernel_text("k", spec_of(graph.nodes[0]), parse_target(name, cpu), "asm")
    lines = [line.split() for line in text.splitlines()]
    assert any(line[:1] == [wanted] for line in lines) and not any(line[:1] == [avoided] for line in lines)


def test_loops_over_windows_count_as_work_for_threads() -> None:
    graph = Graph("g")
    b = Builder(graph)
    x, weights = graph.add_input("x", TensorType(DTYPES["uint8"], (64, 128))), b.constant(np.full((128, 64), 9, np.int8))
    graph.set_outputs([b(MatMulInteger(), x, weights)])
    spec, target = spec_of(graph.nodes[0]), parse_target("x86_64", "x86-64-v3")
    (windows,) = compile_spec("k", spec, target).phases
    (wide,) = compile_spec("k", replace(spec, in_windows=frozenset()), target).phases
    assert 0.3 * wide.nanoseconds < windows.nanoseconds < 1.5 * wide.nanoseconds


def test_little_work_has_one_copy() -> None:
    target = parse_target("x86_64", "x86-64-v3")
    dot, pads = dot_of(target, in_windows=True), (1, 1, 1, 1)
    few, many = (Geometry(1, (size, size), 16, 64, (3, 3), pads=pads) for size in (6, 24))
    assert [plan(few, dot, target, copies=copies).ranges for copies in (True, False)] == [1, 4]
    assert plan(many, dot, target, copies=True).ranges == 4
