"""Exact Winograd convolutions of integers: every bit as the evaluator has it, at the bounds as well, and none where bounds do not hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.backend import BuildOptions
from lepton_compiler.backends.tvm import build
from lepton_compiler.backends.tvm.choice import Choice
from lepton_compiler.backends.tvm.compute.integer_winograd import INVERSE, ONES, SHIFT, input_transform, output_transform, plan
from lepton_compiler.backends.tvm.dot import dot_of, wide_dot_of
from lepton_compiler.backends.tvm.lower import lower
from lepton_compiler.backends.tvm.spec import spec_of
from lepton_compiler.backends.tvm.winograd_packing import FILTER, LARGEST_WEIGHT, pack_integer_winograd, sum_bits
from lepton_compiler.ir.graph import Graph, Value
from lepton_compiler.ir.types import DTYPES, FLOAT32, UINT8, TensorType
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.cast import Cast
from lepton_compiler.ops.conv import ConvInteger
from lepton_compiler.runtime.library import NativeLibrary
from lepton_compiler.target import _host_flags, parse_target

NEEDS = {"x86-64-v2": {"sse4_2"}, "x86-64-v3": {"avx2", "fma", "f16c"}}
PADS = (1, 1, 1, 1)
Case = tuple[tuple[int, ...], int, tuple[int, ...], str, int | None, str, int, Choice]
CASES: list[Case] = [
    ((1, 13, 14, 24), 40, PADS, "uint8", 7, "int8", 0, Choice(winograd=4)),
    ((2, 9, 23, 17), 18, (1, 0, 2, 1), "int8", None, "int8", 0, Choice(winograd=4, rows=5, pixels=3, vectors=1)),
    ((2, 10, 11, 21), 24, PADS, "uint8", 200, "uint8", 119, Choice(winograd=4, rows=9)),
    ((1, 9, 10, 20), 17, (0, 2, 1, 1), "int8", -128, "int8", 0, Choice(winograd=2, rows=6)),
]
"""Shape of the data, output channels, pads, type and zero point of data (None: known at run time only) and of weights, the kernel."""
EDGE = 115
"""Channels with which weights of 127 and data of 255 sum up to just under 2^25."""


def cpus() -> list[str | None]:
    """Processors whose code this machine can run; None is the machine itself."""
    return [None, *(cpu for cpu, flags in NEEDS.items() if flags <= _host_flags())]


def convolution(graph: Graph, x: Value, weights: np.ndarray, zero: Value | None, w_zero: int, pads: tuple[int, ...]) -> Value:
    b = Builder(graph)
    point = b.constant(np.array(w_zero, weights.dtype)) if w_zero else None
    return b(ConvInteger(pads=pads, layout="NHWC"), x, b.constant(weights), zero, point)


def of_cases() -> tuple[Graph, dict[str, np.ndarray], list[Choice]]:
    """All cases in a graph, with random codes, and two whose sums are as large as they may get, with either sign."""
    rng, graph, feeds, outputs = np.random.default_rng(3), Graph("g"), dict[str, np.ndarray](), []

    def given(array: np.ndarray) -> Value:
        value = graph.add_input(f"x{len(feeds)}", TensorType(DTYPES[str(array.dtype)], array.shape))
        feeds[value.name] = array
        return value

    for shape, out, pads, data, zero, weights, w_zero, _ in CASES:
        x = given(rng.integers(0, 256, shape, dtype=np.uint8).view(data))
        w = rng.integers(0, 256, (out, shape[3], 3, 3), dtype=np.uint8).view(weights)
        point = given(np.array(-9, data)) if zero is None else graph.constant(np.array(zero, data), "zero")
        outputs.append(convolution(graph, x, w, point, w_zero, pads))
    signs = np.where(np.arange(18) % 2, 127, -127).astype(np.int8)[:, None, None, None]
    x = given(np.where(rng.random((1, 7, 6, EDGE)) < 0.01, 0, 255).astype(np.uint8))
    x0 = given(np.full((1, 5, 6, EDGE), 255, np.uint8))
    outputs += [convolution(graph, v, np.broadcast_to(signs, (18, EDGE, 3, 3)).copy(), None, 0, PADS) for v in (x, x0)]
    graph.set_outputs(outputs)
    return graph, feeds, [*(case[-1] for case in CASES), Choice(winograd=4), Choice(winograd=4, pixels=2)]


@pytest.mark.parametrize("cpu", cpus())
def test_every_bit_is_the_evaluators(cpu: str | None) -> None:
    graph, feeds, kernels = of_cases()
    nodes, target = list(graph), parse_target("native", cpu)
    choices = {spec_of(node).structure: choice.to_json() for node, choice in zip(nodes, kernels, strict=True)}
    artifact = build(graph, BuildOptions("m", target, choices=choices))
    found = NativeLibrary.from_bytes(artifact.files["libm.so"], {**artifact.manifest, "name": "m"}).run(feeds)
    for name, wanted in lc.evaluate(graph, feeds).items():
        np.testing.assert_array_equal(found[name], wanted, name)
    packed = {p.packed.function for node in nodes for p in lower(_chosen(node, choices), target).parameters if p.packed}
    assert packed == ({"integer_winograd"} if target.arch == "x86_64" else packed)
    assert max(np.abs(v).max() for v in lc.evaluate(graph, feeds).values()) == EDGE * 9 * 127 * 255


def _chosen(node: Any, choices: dict[str, dict[str, int]]) -> Any:
    from lepton_compiler.backends.tvm.spec import chosen

    return chosen(spec_of(node), choices)


@pytest.mark.skipif(not NEEDS["x86-64-v3"] <= _host_flags(), reason="code for AVX2 does not run here")
@pytest.mark.parametrize("cache", ["64K", "8M"])
def test_chunks_threads_and_epilogues(cache: str) -> None:
    rng, graph = np.random.default_rng(5), Graph("g")
    x, r = (graph.add_input(name, TensorType(UINT8, (1, 37, 50, 32))) for name in ("x", "r"))
    b = Builder(graph)
    weights = rng.integers(-99, 100, (40, 32, 3, 3)).astype(np.int8)
    y = convolution(graph, x, weights, b.constant(np.array(3, np.uint8)), 0, PADS)
    factor, bias = rng.uniform(1e-4, 4e-4, 40).astype(np.float32), rng.integers(-999, 999, 40).astype(np.int32)
    real = b.Mul(b(Cast(to=FLOAT32), b.Add(y, b.constant(bias))), b.constant(factor))
    z = convolution(graph, r, weights[:, :, ::-1].copy(), None, 0, PADS)
    total = b.Relu(b.Add(real, b.Mul(b(Cast(to=FLOAT32), z), b.constant(np.float32(2e-4)))))
    graph.set_outputs([b.QuantizeLinear(total, b.constant(np.float32(0.5)), b.constant(np.array(9, np.uint8)), dtype=UINT8)])
    feeds = {name: rng.integers(0, 256, (1, 37, 50, 32), dtype=np.uint8) for name in ("x", "r")}
    (wanted,) = lc.evaluate(graph, feeds).values()
    for threads in (1, 2):
        (found,) = lc.compile(graph, target=f"x86_64,l2={cache}", level=1, threads=threads).run(feeds).values()
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("cpu", cpus())
def test_bytes_of_several_pixels_are_narrowed_together(cpu: str | None) -> None:
    rng, graph, feeds, outputs = np.random.default_rng(6), Graph("g"), dict[str, np.ndarray](), []
    b, target = Builder(graph), parse_target("native", cpu)
    shapes = [(16, 14, 4), (16, 13, 4), (16, 9, 2), (16, 6, 2), (20, 14, 4), (24, 12, 4)]
    for out, width, _ in shapes:
        feeds[f"x{len(feeds)}"] = rng.integers(0, 256, (1, 7, width, 16), dtype=np.uint8)
        x = graph.add_input(f"x{len(feeds) - 1}", TensorType(UINT8, (1, 7, width, 16)))
        y = convolution(graph, x, rng.integers(-99, 100, (out, 16, 3, 3)).astype(np.int8), b.constant(np.array(3, np.uint8)), 0, PADS)
        real = b.Mul(b(Cast(to=FLOAT32), y), b.constant(rng.uniform(1e-4, 4e-4, out).astype(np.float32)))
        outputs.append(b.QuantizeLinear(real, b.constant(np.float32(0.5)), b.constant(np.array(99, np.uint8)), dtype=UINT8))
    graph.set_outputs(outputs)
    optimized = lc.optimize(graph, 2)
    products = [node for node in optimized if "ConvInteger" in str(node)]
    assert len(products) == len(shapes)
    choices = {spec_of(n).structure: Choice(winograd=m).to_json() for n, (_, _, m) in zip(products, shapes, strict=True)}
    for node in products:
        packed = {p.packed.function for p in lower(_chosen(node, choices), target).parameters if p.packed}
        assert "integer_winograd" in packed or target.arch != "x86_64"
    artifact = build(optimized, BuildOptions("m", target, choices=choices))
    found = NativeLibrary.from_bytes(artifact.files["libm.so"], {**artifact.manifest, "name": "m"}).run(feeds)
    for name, wanted in lc.evaluate(graph, feeds).items():
        np.testing.assert_array_equal(found[name], wanted, name)


@pytest.mark.parametrize("m", [2, 4])
def test_the_transforms_are_the_filter(m: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        d, g = rng.integers(-255, 256, (m + 2, m + 2)), rng.integers(-127, 128, (1, 1, 3, 3)).astype(np.int8)
        u = pack_integer_winograd(g, m, 1, 0).astype(np.int64)[:, 0, 0, 0].reshape(m + 2, m + 2)
        v = np.array(input_transform(m, list(np.array(input_transform(m, list(d))).T))).T
        back = np.array([row(*(u * v)) for row in output_transform(m)])
        total = np.array([row(*back.T) for row in output_transform(m)]).T
        found = (total * INVERSE[m]).astype(np.int32) >> SHIFT[m]  # modulo 2^32
        wanted = [[(d[i : i + 3, j : j + 3] * g[0, 0]).sum() for j in range(m)] for i in range(m)]
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("m", [2, 4])
def test_transformed_numbers_fit_16_bits(m: int) -> None:
    rows = np.array(input_transform(m, list(np.eye(m + 2, dtype=np.int64))))
    assert np.abs(rows).sum(1).max() ** 2 * 255 < 2**15
    np.testing.assert_array_equal(rows.sum(1), [ONES[m] if r == 1 else 0 for r in range(m + 2)])
    most = max(sum(map(abs, row)) for row in FILTER[m]) ** 2
    assert LARGEST_WEIGHT[m] * most < 2**15 <= (LARGEST_WEIGHT[m] + 1) * most
    assert LARGEST_WEIGHT[m] >= 128


def test_bits_of_sums() -> None:
    assert sum_bits(np.array([[2, -1], [0, 1]]), -3, 5) == 5  # from -11 to 13
    assert sum_bits(np.array([[1]]), 0, 2**25 - 1) == 26
    assert sum_bits(np.array([[1]]), 0, 2**25) == 27
    assert sum_bits(np.array([[-1]]), 0, 2**25) == 26
    assert sum_bits(np.array([[-1]]), 0, 2**25 + 1) == 27
    assert sum_bits(np.zeros((3, 4), np.int64), -255, 255) == 1


@pytest.mark.parametrize(
    ("channels", "zero", "w_zero", "bits"),
    [
        (EDGE, 0, 0, 26),
        (EDGE + 1, 0, 0, 30),
        (EDGE + 1, 255, 0, 30),
        (2 * EDGE - 2, 128, 0, 26),
        (2 * EDGE, 128, 0, 30),
        (24, 0, -128, 30),
        (24, 0, -100, 26),
    ],
)
def test_weights_decide_what_is_exact(channels: int, zero: int, w_zero: int, bits: int) -> None:
    graph = Graph("g")
    x = graph.add_input("x", TensorType(UINT8, (1, 8, 8, channels)))
    point = graph.constant(np.array(zero, np.uint8), "zero")
    graph.set_outputs([convolution(graph, x, np.full((16, channels, 3, 3), 127, np.int8), point, w_zero, PADS)])
    (node,) = graph
    assert spec_of(node).sum_bits == bits
    assert spec_of(node, small=True).sum_bits == 32
    wide = wide_dot_of(parse_target("x86_64"))
    assert wide is not None
    for choice, allowed in ((Choice(winograd=4), bits <= 26), (Choice(winograd=2), bits <= 30)):
        target = parse_target("x86_64")
        found = plan(1, (8, 8), channels, 16, spec_of(node).sum_bits, dot_of(target), wide, target, choice)
        assert (found is not None) == allowed


def test_it_is_taken_where_it_pays_only() -> None:
    target = parse_target("x86_64", "x86-64-v3")
    direct, wide = dot_of(target), wide_dot_of(target)
    assert wide is not None
    found = plan(1, (56, 56), 64, 64, 26, direct, wide, target)
    assert found is not None and found.m == 4 and found.chunks > 1
    assert plan(1, (56, 56), 64, 64, 32, direct, wide, target) is None  # sums may have all bits
    assert plan(1, (56, 56), 8, 64, 26, direct, wide, target) is None
    assert wide_dot_of(parse_target("arm64")) is None
