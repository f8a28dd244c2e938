"""Depthwise convolutions and pools with channels last, run in the emulator and compared with the evaluator."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.backends.tvm.choice import Choice
from lepton_compiler.backends.tvm.cuda.compile import compile_spec
from lepton_compiler.backends.tvm.cuda.compilers import find_compiler
from lepton_compiler.backends.tvm.cuda.sliding import choose
from lepton_compiler.backends.tvm.cuda.sliding.layer import find_layer
from lepton_compiler.backends.tvm.cuda.sliding.problem import Share, Windows
from lepton_compiler.backends.tvm.cuda.unit import unit
from lepton_compiler.backends.tvm.packing import PACKINGS
from lepton_compiler.backends.tvm.spec import spec_of
from lepton_compiler.errors import MissingDependency, UsageError
from lepton_compiler.gpus import GPUS
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.text import parse_graph
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.conv import ConvInteger
from lepton_compiler.runtime.model import CompiledModel
from lepton_compiler.target import parse_target
from lepton_compiler.testing.cuda_emulator import available, run

RNG = np.random.default_rng(0)
NUMPY: dict[str, Any] = {
    "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "int8": np.int8, "uint8": np.uint8,
}  # fmt: skip
TOLERANCE = {"float32": 1e-5, "float16": 1e-3, "bfloat16": 1e-2}


def graph_of(shape: Sequence[int], kind: str) -> Graph:
    return parse_graph(f"graph @net(%x: {kind}[{','.join(map(str, shape))}]) {{\n  return %x\n}}\n")


def values(shape: Sequence[int], kind: str) -> np.ndarray:
    if kind in ("int8", "uint8"):
        limits = np.iinfo(NUMPY[kind])
        return RNG.integers(limits.min, limits.max + 1, shape).astype(NUMPY[kind])
    return RNG.standard_normal(shape).astype(NUMPY[kind])


def depthwise(shape: Sequence[int], kernel: Sequence[int], kind: str = "float32", multiplier: int = 1, **attributes: Any) -> Graph:
    """A convolution with bias, then what nets have after it."""
    graph, channels = graph_of(shape, kind), shape[-1]
    b, rank = Builder(graph), len(kernel)
    given = {"strides": (1,) * rank, "pads": (0,) * 2 * rank, "dilations": (1,) * rank, "layout": "NHWC", "groups": channels, **attributes}
    w, bias = values((channels * multiplier, 1, *kernel), kind), values((channels * multiplier,), kind)
    graph.set_outputs([b.Relu(b.Conv(graph.inputs[0], b.constant(w), b.constant(bias), **given))])
    return graph


def integers(
    shape: Sequence[int], kernel: Sequence[int], x: str, w: str, x_zero: Any, w_zero: Any, multiplier: int = 1, **attributes: Any
) -> Graph:
    """A convolution of codes; a zero point that is a type is an input of the graph."""
    channels, rank = shape[-1], len(kernel)
    graph = (
        graph_of(shape, x)
        if x_zero != "data"
        else parse_graph(f"graph @net(%x: {x}[{','.join(map(str, shape))}], %z: {x}[]) {{\n  return %x\n}}\n")
    )
    b = Builder(graph)
    given = {"strides": (1,) * rank, "pads": (0,) * 2 * rank, "dilations": (1,) * rank, "layout": "NHWC", "groups": channels, **attributes}
    zeros = [
        None if z is None else graph.inputs[1] if z == "data" else b.constant(np.array(z, NUMPY[k])) for z, k in ((x_zero, x), (w_zero, w))
    ]
    graph.set_outputs([b(ConvInteger(**given), graph.inputs[0], b.constant(values((channels * multiplier, 1, *kernel), w)), *zeros)])
    return graph


def pool(name: str, shape: Sequence[int], kernel: Sequence[int], kind: str = "float32", **attributes: Any) -> Graph:
    graph, rank = graph_of(shape, kind), len(kernel)
    given = {
        "kernel_shape": tuple(kernel), "strides": (1,) * rank, "pads": (0,) * 2 * rank, "dilations": (1,) * rank, "layout": "NHWC", **attributes,
    }  # fmt: skip
    graph.set_outputs([getattr(Builder(graph), name)(graph.inputs[0], **given)])
    return graph


def sliding(model: CompiledModel) -> str:
    """The text of a model of one kernel, of sliding windows, in one launch."""
    assert model.artifact is not None and model.manifest["launches"] == 1
    text = model.artifact.files["net.cu"].decode().rpartition("// namespace lepton::sliding")[2]
    assert "lepton::sliding::" in text
    return text


FLOATS: dict[str, tuple[Sequence[int], Sequence[int], dict[str, Any]]] = {
    "padded": ((2, 9, 11, 16), (3, 3), {"pads": (1, 1, 1, 1)}),
    "strided": ((1, 14, 13, 8), (3, 3), {"pads": (0, 1, 1, 0), "strides": (2, 2)}),
    "a large kernel, an odd number of channels": ((1, 9, 8, 3), (7, 7), {"pads": (3, 3, 3, 3)}),
    "dilated": ((1, 12, 10, 12), (5, 3), {"pads": (4, 2, 4, 2), "dilations": (2, 2)}),
    "more results than channels": ((1, 7, 7, 6), (3, 3), {"pads": (1, 1, 1, 1), "multiplier": 2}),
    "three results of a channel": ((1, 6, 7, 4), (3, 3), {"multiplier": 3}),
    "one axis": ((2, 37, 12), (5,), {"pads": (2, 2)}),
    "steps over pixels": ((1, 11, 11, 8), (1, 2), {"strides": (3, 3)}),
    "one channel": ((1, 9, 20, 1), (3, 3), {"pads": (1, 1, 1, 1)}),
}


@pytest.mark.parametrize("case", FLOATS)
def test_depthwise_convolutions(agrees, case):
    shape, kernel, attributes = FLOATS[case]
    sliding(agrees(depthwise(shape, kernel, **attributes)))


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize("channels", [16, 6, 5])
def test_numbers_of_16_bits(agrees, kind, channels):
    sliding(agrees(depthwise((1, 9, 7, channels), (3, 3), kind, pads=(1, 1, 1, 1)), tolerance=TOLERANCE[kind]))


INTEGERS: dict[str, tuple[Any, ...]] = {
    "zero points of data": ((2, 9, 7, 16), (3, 3), "uint8", "int8", 117, None, {"pads": (1, 1, 1, 1)}),
    "of both": ((1, 9, 8, 12), (3, 3), "int8", "uint8", -7, 5, {"pads": (1, 0, 1, 2), "strides": (2, 2)}),
    "of channels": ((1, 8, 8, 10), (5, 5), "uint8", "uint8", 3, range(10), {"pads": (2, 2, 2, 2)}),
    "that are data, dilated": ((1, 8, 8, 7), (3, 3), "uint8", "int8", "data", 2, {"pads": (2, 2, 2, 2), "dilations": (2, 2)}),
    "none, two results of a channel": ((1, 6, 6, 4), (3, 3), "int8", "int8", None, None, {"multiplier": 2}),
    "a large kernel": ((1, 9, 9, 8), (7, 7), "int8", "int8", -128, None, {"pads": (3, 3, 3, 3)}),
}


@pytest.mark.parametrize("case", INTEGERS)
def test_codes_are_summed_exactly(agrees, case):
    *arguments, attributes = INTEGERS[case]
    sliding(agrees(integers(*arguments, **attributes), tolerance=0))


POOLS: dict[str, tuple[str, Sequence[int], Sequence[int], str, dict[str, Any]]] = {
    "largest": ("MaxPool", (2, 11, 9, 16), (3, 3), "float16", {"strides": (2, 2), "pads": (1, 1, 1, 1)}),
    "largest of bfloat16": ("MaxPool", (1, 7, 6, 8), (2, 2), "bfloat16", {"strides": (2, 2)}),
    "means of bfloat16": ("AveragePool", (1, 7, 6, 6), (3, 3), "bfloat16", {"strides": (2, 2), "pads": (1, 1, 1, 1)}),
    "largest code": ("MaxPool", (1, 9, 9, 12), (3, 3), "int8", {"strides": (2, 2), "ceil_mode": True, "pads": (1, 1, 1, 1)}),
    "largest unsigned code": ("MaxPool", (1, 9, 9, 5), (3, 3), "uint8", {"pads": (1, 1, 1, 1)}),
    "largest of many": ("MaxPool", (1, 16, 16, 4), (13, 13), "float32", {"pads": (6, 6, 6, 6)}),
    "means": ("AveragePool", (1, 9, 8, 12), (3, 3), "float32", {"strides": (2, 2), "pads": (1, 1, 1, 1), "ceil_mode": True}),
    "means with the padding": ("AveragePool", (1, 9, 8, 8), (2, 3), "float16", {"pads": (1, 1, 0, 1), "count_include_pad": True}),
    "means of one axis": ("AveragePool", (2, 17, 8), (3,), "float32", {"pads": (1, 1), "dilations": (2,)}),
}


@pytest.mark.parametrize("case", POOLS)
def test_pools(agrees, case):
    name, shape, kernel, kind, attributes = POOLS[case]
    sliding(agrees(pool(name, shape, kernel, kind, **attributes), tolerance=TOLERANCE.get(kind, 0) if name == "AveragePool" else 0))


def test_pools_of_bfloat16_of_other_forms_are_right(agrees):
    graph = parse_graph("graph @net(%x: bfloat16[1,3,5,5,6], %z: bfloat16[2,4,5,8]) {\n  return %x\n}\n")
    b, cube = Builder(graph), {"kernel_shape": (2, 2, 2), "strides": (1, 1, 1), "pads": (0,) * 6, "dilations": (1, 1, 1)}
    whole = {"kernel_shape": (4, 5), "strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1), "layout": "NHWC"}
    graph.set_outputs([b.MaxPool(graph.inputs[0], **cube), b.AveragePool(graph.inputs[1], **whole)])
    agrees(graph, tolerance=1e-2)


def test_nan_is_the_largest(agrees):
    x = RNG.standard_normal((1, 6, 6, 4)).astype(np.float32)
    x[0, 2, 3, 1], x[0, 0, 0, 2] = np.nan, -np.inf
    model = agrees(pool("MaxPool", x.shape, (3, 3), pads=(1, 1, 1, 1)))
    graph = pool("MaxPool", x.shape, (3, 3), pads=(1, 1, 1, 1))
    [expected] = lc.evaluate(graph, {"x": x}).values()
    np.testing.assert_array_equal(next(iter(model.run({"x": x}).values())), expected)
    assert np.isnan(expected).sum() == 9


@pytest.mark.parametrize("bits", [8, 4])
def test_weights_of_few_bits_are_numbers_in_the_kernel(make, gpu, bits):
    graph = depthwise((1, 9, 10, 64), (3, 3), pads=(1, 1, 1, 1))
    model, x = make(graph, level=3, quantize=f"w{bits}"), values((1, 9, 10, 64), "float32")
    quantized = lc.optimize(graph, level=2, target="cuda", passes=f"quantize{{scheme=w{bits}}}")
    assert any(node.op.name == "DequantizeLinear" for node in quantized.walk())
    (found,), (wanted,) = model.run({"x": x}).values(), lc.evaluate(quantized, {"x": x}).values()
    assert not gpu.faults and np.abs(found - wanted).max() <= 1e-6 * np.ptp(wanted)
    sliding(model)


def test_what_follows_is_part_of_the_kernel(agrees):
    graph = parse_graph("graph @net(%x: float32[2,7,6,8], %r: float32[2,7,6,8], %s: float32[2,1,1,8]) {\n  return %x\n}\n")
    b, (x, r, s) = Builder(graph), graph.inputs
    given = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1), "groups": 8, "layout": "NHWC"}
    y = b.Conv(x, b.constant(values((8, 1, 3, 3), "float32")), None, **given)
    graph.set_outputs([b.Sigmoid(b.Add(b.Mul(y, s), r))])
    sliding(agrees(graph))


def windows(images: int, size: int, channels: int, kernel: int = 3) -> Windows:
    pads = kernel // 2, kernel // 2
    return Windows("products", "float16", 2, images, size, size, channels, 1, size, size, (kernel, kernel), (1, 1), (1, 1), pads)


def threads(share: Share, layer: Windows) -> int:
    return layer.images * share.blocks(layer) * share.threads


GPU = (GPUS["sm_90"],)


def test_threads_have_more_where_there_is_more():
    large, small = windows(32, 112, 32), windows(1, 7, 960)
    many, few = choose.choose(large, GPU), choose.choose(small, GPU)
    assert many.columns * many.rows >= 8 and few.columns * few.rows <= 2
    assert threads(few, small) >= GPU[0].processors * 64 and threads(many, large) >= GPU[0].processors * 512


@pytest.mark.parametrize("layer", [windows(1, 7, 960), windows(4, 14, 37, 5), windows(2, 28, 240, 7), windows(1, 1, 3, 1)])
def test_shares_fit(layer):
    for share in choose.shares(layer):
        assert layer.channels % share.vector == 0 and share.vector * layer.bytes <= 16 and share.threads <= 256
        assert share.rows == 1 or choose.holds(layer, share.vector)
    chosen = choose.choose(layer, GPU)
    assert choose.work_of(layer, chosen).registers <= choose.REGISTERS and chosen in list(choose.shares(layer))


def test_tuning_chooses_shares():
    layer = replace(windows(1, 9, 8), width=10, out_width=10, element="float32", bytes=4)
    choices = choose.alternatives(layer, GPU, 12)
    assert len(set(choices)) == 12 and Choice() not in choices
    for choice in choices[::5]:
        share = choose.share_of(layer, choice, GPU)
        assert (share.vector, share.columns, share.rows) == (choice.neighbours, choice.pixels, choice.rows)
    with pytest.raises(UsageError, match="no windows with pixels 9, neighbours 4 fit the kernel"):
        choose.share_of(layer, Choice(neighbours=4, pixels=9), GPU)


SHARED: dict[str, tuple[Graph, list[Choice]]] = {
    "halves": (
        depthwise((2, 9, 11, 16), (3, 3), "float16", pads=(1, 1, 1, 1)),
        [Choice(neighbours=v, pixels=c, rows=r) for v, c, r in ((8, 4, 1), (8, 1, 1), (4, 4, 2), (2, 8, 4), (1, 3, 3))],
    ),
    "strided halves": (
        depthwise((1, 12, 13, 8), (5, 5), "float16", pads=(2, 2, 1, 2), strides=(2, 2)),
        [Choice(neighbours=v, pixels=c, rows=r) for v, c, r in ((8, 4, 1), (4, 2, 3), (2, 5, 2))],
    ),
    "codes": (
        integers((1, 10, 9, 16), (3, 3), "uint8", "int8", 131, 3, pads=(1, 1, 1, 1)),
        [Choice(neighbours=v, pixels=c, rows=r) for v, c, r in ((8, 4, 1), (4, 3, 2), (1, 2, 4))],
    ),
    "pools": (
        pool("MaxPool", (1, 11, 12, 8), (3, 3), strides=(2, 2), pads=(1, 1, 1, 1)),
        [Choice(neighbours=v, pixels=c, rows=r) for v, c, r in ((4, 2, 2), (2, 6, 4), (4, 1, 1))],
    ),
}


@pytest.mark.skipif(bool(available()), reason="no emulator")
@pytest.mark.parametrize("case", SHARED)
def test_all_shares_have_the_same_results(case):
    graph, choices = SHARED[case]
    x = values(graph.inputs[0].type.static_shape, graph.inputs[0].type.dtype.name)
    [node] = (n for n in graph if n.op.name in ("Conv", "ConvInteger", "MaxPool"))
    [expected] = node.op.evaluate(x, *(None if v is None else v.numpy() for v in node.inputs[1:]))
    spec, constants = spec_of(node, gpu=True), [v for v in node.present_inputs if v.type.size > 1]
    for choice in choices:
        kernel = compile_spec("", replace(spec, choice=choice), parse_target("cuda:sm_80"))
        arrays = {k: v.numpy() for k, v in enumerate(constants) if k}
        found = np.zeros(expected.shape, expected.dtype)
        given = []
        for p in kernel.parameters:
            array = found if p.kind == "output" else x if p.index == 0 else arrays[p.index]
            given.append(array if p.packed is None else PACKINGS[p.packed.function](array, *p.packed.arguments))
        assert f"VECTOR = {choice.neighbours}, COLUMNS = {choice.pixels}, ROWS = {choice.rows}," in kernel.object.decode()
        for launch in kernel.launches:
            run(unit([kernel]), launch.symbol, launch.grid, launch.block, launch.shared_bytes, [given[k] for k in launch.arguments])
        error = np.abs(found.astype(np.float32) - expected.astype(np.float32)).max()
        assert error <= (2e-3 * float(np.abs(expected).max()) if case.endswith("halves") else 0)


COMPILED: dict[str, tuple[Graph, Choice, str]] = {
    "eight halves": (depthwise((1, 9, 8, 16), (3, 3), "float16", pads=(1, 1, 1, 1)), Choice(neighbours=8, pixels=4, rows=1), "v4.u32"),
    "a half": (depthwise((1, 9, 8, 5), (3, 3), "float16", pads=(1, 1, 1, 1)), Choice(neighbours=1, pixels=3, rows=2), "u16"),
    "eight bfloat16": (depthwise((1, 9, 8, 16), (7, 7), "bfloat16"), Choice(neighbours=8, pixels=2, rows=1), "v4.u32"),
    "four floats": (depthwise((1, 9, 8, 16), (3, 3), strides=(2, 2)), Choice(neighbours=4, pixels=2, rows=2), "v4.u32"),
    "eight codes": (integers((1, 9, 9, 16), (3, 3), "uint8", "uint8", 3, 5), Choice(neighbours=8, pixels=2, rows=2), "v2.u32"),
    "a code": (integers((1, 9, 9, 7), (3, 3), "int8", "int8", 3, None), Choice(neighbours=1, pixels=2, rows=2), "u8"),
    "largest floats": (pool("MaxPool", (1, 9, 9, 8), (3, 3), pads=(1, 1, 1, 1)), Choice(neighbours=4, pixels=2, rows=2), "v4.u32"),
    "largest codes": (pool("MaxPool", (1, 9, 9, 8), (3, 3), "int8"), Choice(neighbours=8, pixels=2, rows=2), "v2.u32"),
    "means of halves": (pool("AveragePool", (1, 9, 9, 8), (3, 3), "float16"), Choice(neighbours=8, pixels=2, rows=2), "v4.u32"),
}


def test_windows_that_registers_do_not_hold_are_rows():
    found = {
        taps: find_layer(spec_of(next(n for n in depthwise((1, 400, 1), (taps,)) if n.op.name == "Conv"), gpu=True)) for taps in (31, 256)
    }
    assert found[31] is not None and found[256] is None


def test_a_vector_is_one_load_and_nothing_lies_in_local_memory():
    try:
        compiler = find_compiler()
    except MissingDependency as error:
        pytest.skip(str(error))
    target, kernels = parse_target("cuda:sm_80"), []
    for graph, choice, _ in COMPILED.values():
        node = next(n for n in graph if n.op.name in ("Conv", "ConvInteger", "MaxPool", "AveragePool"))
        kernels.append(compile_spec("", replace(spec_of(node, gpu=True), choice=choice), target))
    functions = compiler.compile(unit(kernels), "sm_80").ptx.decode().split(".entry ")[1:]
    texts = {text.partition("(")[0].strip(): text for text in functions}
    for (case, (_, _, load)), kernel in zip(COMPILED.items(), kernels, strict=True):
        text = texts[kernel.launches[0].symbol]
        assert re.search(rf"ld\.global(\.nc)?\.{load}", text), case
        assert "__local_depot" not in text, case
